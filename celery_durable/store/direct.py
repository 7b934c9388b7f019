"""A statement's way to PostgreSQL beneath psycopg's cursor.

For each statement the cursor finds out anew what it is: it takes the text apart, asks for each value how it is written,
looks the text up among those it has prepared, and makes itself ready for results of any kind. That takes about as long
as all else that a process does for a step's record. What is executed here is always the same few texts with numbers and
strings, so all of that is known after the first times.

It is the driver all the same that talks to the server and waits for it, so what it does about signals, green threads
and lost connections it does here too. And it does the whole, as ever, where anything is out of the ordinary: another
kind of value, a connection or a cursor of somebody else's, as those have that trace statements, or a text that has not
been executed often enough to be prepared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from sqlalchemy import Connection

__all__ = ["Channel", "Direct", "channel_of", "directly"]

_MOST_PREPARED = 200
"""Statements of one connection that are kept prepared: those with lists have a text for each number of values."""
_TUPLES = 2
"""The status of a result that has rows; less is one without them, more is none at all."""
_IDLE = 0
"""The status of a connection that is in no transaction."""
_KEPT = "celery_durable: what goes beneath the cursor"
_PARTS = re.compile(r"%(?:\((\w+)\)s|(%))")
_UNTOLD = re.compile(r"%\(\w+\)s(?!::)")


class Direct(NamedTuple):
    """A text as PostgreSQL itself takes it, and the names of its values in their order."""

    text: bytes
    names: tuple[str, ...]


def directly(driver: str, text: str) -> Direct | None:
    """The text for the server of one for psycopg. ``None`` for other drivers; and where it does not say of each value
    what it is, as then the server has to be told by who sends it."""
    if driver != "psycopg" or _UNTOLD.search(text):
        return None
    places: dict[str, int] = {}

    def number(part: re.Match[str]) -> str:
        return "%" if part[2] else f"${places.setdefault(part[1], len(places) + 1)}"

    sent = _PARTS.sub(number, text)
    return Direct(sent.encode(), tuple(places))


class Channel:
    """The statements that are prepared on one connection."""

    def __init__(self, driver: Any, threshold: int) -> None:
        self._driver = driver
        self._server = driver.pgconn
        self._threshold = threshold
        self._names: dict[bytes, bytes] = {}
        self._times: dict[bytes, int] = {}
        self._generators: Any = import_module("psycopg.generators")
        self._errors: Any = import_module("psycopg.errors")
        self._loading = import_module("psycopg.adapt").Transformer(driver)

    def execute(
        self, direct: Direct, values: Mapping[str, Any], make: Callable[[Any], Any] | None
    ) -> tuple[int, Sequence[Any]] | None:
        """The number of rows changed or given, and these, each as ``make`` makes it. ``None``: this is for a cursor."""
        written = _written(values, direct.names)
        name = self._names.get(direct.text)
        if written is None or (name is None and not self._is_worth_preparing(direct.text)):
            return None
        with self._driver.lock:
            if name is None:
                name = self._prepared(direct.text)
            self._server.send_query_prepared(name, written)
            result = self._received()
        count = result.command_tuples
        if make is None:
            return -1 if count is None else count, ()
        self._loading.set_pgresult(result)
        rows = self._loading.load_rows(0, result.ntuples, make)
        self._loading.set_pgresult(None)  # it would keep a long history
        return len(rows), rows

    def roll_back(self) -> None:
        """End a transaction without an effect. At a rollback of its own, psycopg has the server forget all that is
        prepared."""
        with self._driver.lock:
            if self._server.transaction_status != _IDLE:
                self._server.send_query(b"ROLLBACK")
                self._received()

    def _is_worth_preparing(self, text: bytes) -> bool:
        times = self._times.get(text, 0)
        if times < self._threshold:
            self._times[text] = times + 1
            return False
        return len(self._names) < _MOST_PREPARED

    def _prepared(self, text: bytes) -> bytes:
        # By its text: behind a pooler that mixes clients up, no name ever means another statement.
        name = b"durable_" + hashlib.blake2b(text, digest_size=8).hexdigest().encode()
        self._server.send_prepare(name, text)
        self._received()
        self._times.pop(text, None)
        self._names[text] = name
        return name

    def _received(self) -> Any:
        """What the server says to what was sent. Behind what a statement has given comes the error of its commit."""
        results = self._driver.wait(self._generators.execute(self._server))
        for result in results:
            if result.status > _TUPLES:
                raise self._errors.error_from_result(result, encoding="utf-8")
        return results[0]


def channel_of(connection: Connection) -> Channel | None:
    """The channel of a connection whose statements can go beneath the cursor."""
    if connection.dialect.driver != "psycopg":
        return None
    kept = connection.connection.info
    try:
        channel: Channel | None = kept[_KEPT]
    except KeyError:
        channel = kept[_KEPT] = _opened(connection.connection.driver_connection)
    return channel


def _opened(driver: Any) -> Channel | None:
    psycopg = import_module("psycopg")
    is_plain = type(driver) is psycopg.Connection and driver.cursor_factory is psycopg.Cursor
    if not is_plain or driver.prepare_threshold is None or driver.info.encoding != "utf-8":
        return None
    return Channel(driver, driver.prepare_threshold)


def _written(values: Mapping[str, Any], names: Sequence[str]) -> list[bytes | None] | None:
    """The values as the server reads them. ``None`` where one is of another kind, or can't be read."""
    written: list[bytes | None] = []
    for name in names:
        value = values[name]
        kind = type(value)
        if value is None:
            written.append(None)
        elif kind is str:
            text = value.encode()
            if b"\0" in text:
                return None
            written.append(text)
        elif kind is int:
            written.append(b"%d" % value)
        else:
            return None
    return written
