"""Django's settings, and Celery's under CELERY_. Where the other parts are comes from the environment.

The defaults are for one machine. ``make example`` and ``docker-compose.yml`` set what they need.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import make_url


def env(name: str, default: str) -> str:
    return os.environ.get(f"SHOP_{name}") or default


def django_database(url: str) -> dict[str, Any]:
    """A SQLAlchemy URL as an entry of DATABASES: Flask has the one, Django the other, and both mean one database."""
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.database, "OPTIONS": {"timeout": 20}}
    return {
        "ENGINE": f"django.db.backends.{parts.get_backend_name()}",
        "NAME": parts.database,
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.host or "",
        "PORT": str(parts.port or ""),
        "OPTIONS": dict(parts.query),
    }


# -- The shop's own

DATABASE_URL = env("DATABASE_URL", f"sqlite:///{Path('webshop.db').resolve()}")
SITE_URL = env("SITE_URL", "http://127.0.0.1:8000")  # Django, as the links in mails name it
PAYMENTS_URL = env("PAYMENTS_URL", "http://127.0.0.1:8002")
STAFF_PASSWORD = env("STAFF_PASSWORD", "")  # of "staff", in the admin and in Flask's console; without one nobody is
DAY = timedelta(seconds=float(env("DAY_SECONDS", "86400")))  # to try three days in half a minute
MANAGER = "manager@shop.example"

# -- Django

DATABASES = {"default": django_database(DATABASE_URL)}
SECRET_KEY = env("SECRET_KEY", "for this machine only")
DEBUG = env("DEBUG", "1") == "1"
ALLOWED_HOSTS = env("HOSTS", "127.0.0.1,localhost").split(",")
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "celery_durable.contrib.django",
    "example_project.webshop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
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
ROOT_URLCONF = "example_project.webshop.urls"
STATIC_URL = "/static/"
LOGIN_URL = "admin:login"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
EMAIL_HOST, _, _port = env("SMTP", "127.0.0.1:8004").partition(":")
EMAIL_PORT = int(_port)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = "shop@shop.example"

# -- Celery. The durable database is Django's default one: nothing to set.

CELERY_BROKER_URL = env("BROKER_URL", "redis://127.0.0.1:6379/0")
if CELERY_BROKER_URL.startswith("redis"):
    CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": env("REDIS_PREFIX", "webshop:")}
CELERY_TASK_IGNORE_RESULT = True  # what a run has come to is in the database
CELERY_DURABLE_LEASE = env("LEASE", "30s")  # how long the runs of a killed worker wait
CELERY_DURABLE_CONSOLE_TOKENS = {"staff": STAFF_PASSWORD} if STAFF_PASSWORD else {}
CELERY_DURABLE_DOOR_SECRETS = [secret for secret in [env("WEBHOOK_SECRET", "")] if secret]
