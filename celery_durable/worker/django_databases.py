"""Django's databases, as SQLAlchemy has to be told of them, and which of them is the durable one.

Whatever driver Django uses: our statements are handed to its cursor as text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from ..errors import ConfigurationError
from .same_database import is_ours, same_database

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = [
    "django_alias",
    "django_db",
    "execute_in_django",
    "in_djangos_tests",
    "is_durable",
    "is_installed",
    "url_of",
    "with_django",
]

_APP = "celery_durable.contrib.django"
"""What INSTALLED_APPS has where a project uses the integration."""
_SCHEME = "django:"
_VENDORS = ("postgresql", "mysql", "sqlite")
_DJANGOS_OWN = {
    "pool",
    "isolation_level",
    "assume_role",
    "server_side_binding",
    "init_command",
    "sql_mode",
    "ssl",
}
"""Options that Django itself acts on, or that no URL can hold."""


def django_db() -> Any:
    """Django's ``db`` module, in a process that uses Django."""
    if "django" not in sys.modules:
        raise ConfigurationError(
            "this follows Django's transactions, and this process does not use Django. With SQLAlchemy: "
            "apply_async(..., session=session) or emit(..., session=session)"
        )
    import django.db

    return django.db


def is_installed() -> bool:
    """Whether this is a Django project that has our app among its own."""
    if "django" not in sys.modules:
        return False
    from django.conf import settings

    return settings.configured and any(str(app).startswith(_APP) for app in settings.INSTALLED_APPS)


def in_djangos_tests() -> bool:
    """Whether Django's test environment is set up, by whatever runner: it drops its databases at the end, which nobody
    may be connected to then."""
    mail = sys.modules.get("django.core.mail")
    return is_installed() and hasattr(mail, "outbox")


# -- Which one is the durable one


def with_django(get: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """A configuration in which ``django:<alias>`` stands for that database's URL, and where our app is installed and
    nothing else is said, Django's default database is the durable one."""

    def resolved(name: str, default: Any) -> Any:
        if name != "durable_database_url":
            return get(name, default)
        given = get(name, None)
        if given is None:
            given = f"{_SCHEME}default" if is_installed() else default
        if isinstance(given, str) and given.startswith(_SCHEME):
            return _url_of_alias(given.removeprefix(_SCHEME))
        return given

    return resolved


def _url_of_alias(alias: str) -> str:
    connections = django_db().connections
    if alias not in connections:
        known = ", ".join(connections)
        raise ConfigurationError(
            f"durable_database_url is 'django:{alias}', and DATABASES has no {alias!r}: there is {known}"
        )
    return url_of(connections[alias]).render_as_string(hide_password=False)


def django_alias(url: str) -> str | None:
    """The Django database that a URL leads to, judged by its name."""
    connections = django_db().connections
    for alias in connections:
        if same_database(url_of(connections[alias]), url):
            return str(alias)
    return None


def is_durable(store: Store, connection: Any) -> bool:
    """Whether a Django connection is on the durable database, by its name or by the mark that is there."""
    url = url_of(connection)
    if connection.vendor != store.dialect.name:
        return False
    return same_database(url, store.engine.url) or is_ours(
        store,
        url,
        partial(django_db().transaction.atomic, using=connection.alias),
        partial(execute_in_django, store, connection),
    )


def url_of(connection: Any) -> URL:
    """A Django connection's database as SQLAlchemy writes it, with the driver that Django has."""
    settings, vendor = connection.settings_dict, connection.vendor
    if vendor not in _VENDORS:
        return URL.create(vendor, database=str(settings.get("NAME") or ""))
    options = {
        name: str(value)
        for name, value in (settings.get("OPTIONS") or {}).items()
        if name not in _DJANGOS_OWN and isinstance(value, (str, int)) and not isinstance(value, bool)
    }
    if vendor == "sqlite":
        return _sqlite_url(str(settings.get("NAME") or ""))
    host = str(settings.get("HOST") or "") or None
    if host is not None and host.startswith("/"):
        options["unix_socket" if vendor == "mysql" else "host"] = host
        host = None
    if vendor == "mysql":
        options.setdefault("charset", "utf8mb4")
    return URL.create(
        f"{vendor}+{_driver(connection)}",
        settings.get("USER") or None,
        settings.get("PASSWORD") or None,
        host,
        int(settings["PORT"]) if settings.get("PORT") else None,
        str(settings.get("NAME") or "") or None,
        options,
    )


def _sqlite_url(name: str) -> URL:
    if not name.startswith("file:"):
        return URL.create("sqlite", database=name)
    place, _, query = name.partition("?")
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    return URL.create("sqlite", database=place, query=options | {"uri": "true"})


def _driver(connection: Any) -> str:
    if connection.vendor == "mysql":
        # Which PyMySQL can pass itself off as.
        return "pymysql" if connection.Database.__name__ == "pymysql" else "mysqldb"
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return "psycopg" if is_psycopg3 else "psycopg2"


# -- Statements of ours on a Django connection


def execute_in_django(store: Store, connection: Any, statement: Any, values: Any) -> _Rows:
    """Do a statement on a Django connection; with a list of values, once for each."""
    dialect = import_module(f"sqlalchemy.dialects.{store.dialect.name}").dialect(paramstyle="format")
    compiled = statement.compile(dialect=dialect)
    cursor = connection.cursor()
    for given in values if isinstance(values, list) else [values]:
        cursor.execute(str(compiled), _parameters(compiled, given))
    return _Rows(cursor)


def _parameters(compiled: Any, values: Any) -> list[Any]:
    given, processors = compiled.construct_params(values), compiled._bind_processors
    # What the payload codec does, among others.
    return [processors[name](given[name]) if name in processors else given[name] for name in compiled.positiontup or ()]


class _Rows:
    """A cursor, with the few things that the store asks of a SQLAlchemy result."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.rowcount: int = cursor.rowcount

    def first(self) -> Any:
        row = self._cursor.fetchone()
        self._cursor.close()
        return row

    def scalar(self) -> Any:
        row = self.first()
        return None if row is None else row[0]
