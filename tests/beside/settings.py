"""A Django project with django-celery-beat and django-celery-results beside us, configured by the environment."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import make_url

_url = make_url(os.environ["BESIDE_DATABASE"])

DATABASES: dict[str, Any] = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.database,
        "USER": _url.username or "",
        "PASSWORD": _url.password or "",
        "HOST": _url.host or "",
        "PORT": str(_url.port or ""),
        "OPTIONS": dict(_url.query),
    }
}
SECRET_KEY = "a key of the tests"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_celery_beat",
    "django_celery_results",
    "celery_durable.contrib.django",
]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True

CELERY_BROKER_URL = os.environ["BESIDE_REDIS"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXTENDED = True
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
CELERY_REDBEAT_REDIS_URL = os.environ["BESIDE_REDIS"]
CELERY_REDBEAT_LOCK_TIMEOUT = 5
