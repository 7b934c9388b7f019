"""``SHOP_DATABASE`` is the URL of the database, ``SHOP_SETTINGS`` is JSON of settings that replace these."""

from __future__ import annotations

import json
import os
from typing import Any

from sqlalchemy import make_url

_url = make_url(os.environ["SHOP_DATABASE"])
_engines = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}

if _url.get_backend_name() == "mysql":
    import pymysql  # type: ignore[import-untyped]

    pymysql.version_info = (2, 2, 1, "final", 0)  # Django asks for a recent mysqlclient
    pymysql.install_as_MySQLdb()

DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": f"django.db.backends.{_engines[_url.get_backend_name()]}",
        "NAME": _url.database,
        "USER": _url.username or "",
        "PASSWORD": _url.password or "",
        "HOST": _url.host or "",
        "PORT": str(_url.port or ""),
        "OPTIONS": dict(_url.query),
    }
}
SECRET_KEY = "a key of the tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "celery_durable.contrib.django",
    "tests.contrib.django_shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
ROOT_URLCONF = "tests.contrib.django_shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CELERY_BROKER_URL = "memory://"
CELERY_TASK_ALWAYS_EAGER = True

globals().update(json.loads(os.environ.get("SHOP_SETTINGS", "{}")))
