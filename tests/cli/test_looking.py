"""``runs`` and ``show``."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_durable import Retry, get_logger, step
from celery_durable.cli.tables import width_of
from celery_durable.model import Run
from celery_durable.testing import DurableEnv
from celery_durable.worker.task import DurableTask

from .conftest import Bank, Cli


@pytest.fixture
def three(env: DurableEnv, app: Celery) -> None:
    """A run that failed, one that waits, one that is completed."""
    tasks = app.tasks
    env.start(tasks["shop.order"].s(5).set(task_id="order-1"))
    env.start(tasks["shop.approval"].s("k1").set(task_id="waits-1"))
    env.start(tasks["shop.approval"].s("k2").set(task_id="done-1"))
    env.emit("order.approved", {"by": "日本"}, key="k2")


def rows(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[1:]]


# ------------------------------------------------------------------- runs


def test_the_newest_runs(three: None, cli: Cli) -> None:
    result = cli("runs")
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["ID"].split() == ["ID", "TASK", "STATUS", "WAITING", "ON", "/", "ERROR", "AGE"]
    assert lines["order-1"].split()[1:3] == ["shop.order", "failed"]
    assert "ConnectionError: no answer from the bank" in lines["order-1"]
    assert "the event 'order.approved' with the key 'k1', " in lines["waits-1"]
    assert lines["done-1"].split()[1:3] == ["shop.approval", "completed"]
    assert "\x1b" not in result.stdout
    assert not result.stderr


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--status", "failed"), ["order-1"]),
        (("--status", "failed", "--status", "completed"), ["done-1", "order-1"]),
        (("--task", "shop.approval"), ["done-1", "waits-1"]),
        (("--since", "1h"), ["done-1", "order-1", "waits-1"]),
        (("--until", "1h"), []),
        (("--since", "2000-01-01T00:00:00Z", "--until", "2001-01-01T00:00:00+02:00"), []),
        (("--search", "no answer"), ["order-1"]),
        (("--waiting-on", "order.approved"), ["waits-1"]),
        (("--parent", "nobody"), []),
        (("--event", "nothing"), []),
    ],
)
def test_each_filter(three: None, cli: Cli, cli_json: Any, options: tuple[str, ...], found: list[str]) -> None:
    result = cli("runs", *options)
    assert sorted(rows(result.stdout)) == found
    assert ("There is no such run." in result.stderr) is not bool(found)
    assert sorted(run["id"] for run in cli_json("runs", *options)["runs"]) == found


def test_a_page_says_how_to_go_on(three: None, cli: Cli, cli_json: Any) -> None:
    first = cli("runs", "--limit", "2")
    place = first.stderr.split("--after ")[1].strip()
    second = cli("runs", "--limit", "2", "--after", place)
    assert sorted(rows(first.stdout) + rows(second.stdout)) == ["done-1", "order-1", "waits-1"]
    assert not second.stderr
    assert cli_json("runs", "--limit", "2")["next"] == place
    assert cli_json("runs")["next"] is None


def test_json_is_the_clients_model(three: None, cli_json: Any, env: DurableEnv) -> None:
    (told,) = cli_json("runs", "--status", "failed")["runs"]
    (run,) = env.durable.runs(status="failed")
    assert Run.model_validate(told) == run
    assert Run.model_validate(cli_json("show", "order-1")) == env.durable.get("order-1")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--status", "lost"), "'lost' is not one of"),
        (("--since", "yesterday"), "or how long ago it was"),
        (("--since", "2026-11-21"), "has no time zone"),
        (("--limit", "0"), "--limit"),
        (("--after", "there"), "what page.next was is expected"),
        (("--task", ""), "a string is expected"),
        (("--colour",), "No such option"),
    ],
)
def test_what_is_given_wrong_is_named(three: None, cli: Cli, options: tuple[str, ...], says: str) -> None:
    assert says in cli("runs", *options, exit_code=2).stderr


def test_a_terminal_is_not_written_over(three: None, cli: Cli, terminal: Callable[[int], None]) -> None:
    terminal(60)
    lines = cli("runs").stdout.splitlines()
    assert max(len(line) for line in lines) <= 60
    assert any("✗ failed" in line and "…" in line for line in lines)


# ------------------------------------------------------------------- show


def test_a_failed_run(three: None, cli: Cli) -> None:
    lines = cli("show", "order-1").stdout.splitlines()
    assert lines[0].startswith("order-1  shop.order  failed  after ")
    told = dict(line.split(None, 1) for line in lines[1:] if line.startswith("  ") and len(line.split(None, 1)) == 2)
    assert told["input"] == "(5)"
    assert "  failed of  ConnectionError: no answer from the bank" in lines
    assert told["progress"] == '{"value": 1, "total": 2, "note": "reserved"}'
    assert told["counts"] == "1 pass"
    assert told["reserve"].split()[:2] == ["run", "completed"]
    assert told["reserve"].endswith('"reserved 5"')
    assert told["charge"].endswith("ConnectionError: no answer from the bank")
    assert "  Traceback (most recent call last):" in lines
    assert lines[-2:] == [
        "  ConnectionError: no answer from the bank",
        "  celery_durable: step 'charge' of run order-1 failed",
    ]
    assert sum("in charge" in line for line in lines) == 1, "the traceback goes on into the step's function"
    assert not any("celery_durable/engine" in line for line in lines)


def test_full_shows_the_traceback_as_it_was_recorded_and_the_inputs(three: None, cli: Cli) -> None:
    text = cli("show", "order-1", "--full").stdout
    assert "celery_durable/engine" in text
    assert "[[5], {}]" in text


def test_a_run_that_waits(three: None, cli: Cli) -> None:
    text = cli("show", "waits-1").stdout
    assert "  waits for   the event 'order.approved' with the key 'k1'" in text
    assert "  goes on at  20" in text
    assert "Traceback" not in text


def test_a_cancelled_run_says_why(env: DurableEnv, three: None, cli: Cli) -> None:
    env.durable.cancel("waits-1", reason="not wanted")
    env.read("waits-1")
    text = cli("show", "waits-1").stdout
    assert re.search(r"^  cancelled +RunCancelled: not wanted$", text, re.MULTILINE)
    assert "Traceback" not in text


def test_who_called_whom_and_what_was_done(env: DurableEnv, app: Celery, cli: Cli) -> None:
    env.emit("customer.created", {"id": "k9"}, event_id="e-1")
    (parent,) = env.durable.runs(task="shop.onboard")
    (child,) = env.durable.runs(task="shop.approval")
    env.durable.pause(child.id, by="anna", reason="a look at it")
    env.durable.fork(child.id, "ask", task_id="fork-1")
    text = cli("show", parent.id).stdout
    assert f"called      {child.id}" in text
    assert "started by  event e-1" in text
    text = cli("show", child.id).stdout
    assert f"called by   {parent.id}, in its step approve" in text
    assert "copies      fork-1" in text
    assert "paused for  paused: by anna: a look at it" in text
    assert any(line.split()[:2] == ["pause", "anna"] and "a look at it" in line for line in text.splitlines())
    assert f"fork of    {child.id}, from its step ask" in cli("show", "fork-1").stdout


def test_logs(env: DurableEnv, app: Celery, cli: Cli, cli_json: Any) -> None:
    @app.task(shared=False, base=DurableTask, name="says")
    def says() -> None:
        get_logger("says").warning("hello \x1b[2J")

    run = env.start(says)
    assert "WARNING  hello \\x1b[2J" in cli("show", run.id, "--logs").stdout
    assert [line["message"] for line in cli_json("show", run.id, "--logs")["logs"]] == ["hello \x1b[2J"]
    quiet = env.start(app.tasks["shop.approval"], "k1")
    assert "No log line is kept" in cli("show", quiet.id, "--logs").stdout
    assert "logs" not in cli_json("show", run.id)


def test_many_steps_are_cut_but_for_those_that_did_not_end_well(env: DurableEnv, app: Celery, cli: Cli) -> None:
    @app.task(shared=False, base=DurableTask, name="long")
    def long() -> None:
        with contextlib.suppress(ValueError):
            step.options(retry=Retry(max_attempts=1)).run("odd", int, "x")
        for number in range(120):
            step.run(f"s-{number}", str, number)
        step.wait_for_event("last")

    run = env.start(long)
    text = cli("show", run.id).stdout
    assert "71 earlier steps not shown: --full shows all." in text
    assert "odd " in text
    assert "s-119 " in text
    assert "s-3 " not in text
    assert "s-3 " in cli("show", run.id, "--full").stdout


def test_a_run_that_is_not_there(three: None, cli: Cli) -> None:
    result = cli("show", "nope", exit_code=1)
    assert result.stderr.startswith("Error: there is no run 'nope' in sqlite")
    assert not result.stdout
    assert not cli("show", "nope", "--json", exit_code=1).stdout
    cli("show", exit_code=2)


def test_text_of_a_run_moves_no_cursor(env: DurableEnv, app: Celery, bank: Bank, cli: Cli) -> None:
    bank.charge = lambda amount: (_ for _ in ()).throw(ValueError("\x1b[2J\rboo\n  File"))  # type: ignore[method-assign]
    env.start(app.tasks["shop.order"].s(5, note="\x1b]0;title\x07").set(task_id="evil"))
    for command in (("runs",), ("show", "evil"), ("show", "evil", "--full")):
        assert "\x1b" not in cli(*command).stdout.replace("\n", "")
    assert json.loads(cli("show", "evil", "--json").stdout)["kwargs"] == {"note": "\x1b]0;title\x07"}


@pytest.mark.parametrize("command", ["runs", "stats", "events"])
def test_nothing_is_wider_than_a_narrow_terminal(
    env: DurableEnv, app: Celery, cli: Cli, terminal: Callable[[int], None], command: str
) -> None:
    """Ids are as long as they usually are, and names as well."""
    terminal(80)
    env.start(app.tasks["shop.order"], 5)
    env.start(app.tasks["shop.approval"], "a-key-of-some-length")
    env.emit("customer.created.in-the-shop", {"id": "a-customer-of-some-length"}, key="a-key-of-some-length")
    lines = cli(command).stdout.splitlines()
    assert max(width_of(line) for line in lines) <= 80
