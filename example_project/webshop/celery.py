"""The one Celery app: the worker, the Django site and the Flask storefront load it. Its settings are Django's."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.webshop.settings")

app = Celery("webshop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["example_project.webshop"], related_name="workflows")
