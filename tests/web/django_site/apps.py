"""The signals of models that are events."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_save

from celery_durable import connect


class SiteConfig(AppConfig):
    name = "tests.web.django_site"

    def ready(self) -> None:
        from .models import Thing

        connect(
            post_save,
            "thing.saved",
            sender=Thing,
            key=lambda sender, instance, **_: instance.name,
            payload=lambda sender, instance, created, **_: {"id": instance.pk, "created": created},
        )
