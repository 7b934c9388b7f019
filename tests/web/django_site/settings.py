"""Django's settings, by the environment.

``WEB_DATABASES`` says which databases Django has: the durable one (if nothing is said), the same at another port
(``proxied``), another one (``elsewhere``), or another one by default and the durable one besides (``both``).
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import make_url

from tests.web.work import DATABASE, OTHER_DATABASE, celery_config

_url = make_url(DATABASE)
_durable: dict[str, Any] = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": _url.database,
    "USER": _url.username or "",
    "PASSWORD": _url.password or "",
    "HOST": _url.host or "",
    "PORT": str(_url.port or ""),
    "OPTIONS": dict(_url.query),
}
_other: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": OTHER_DATABASE}

DATABASES: dict[str, Any] = {
    "": {"default": _durable},
    "proxied": {"default": _durable | {"HOST": "127.0.0.1", "PORT": os.environ.get("WEB_PROXY_PORT")}},
    "elsewhere": {"default": _other},
    "both": {"default": _other, "second": _durable},
}[os.environ.get("WEB_DATABASES", "")]

DEBUG = False
SECRET_KEY = "a key of the tests"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["tests.web.django_site"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "tests.web.django_site.urls"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True

# CELERY_BROKER_URL, CELERY_DURABLE_DATABASE_URL and so on.
globals().update({f"CELERY_{name.upper()}": value for name, value in celery_config().items()})
if os.environ.get("WEB_NAMES_ITS_APP"):
    CELERY_DURABLE_APP = "tests.web.django_site"
