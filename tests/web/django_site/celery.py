"""The Celery app, configured by Django's settings."""

from __future__ import annotations

from celery import Celery

from tests.web.work import declare

app = Celery("django_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
tasks = declare(app)
app.autodiscover_tasks()
