"""What a migration may do, so that workers of the version before go on with the tables of this one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import event, inspect

from celery_durable import ConfigurationError
from celery_durable.store import schema
from celery_durable.store.store import Store

from .old import made_at

ADDS = (
    r"CREATE TABLE ",
    r"CREATE INDEX ",
    r"ALTER TABLE \S+ ADD COLUMN (?!.* NOT NULL)",
    r"(INSERT INTO|UPDATE|DELETE FROM) \S*(alembic_version|lease)\b",
    r"(SELECT|SHOW|PRAGMA|BEGIN|COMMIT|DESCRIBE|WITH) ?",
)
"""All that one of the same first digit may do. What is said of tables that it makes itself is its own affair."""


def test_a_migration_only_adds(database_url: str) -> None:
    store = Store(database_url)
    first, *others = schema.KNOWN
    made_at(store, first)
    told: list[str] = []
    event.listen(
        store.engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, *more: told.append(" ".join(statement.replace("`", "").split())),
    )
    for version in others:
        with store.engine.connect() as connection:
            before = set(inspect(connection).get_table_names())
            told.clear()
            schema.upgrade(connection, store.prefix, version)
        if version[:1] == first[:1]:
            wrong = [statement for statement in told if not _adds(statement, before, told)]
            assert not wrong, f"{version} does more than add: give it a version that begins with another digit"
    store.engine.dispose()


def _adds(statement: str, before: set[str], told: list[str]) -> bool:
    dropped = re.match(r"DROP INDEX (\S+)", statement)
    if dropped:  # for one of the same name: another way to what is there
        return any(re.match(rf"CREATE INDEX {dropped[1]} ", other) for other in told)
    unique = re.match(r"CREATE UNIQUE INDEX \S+ ON (\S+)", statement)
    if unique:
        return unique[1] not in before
    return any(re.match(pattern, statement) for pattern in ADDS)


@pytest.mark.parametrize(
    ("statement", "adds"),
    [
        ("ALTER TABLE durable_run ADD COLUMN x INTEGER", True),
        ("ALTER TABLE durable_run ADD COLUMN x INTEGER NOT NULL", False),
        ("ALTER TABLE durable_run ADD COLUMN x INTEGER NOT NULL DEFAULT 0", False),
        ("ALTER TABLE durable_run DROP COLUMN x", False),
        ("ALTER TABLE durable_run ALTER COLUMN x SET NOT NULL", False),
        ("CREATE UNIQUE INDEX i ON durable_run (x)", False),
        ("CREATE UNIQUE INDEX i ON durable_new (x)", True),
        ("DROP INDEX i", False),
        ("DROP TABLE durable_run", False),
        ("UPDATE durable_run SET x = 1", False),
    ],
)
def test_what_adds(statement: str, adds: bool) -> None:
    assert _adds(statement, {"durable_run"}, [statement]) is adds


def test_a_worker_of_the_version_before_works_on_a_schema_that_only_adds(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'durable.db'}")
    store.migrate()
    _stamp(store, "0999")
    store.check_schema()
    assert store.migrate() is False
    assert store.schema_state() == "newer"
    _stamp(store, "1000")
    for refused in (store.check_schema, store.migrate):
        with pytest.raises(ConfigurationError, match="made by a newer celery_durable"):
            refused()
    store.engine.dispose()


def _stamp(store: Store, version: str) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE durable_alembic_version SET version_num = '{version}'")
