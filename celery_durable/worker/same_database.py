"""Whether two ways lead to one database: by their names, or by the mark that a store leaves in its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, make_url

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = ["is_ours", "same_database"]

_known: dict[tuple[str, str], bool] = {}


def is_ours(
    store: Store, url: URL, savepoint: Callable[[], AbstractContextManager[Any]], execute: Callable[..., Any]
) -> bool:
    """Whether a connection finds the mark that this store has left in its own database."""
    pair = (str(store.engine.url), str(url))
    if pair not in _known:
        with store.link() as link:
            mark = store.identity(link)
        try:
            with savepoint():
                _known[pair] = execute(store.statements.marked, {}).scalar() == mark
        except Exception:  # it has no such table: SQLAlchemy's error, or Django's
            return False
    return _known[pair]


_LOOPBACK = {None, "", "localhost", "127.0.0.1", "::1"}
_PORTS = {"postgresql": 5432, "mysql": 3306}


def same_database(one: URL | str, other: URL | str) -> bool:
    """Whether two URLs lead to one database, by whatever drivers."""
    return _place(make_url(one)) == _place(make_url(other)) is not None


def _place(url: URL) -> tuple[Any, ...] | None:
    kind = url.get_backend_name().replace("mariadb", "mysql")
    if kind == "sqlite":
        if "cache=shared" in str(url):
            return kind, url.database  # one for this process, by its name
        if not url.database or url.database == ":memory:" or "mode=memory" in str(url):
            return None  # each engine has its own
        return kind, str(Path(url.database.removeprefix("file:")).resolve())
    host = url.host or url.query.get("host") or url.query.get("unix_socket")
    # The options of a PostgreSQL connection may name another schema in which its tables are.
    options = url.query.get("options")
    return kind, "localhost" if host in _LOOPBACK else host, url.port or _PORTS.get(kind), url.database, options
