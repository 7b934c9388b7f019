"""Ways in which a row is damaged: by hand, by a backup that cut it, by somebody who means harm."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_

from celery_durable.store.store import Store

__all__ = ["DAMAGES", "UNREADABLE", "damage"]

DAMAGES = {
    "cut": '[[1,2],{"a',
    "empty": "",
    "no JSON": "<html>",
    "another kind": "17",
    "null": "null",
    "an unknown tag": '{"$":"pickle","v":"gASVAAA="}',
    "a wrong value of a tag": '[[{"$":"decimal","v":[]}],{}]',
    "deep": "[" * 20_000,
    "many digits": "9" * 5_000,
    "an object": '{"a":1}',
    "nested wrongly": '[[1],{"1":{"$":"set","v":[[]]}}]',
}
UNREADABLE = ("cut", "empty", "an unknown tag", "deep")
"""Those that are no value whatever was there."""


def damage(store: Store, table: str, column: str, text: str, **where: Any) -> None:
    """Put a text into a column of the rows that have these values."""
    of = getattr(store.tables, table)
    with store.engine.begin() as connection:
        wanted = and_(*(of.c[name] == value for name, value in where.items()))
        changed = connection.execute(of.update().where(wanted).values({column: text}))
    assert changed.rowcount, f"there is no such row in {table}"
