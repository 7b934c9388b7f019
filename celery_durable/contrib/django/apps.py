"""``INSTALLED_APPS = [..., "celery_durable.contrib.django"]``."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["DurableConfig"]


class DurableConfig(AppConfig):
    """The durable tables by ``manage.py migrate``, what is wrong by ``manage.py check``, the runs in the admin."""

    name = "celery_durable.contrib.django"
    label = "celery_durable"
    verbose_name = "Durable runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (they register themselves)
