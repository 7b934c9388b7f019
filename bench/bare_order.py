"""An order of four steps as an ordinary Celery task that has the bare driver write what ours writes on PostgreSQL: as
many statements and commits, as fenced, in two tables without anything else. What ours takes beside it is ours alone.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from celery import Celery
from celery.result import AsyncResult
from sqlalchemy import make_url

from bench.order_steps import ORDER

__all__ = ["bare_order", "start_bare", "tables"]

_RUNS = (
    "CREATE TABLE {run} "
    "(id varchar(255) PRIMARY KEY, status text, token bigint, arguments text, result text, lease timestamptz)"
)
_STEPS = (
    "CREATE TABLE {step} "
    "(run varchar(255), id varchar(255), position int, result text, at timestamptz, PRIMARY KEY (run, id))"
)
_START = "INSERT INTO {run} VALUES (%s, 'pending', 0, %s, NULL, now())"
_CLAIM = (
    "UPDATE {run} SET status = 'running', token = %s, lease = now() WHERE id = %s AND status = 'pending' "
    "RETURNING arguments, set_config('synchronous_commit', 'off', true)"
)
_STEP = (
    "WITH own AS (UPDATE {run} SET lease = now() WHERE id = %s AND token = %s AND status = 'running' RETURNING id) "
    "INSERT INTO {step} SELECT id, %s, %s, %s, now() FROM own"
)
_END = "UPDATE {run} SET status = 'completed', result = %s, lease = now() WHERE id = %s AND token = %s"


@cache
def _connected(url: str) -> psycopg.Connection[Any]:
    """The connection of this process."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def _execute(app: Celery, statement: str, *values: Any) -> psycopg.Cursor[Any]:
    names = {name: f"{app.conf.durable_table_prefix}bare_{name}" for name in ("run", "step")}
    found = _connected(app.conf.durable_database_url).execute(statement.format(**names), values or None)
    assert found.rowcount in (1, -1), statement
    return found


@contextmanager
def tables(app: Celery) -> Iterator[None]:
    """The two tables, while they are needed."""
    for statement in (_RUNS, _STEPS):
        _execute(app, statement)
    try:
        yield
    finally:
        _execute(app, "DROP TABLE {run}, {step}")


def bare_order(task: Any, run_id: str) -> Any:
    """The task."""
    app, token = task.app, secrets.randbits(62)
    (number,) = json.loads(_execute(app, _CLAIM, token, run_id).fetchone()[0])  # type: ignore[index]
    state = {"order": number}
    for position, function in enumerate(ORDER):
        state = function(state)
        _execute(app, _STEP, run_id, token, function.__name__, position, json.dumps(state))
    _execute(app, _END, json.dumps(state), run_id, token)
    return state


def start_bare(task: Any, number: int) -> AsyncResult[Any]:
    """Record an order, and send its task."""
    run_id = uuid.uuid4().hex
    _execute(task.app, _START, run_id, json.dumps([number]))
    result: AsyncResult[Any] = task.apply_async((run_id,), task_id=run_id)
    return result
