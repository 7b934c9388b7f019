"""``cancel``, ``pause``, ``resume``, ``retry``, ``fork``, ``replay``, ``export``: what they do, and when not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_durable.testing import DurableEnv, check_history

from .conftest import Bank, Cli


@pytest.fixture
def order(env: DurableEnv, app: Celery) -> str:
    """A run that has failed."""
    return env.start(app.tasks["shop.order"].s(5).set(task_id="order-1")).id


@pytest.fixture
def waits(env: DurableEnv, app: Celery) -> str:
    """A run that waits."""
    return env.start(app.tasks["shop.approval"].s("k1").set(task_id="waits-1")).id


@pytest.fixture
def many(env: DurableEnv, app: Celery) -> list[str]:
    """A dozen runs that have failed."""
    return [env.start(app.tasks["shop.order"].s(n).set(task_id=f"order-{n}")).id for n in range(12)]


def statuses(env: DurableEnv) -> set[str]:
    return {run.status for run in env.runs}


# ------------------------------------------------------------------- by ids


def test_pause_and_resume(env: DurableEnv, waits: str, cli: Cli) -> None:
    assert cli("pause", waits, "--reason", "a look", "--by", "anna").stdout == (
        "waits-1 is paused: it stands still until it is resumed.\n"
    )
    assert env.read(waits).waiting_on == "paused: by anna: a look"
    assert cli("resume", waits).stdout.startswith("waits-1 goes on (")
    assert env.read(waits).status == "suspended"
    assert [(deed.action, deed.reason) for deed in env.read(waits).audit] == [("pause", "a look"), ("resume", None)]


def test_retry(env: DurableEnv, order: str, bank: Bank, cli: Cli) -> None:
    bank.works = True
    assert cli("retry", order, "--reason", "the bank is back").stdout.startswith("order-1 ")
    assert env.read(order).result == "charged 5"
    assert env.read(order).audit[0].reason == "the bank is back"


def test_cancel(env: DurableEnv, waits: str, cli: Cli, cli_json: Any) -> None:
    assert "waits-1 is " in cli("cancel", waits).stdout
    assert env.read(waits).status == "cancelled"
    assert cli_json("cancel", waits) == {"runs": [{"run_id": waits, "done": True, "why_not": None}], "next": None}


def test_cancel_by_force(env: DurableEnv, waits: str, cli: Cli) -> None:
    assert cli("cancel", waits, "--force").stdout == "waits-1 is cancelled.\n"


@pytest.mark.parametrize(
    ("command", "why"),
    [("cancel", "can't be cancelled any more"), ("pause", "can't be paused"), ("resume", "only a paused run")],
)
def test_a_wrong_status(order: str, cli: Cli, cli_json: Any, command: str, why: str) -> None:
    result = cli(command, order, exit_code=1)
    assert result.stderr.startswith("Error: run 'order-1' is failed: ")
    assert why in result.stderr
    told = cli_json(command, order, exit_code=1)
    assert told["runs"][0]["done"] is False
    assert why in told["runs"][0]["why_not"]


@pytest.mark.parametrize("command", ["cancel", "pause", "resume", "retry"])
def test_one_that_is_not_there_stops_no_other(env: DurableEnv, waits: str, cli: Cli, command: str) -> None:
    env.durable.pause(waits)
    result = cli(command, "nope", waits, exit_code=1)
    assert "there is no run 'nope'" in result.stderr
    assert result.stdout.startswith("waits-1 ")


@pytest.mark.parametrize("command", ["cancel", "pause", "resume", "retry"])
def test_which_runs_has_to_be_said(env: DurableEnv, cli: Cli, command: str) -> None:
    cli(command, exit_code=2)


@pytest.mark.parametrize("command", ["cancel", "resume", "retry"])
def test_ids_and_a_filter_are_one_too_many(waits: str, cli: Cli, command: str) -> None:
    assert "not both" in cli(command, waits, "--task", "t", exit_code=2).stderr


# ------------------------------------------------------------------- by a filter


def test_what_it_is_about_is_shown_and_asked_for(env: DurableEnv, many: list[str], bank: Bank, cli: Cli) -> None:
    bank.works = True
    result = cli("retry", "--task", "shop.order", given="n\n", exit_code=1)
    assert "and 2 more" in result.stderr
    assert "Retry 12 runs? [y/N]" in result.stderr
    assert not result.stdout
    assert statuses(env) == {"failed"}
    assert cli("retry", "--task", "shop.order", given="y\n").stdout == "Retried 12 runs.\n"
    assert statuses(env) == {"completed"}


def test_yes_asks_nothing(env: DurableEnv, many: list[str], cli_json: Any) -> None:
    told = cli_json("retry", "--status", "failed", "--yes", "--by", "anna", "--reason", "again")
    assert [run["done"] for run in told["runs"]] == [True] * 12
    assert {deed.actor for run in many for deed in env.read(run).audit} == {"anna"}


def test_a_page_of_them(env: DurableEnv, many: list[str], bank: Bank, cli: Cli, cli_json: Any) -> None:
    bank.works = True
    result = cli("retry", "--task", "shop.order", "--limit", "5", "--yes")
    place = result.stderr.split("--after ")[1].strip()
    assert sum(run.status == "completed" for run in env.runs) == 5
    told = cli_json("retry", "--task", "shop.order", "--after", place, "--yes")
    assert (len(told["runs"]), told["next"]) == (7, None)


def test_what_was_started_since_is_left_alone(
    env: DurableEnv, app: Celery, waits: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any, **__: Any) -> bool:
        env.advance("1s")
        env.start(app.tasks["shop.approval"].s("k2").set(task_id="late"))
        return True

    monkeypatch.setattr("celery_durable.cli.acting.click.confirm", late)
    assert cli("cancel", "--task", "shop.approval").stdout == "Cancelled 1 run.\n"
    assert env.read("late").status == "suspended"


def test_resume_by_a_filter(env: DurableEnv, waits: str, cli: Cli) -> None:
    env.durable.pause(waits)
    assert cli("resume", "--search", "waits", "--yes").stdout == "Resumed 1 run.\n"


def test_some_that_can_not(env: DurableEnv, order: str, cli: Cli) -> None:
    result = cli("cancel", "--status", "failed", "--yes", exit_code=1)
    assert result.stdout == "Cancelled 0 runs.\n"
    assert "Error: run 'order-1' is failed" in result.stderr


def test_none_at_all(env: DurableEnv, cli: Cli, cli_json: Any) -> None:
    assert "There is no such run." in cli("cancel", "--task", "nothing", "--yes").stderr
    assert cli_json("cancel", "--task", "nothing") == {"runs": [], "next": None}


# ------------------------------------------------------------------- copies


def test_fork(env: DurableEnv, order: str, bank: Bank, cli: Cli, cli_json: Any) -> None:
    bank.works = True
    assert cli("fork", order, "--from-step", "charge", "--task-id", "fork-1").stdout == "fork-1\n"
    assert env.read("fork-1").result == "charged 5"
    assert cli_json("fork", order, "--from-step", "charge", "--task-id", "fork-1")["id"] == "fork-1"
    assert "has recorded no step 'nope'" in cli("fork", order, "--from-step", "nope", exit_code=1).stderr
    assert "there is no run" in cli("fork", "nope", "--from-step", "charge", exit_code=1).stderr
    cli("fork", order, exit_code=2)


def test_replay(
    env: DurableEnv, order: str, bank: Bank, cli: Cli, cli_json: Any, terminal: Callable[[int], None]
) -> None:
    bank.works = True
    told = cli_json("replay", order, "--args", "[7]", "--kwargs", '{"note": "again"}', "--task-id", "again")
    assert (told["args"], told["kwargs"], told["replayed_from"]) == ([7], {"note": "again"}, order)
    assert env.read("again").result == "charged 7"
    terminal(80)
    text = cli("replay", order).stdout
    assert "It begins anew with the same input." in text
    assert "durable watch " in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--args", "{}"), "is no JSON list"),
        (("--kwargs", "[]"), "is no JSON object"),
        (("--args", "[1"), "is no JSON"),
        (("--args", "[1, 2, 3]"), "argument"),
    ],
)
def test_a_replay_that_can_not_be(order: str, cli: Cli, options: tuple[str, ...], says: str) -> None:
    assert says in cli("replay", order, *options, exit_code=2).stderr


def test_a_copy_under_the_id_of_another_run(order: str, waits: str, cli: Cli) -> None:
    assert "waits-1" in cli("replay", order, "--task-id", waits, exit_code=1).stderr


# ------------------------------------------------------------------- export


def test_export(env: DurableEnv, app: Celery, order: str, tmp_path: Path, cli: Cli, cli_json: Any) -> None:
    text = cli("export", order).stdout
    assert text == env.durable.export(order)
    file = tmp_path / "order.json"
    assert cli("export", order, "-o", str(file)).stdout == f"Wrote the history of order-1 to {file}.\n"
    assert file.read_text() == text
    check_history(app.tasks["shop.order"], file)
    assert cli_json("export", order, "-o", str(file)) == {"run_id": order, "file": str(file)}
    assert "there is no run" in cli("export", "nope", exit_code=1).stderr
    assert "can't be written" in cli("export", order, "-o", str(tmp_path / "no" / "where"), exit_code=2).stderr


def test_export_without_secrets(env: DurableEnv, app: Celery, cli: Cli) -> None:
    env.start(app.tasks["shop.order"].s(5, note="password=hunter2").set(task_id="r1"))
    assert "hunter2" in cli("export", "r1").stdout
    text = cli("export", "r1", "--redact").stdout
    assert "hunter2" not in text
    assert json.loads(text)["run"]["id"] == "r1"
