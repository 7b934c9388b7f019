"""A database as an earlier version left it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from celery_durable.store.schema import KNOWN, upgrade
from celery_durable.store.store import Store

__all__ = ["VERSIONS", "made_at", "with_rows"]

FOLDER = Path(__file__).parent
VERSIONS = sorted(path.stem for path in (FOLDER / "rows").glob("*.json"))
"""The versions of the schema whose rows are kept. 0004 and 0005 were never without 0006."""


def made_at(store: Store, version: str) -> None:
    """The tables of a version, in an empty database."""
    assert version in KNOWN
    with store.engine.connect() as connection:
        upgrade(connection, store.prefix, version)


def with_rows(store: Store, version: str) -> dict[str, list[dict[str, Any]]]:
    """The same with the rows that its package has written."""
    made_at(store, version)
    rows: dict[str, list[dict[str, Any]]] = json.loads((FOLDER / "rows" / f"{version}.json").read_text())
    with store.engine.begin() as connection:
        for name, some in rows.items():
            if some:
                connection.execute(getattr(store.tables, name).insert(), some)
    return rows
