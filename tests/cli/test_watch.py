"""``watch``: what it tells of a run as it goes on, and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from sqlalchemy.exc import OperationalError

from celery_durable import Durable, Retry, step
from celery_durable.cli import watching
from celery_durable.model import Progress
from celery_durable.testing import DurableEnv
from celery_durable.worker.task import DurableTask

from .conftest import Bank, Cli

Happening = Callable[[], object]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Happening]]:
    """What happens while the run is watched: one of these each time that the command waits."""
    happens: list[Happening] = []
    late = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return late[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            assert happens, "it is watched for ever"
            late[0] += 1
            happens.pop(0)()

    monkeypatch.setattr(watching, "time", Clock)
    yield happens
    assert not happens, "the command has ended too early"


@pytest.fixture
def waits(env: DurableEnv, app: Celery) -> str:
    return env.start(app.tasks["shop.approval"].s("k1").set(task_id="waits-1")).id


def test_a_line_for_each_step_and_one_for_the_end(
    env: DurableEnv, waits: str, meanwhile: list[Happening], cli: Cli
) -> None:
    meanwhile += [lambda: None, lambda: env.emit("order.approved", {"by": "anna"}, key="k1")]
    lines = cli("watch", waits).stdout.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["completed", "completed"]
    assert re.fullmatch(r'\d\d:\d\d:\d\d  completed  +\S+  ask  "asked k1"', lines[0])
    assert re.fullmatch(r"completed after \S+, 2 steps  \{\"by\": \"anna\"\}", lines[2])
    assert len(lines) == 3


def test_a_run_that_fails(env: DurableEnv, app: Celery, cli: Cli) -> None:
    env.start(app.tasks["shop.order"].s(5).set(task_id="order-1"))
    text = cli("watch", "order-1", exit_code=1).stdout
    assert re.search(r"failed  +\S+  charge  ConnectionError: no answer from the bank\n", text)
    assert "\nfailed after " in text
    assert text.endswith("  celery_durable: step 'charge' of run order-1 failed\n")


def test_a_run_that_is_cancelled_while_it_is_watched(
    env: DurableEnv, waits: str, meanwhile: list[Happening], cli: Cli
) -> None:
    meanwhile += [lambda: env.durable.cancel(waits, reason="not wanted"), lambda: env.read(waits)]
    text = cli("watch", waits, exit_code=1).stdout
    assert text.splitlines()[-1].startswith("cancelled after ")
    assert "not wanted" in text


def test_a_run_that_is_forgotten_while_it_is_watched(
    env: DurableEnv, waits: str, meanwhile: list[Happening], cli: Cli
) -> None:
    def forget() -> None:
        env.durable.cancel(waits, force=True)
        env.advance("1s")
        env.durable.prune(0)

    meanwhile += [forget]
    assert "there is no run" in cli("watch", waits, exit_code=1).stderr


def test_a_database_that_is_away_for_a_while(
    env: DurableEnv, waits: str, meanwhile: list[Happening], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("the server closed the connection"))

    def goes() -> None:
        monkeypatch.setattr(Durable, "get", away)

    def comes_back() -> None:
        monkeypatch.undo()
        monkeypatch.setattr(watching, "time", clock)

    clock = watching.time
    meanwhile += [goes, lambda: None, comes_back, lambda: env.emit("order.approved", 1, key="k1")]
    result = cli("watch", waits)
    assert result.stderr == "The database does not answer; it is asked again.\n"
    assert result.stdout.splitlines()[-1].startswith("completed after ")


def test_a_database_that_is_away_for_long(
    env: DurableEnv, waits: str, meanwhile: list[Happening], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("the server closed the connection"))

    meanwhile += [lambda: monkeypatch.setattr(Durable, "get", away), *(lambda: None for _ in range(60))]
    assert "does not answer: the server closed the connection" in cli("watch", waits, exit_code=1).stderr


def test_to_leave_off_is_no_end_of_the_run(env: DurableEnv, waits: str, meanwhile: list[Happening], cli: Cli) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile += [interrupt]
    assert "waits-1 is suspended, and goes on without being watched." in cli("watch", waits, exit_code=1).stderr
    assert env.read(waits).status == "suspended"


def test_json_is_an_object_a_line(env: DurableEnv, waits: str, meanwhile: list[Happening], cli: Cli) -> None:
    meanwhile += [lambda: env.emit("order.approved", 1, key="k1")]
    lines = [json.loads(line) for line in cli("watch", waits, "--json").stdout.splitlines()]
    assert [line.get("step", {}).get("id") for line in lines] == ["ask", "answer", None]
    assert lines[-1]["run"]["status"] == "completed"


def test_steps_that_are_done_again_are_told_again(
    env: DurableEnv, app: Celery, bank: Bank, meanwhile: list[Happening], cli: Cli
) -> None:
    """The run continues as new, and its steps have the ids that they had."""

    @app.task(shared=False, base=DurableTask, name="again")
    def again(left: int) -> int:
        step.run("work", str, left)
        step.sleep("pause", "1h")
        return step.continue_as_new(left - 1) if left else 0

    run = env.start(again, 1)
    meanwhile += [lambda: env.advance("1h"), lambda: env.advance("1h")]
    text = cli("watch", run.id).stdout
    assert text.count(" work ") == 2


def test_on_a_terminal_the_end_is_drawn_anew(
    env: DurableEnv, app: Celery, meanwhile: list[Happening], cli: Cli, terminal: Callable[[int], None]
) -> None:
    @app.task(shared=False, base=DurableTask, name="packs")
    def packs() -> str:
        for number in range(4):
            step.run(f"pack-{number}", str, number)
            step.set_progress(number + 1, 4, f"packed {number}")
            step.sleep(f"rest-{number}", "1h")
        return "all packed"

    terminal(60)
    run = env.start(packs)
    meanwhile += [lambda: env.advance("1h") for _ in range(4)]
    text = cli("watch", run.id).stdout
    assert text.startswith("\x1b[?25l")
    assert text.count("\x1b[?25h") == 1, "the cursor is there again"
    frames = text.split("\x1b[J")
    assert "◌ suspended" in frames[0]
    assert "━" * 8 + "─" * 22 + "   25%  1 of 4  packed 0" in frames[0]
    assert "━" * 30 + "  100%  4 of 4  packed 3" in frames[-2]
    assert "✓ completed" in frames[-1]
    assert "all packed" in frames[-1]
    shown = [re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", line) for frame in frames for line in frame.splitlines()]
    assert max(len(line) for line in shown) <= 60
    for drawn, erased in zip(frames, re.findall(r"\x1b\[(\d+)A\x1b\[J", text), strict=False):
        assert drawn.rpartition("\x1b[?25l")[2].count("\n") >= int(erased)


def test_what_is_under_way_beside_each_other(
    env: DurableEnv, app: Celery, meanwhile: list[Happening], cli: Cli, terminal: Callable[[int], None]
) -> None:
    @app.task(shared=False, base=DurableTask, name="both")
    def both() -> None:
        with step.parallel() as p:
            p.options(retry=Retry(max_attempts=2, delay="1h")).run("flaky", int, "x")
            for number in range(5):
                p.sleep(f"nap-{number}", "2h")

    terminal(100)
    run = env.start(both)
    meanwhile += [lambda: env.advance("3h")]
    first = cli("watch", run.id, exit_code=1).stdout.split("\x1b[J")[0]
    assert "and 2 steps more under way" in first


@pytest.mark.parametrize(
    ("value", "total", "share"),
    [
        (1, 4, 0.25),
        (5, 4, 1.0),
        (-1, 4, 0.0),
        (0.5, 1.0, 0.5),
        (1, None, None),
        (1, 0, None),
        ("a", 4, None),
        (True, 4, None),
        (None, None, None),
        (1, "b", None),
    ],
)
def test_how_far_it_has_come(value: Any, total: Any, share: float | None) -> None:
    assert watching.share_of(Progress(value=value, total=total)) == share


def test_a_run_that_is_not_there(env: DurableEnv, cli: Cli) -> None:
    assert "there is no run 'nope'" in cli("watch", "nope", exit_code=1).stderr
    cli("watch", exit_code=2)
