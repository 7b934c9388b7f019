"""``stats``, ``prune``, ``migrate``, ``check``."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_durable import step
from celery_durable.model import Stats
from celery_durable.testing import DurableEnv
from celery_durable.worker.task import DurableTask

from .conftest import Cli, command_line


@pytest.fixture
def some(env: DurableEnv, app: Celery) -> None:
    env.start(app.tasks["shop.order"].s(5).set(task_id="order-1"))
    env.start(app.tasks["shop.approval"].s("k1").set(task_id="waits-1"))


def test_stats(env: DurableEnv, some: None, cli: Cli, cli_json: Any) -> None:
    lines = cli("stats").stdout.splitlines()
    assert lines[0].split() == [
        "TASK", "PENDING", "RUNNING", "SUSPENDED", "PAUSED", "COMPLETED", "FAILED", "CANCELLED", "ALL",
    ]  # fmt: skip
    assert lines[1].split() == ["shop.approval", "-", "-", "1", "-", "-", "-", "-", "1"]
    assert lines[3].split() == ["all", "-", "-", "1", "-", "-", "1", "-", "2"]
    assert lines[5] == "sweeper   none: nothing wakes by time"
    assert Stats.model_validate(cli_json("stats")) == env.durable.stats()


def test_stats_of_nothing(env: DurableEnv, cli: Cli) -> None:
    assert cli("stats").stdout.startswith("No runs.\n")


def test_prune_asks(env: DurableEnv, some: None, cli: Cli, cli_json: Any) -> None:
    env.advance("3h")
    asked = cli("prune", "--older-than", "2h", given="n\n", exit_code=1)
    assert "Delete all runs that ended more than 2h ago" in asked.stderr
    assert len(env.runs) == 2
    assert cli("prune", "--older-than", "2h", given="y\n").stdout == "Deleted 1 run that ended more than 2h ago.\n"
    assert cli_json("prune", "--yes") == {"deleted": 0}
    assert env.durable.audit()[0].action == "prune"


@pytest.mark.parametrize("length", ["soon", "-1d", ""])
def test_prune_wants_a_duration(env: DurableEnv, cli: Cli, length: str) -> None:
    assert "no duration" in cli("prune", "--older-than", length, "--yes", exit_code=2).stderr


def test_check(env: DurableEnv, app: Celery, some: None, cli: Cli, cli_json: Any) -> None:
    assert cli("check").stdout == "1 run under way, 0 of which this code does not fit.\n"

    app.tasks.unregister("shop.approval")

    @app.task(shared=False, base=DurableTask, name="shop.approval")
    def approval(key: str) -> None:
        step.sleep("ask", "1h")

    result = cli("check", exit_code=1)
    assert result.stdout.startswith("waits-1  shop.approval  suspended\n    ")
    assert result.stdout.endswith("1 run under way, 1 of which this code does not fit.\n")
    assert cli_json("check", exit_code=1)["misfits"][0]["run_id"] == "waits-1"


def test_migrate(database_url: str) -> None:
    app = Celery("migrates", broker="memory://", set_as_current=False)
    app.conf.update(durable_database_url=database_url, durable_auto_migrate=False)
    assert "celery -A proj durable migrate" in command_line(app, args=("runs",), exit_code=1).stderr
    assert command_line(app, args=("migrate",)).stdout == "The durable tables are made.\n"
    assert command_line(app, args=("migrate",)).stdout == "The durable tables are up to date.\n"
    assert command_line(app, args=("migrate", "--json")).stdout == '{\n  "changed": false\n}\n'
    assert "There is no such run." in command_line(app, args=("runs",)).stderr
    app.close()


def test_a_database_that_is_away_is_told_in_a_line(app: Celery) -> None:
    app.conf.durable_database_url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    result = command_line(app, args=("runs",), exit_code=1)
    assert result.stderr.startswith("Error: the database in durable_database_url does not answer: ")
    assert result.stderr.count("\n") == 1


def test_a_wrong_setting_is_told_in_a_line(app: Celery) -> None:
    app.conf.durable_lease = "long"
    assert "durable_lease" in command_line(app, args=("runs",), exit_code=1).stderr
