"""Few at a time, one at a time, undone and begun anew: over two workers, whose processes are killed meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from celery import group, uuid
from celery.exceptions import TaskRevokedError

from celery_durable import Durable, emit
from tests.real import control_tasks as tasks
from tests.real.app import app
from tests.real.control_tasks import VARIABLE, go
from tests.real.effects import effects
from tests.real.stage import ROOT, Stage, Worker
from tests.real.test_control import begun, ended, names, parked, prepared, revoked
from tests.services import Services
from tests.waiting import wait_until

TIMEOUT = 30
FAR_OFF = 8
"""Places in the order of their starts by which runs in a line may pass each other: two workers take their messages."""


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Iterator[Stage]:
    yield from prepared(services, tmp_path_factory.mktemp("stage"), request.param)


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    tasks.go_everybody()


@pytest.fixture
def durable(stage: Stage) -> Durable:
    return Durable(stage.app)


@pytest.fixture
def workers(stage: Stage) -> list[Worker]:
    """Two workers that are up."""
    up = running(stage)
    first = len(stage._started)
    return up + (stage.start_workers(*(f"w{first + number}" for number in range(2 - len(up)))) if len(up) < 2 else [])


def running(stage: Stage) -> list[Worker]:
    return [worker for worker in stage._started if worker.container.status == "running"]


def worker_of(pid: int, workers: list[Worker]) -> Worker:
    """The worker that a process belongs to."""
    parents = {pid, *(parent.pid for parent in psutil.Process(pid).parents())}
    (found,) = [worker for worker in workers if worker.container.pid in parents]
    return found


def most_at_once(label: str) -> int:
    """How many were inside at the same time. What was killed inside has written no end, and is not counted."""
    events = [(one.name.rpartition(":"), one.pid) for one in effects(label)]
    left = {(name, pid) for (name, _, what), pid in events if what == "out"}
    inside: set[str] = set()
    most = 0
    for (name, _, what), pid in events:
        if (name, pid) in left and what in ("in", "out"):
            inside = inside | {name} if what == "in" else inside - {name}
            most = max(most, len(inside))
    return most


def entered(label: str) -> list[str]:
    """Who was inside, in order."""
    return [one.name.removesuffix(":in") for one in effects(label) if one.name.endswith(":in")]


# ------------------------------------------------------------------- few at a time


def test_two_of_a_key_at_once(stage: Stage, durable: Durable, workers: list[Worker]) -> None:
    keys = [uuid(), uuid()]
    given = [(keys[number % 2], f"n{number}", number % 3 == 0) for number in range(30)]
    results = [tasks.shares.delay(key, name, naps=naps) for key, name, naps in given]
    assert [result.get(timeout=TIMEOUT) for result in results] == [name for _, name, _ in given]
    for key in keys:
        assert most_at_once(key) <= 2
        mine = [(name, naps) for of, name, naps in given if of == key]
        again = [f"{name}-again" for name, naps in mine if naps]
        assert sorted(entered(key)) == sorted([*again, *(name for name, _ in mine)])
    assert durable.stats().queued == 0


def test_runs_in_line_hold_no_worker(stage: Stage, durable: Durable, workers: list[Worker]) -> None:
    """Two are at work, 28 stand in line, and what else there is to do is done. Then they come in their order."""
    label = uuid()
    given = [f"n{number}" for number in range(30)]
    results = [tasks.shares_held.delay(label, name) for name in given]
    wait_until(lambda: durable.stats().queued == 28, TIMEOUT, "28 stand in line")
    (waiting_on,) = {stage.run(result).waiting_on for result in results[5:]}
    assert waiting_on is not None
    assert waiting_on.startswith("its turn: 2 runs of tests.real.control_tasks.shares_held:held ")
    others = group(tasks.three_steps.s(uuid()) for _ in range(8)).apply_async()
    assert others.get(timeout=3) == [["a-first", "a-second", "a-third"]] * 8
    assert len(entered(label)) == 2

    go(label)

    assert [result.get(timeout=TIMEOUT) for result in results] == [f"{name}:out" for name in given]
    assert most_at_once(label) == 2
    places = entered(label)
    assert len(places) == 30
    assert max(abs(places.index(name) - number) for number, name in enumerate(given)) <= FAR_OFF, places
    assert durable.stats().queued == 0


def test_what_is_done_to_runs_in_line(stage: Stage, durable: Durable, workers: list[Worker]) -> None:
    label = uuid()
    results = {"late": tasks.shares_held.delay(label, "late", parks_first=True)}
    parked(stage, results["late"], "'go on'")
    results |= {name: tasks.shares_held.delay(label, name) for name in ("one", "two")}
    wait_until(lambda: len(entered(label)) == 2, TIMEOUT, "two are at work")
    results |= {name: tasks.shares_held.delay(label, name) for name in ("fresh", "paused")}
    emit("go on", key="late")
    wait_until(lambda: durable.stats().queued == 3, TIMEOUT, "three stand in line")

    results["fresh"].revoke()
    durable.pause(results["paused"].id)
    results["late"].revoke()

    with pytest.raises(TaskRevokedError):
        results["fresh"].get(timeout=TIMEOUT)
    assert stage.run(results["paused"]).status == "paused"
    go(label)
    ended(stage, results["late"], "cancelled")
    assert [results[name].get(timeout=TIMEOUT) for name in ("one", "two")] == ["one:out", "two:out"]
    assert stage.run(results["paused"]).status == "paused"
    durable.resume(results["paused"].id)
    assert results["paused"].get(timeout=TIMEOUT) == "paused:out"
    assert sorted(entered(label)) == ["one", "paused", "two"]
    assert [name for name in names(label) if name.endswith("undo")] == ["late:undo"]


def test_a_killed_process_gives_its_share_back(stage: Stage, durable: Durable, workers: list[Worker]) -> None:
    label = uuid()
    results = [tasks.shares_and_dies.delay(label, f"n{number}", number < 2) for number in range(8)]
    assert [result.get(timeout=TIMEOUT) for result in results] == [f"n{number}" for number in range(8)]
    assert len(effects(label, "n0:died") + effects(label, "n1:died")) == 2
    assert most_at_once(label) <= 2
    assert Counter(entered(label)) == Counter(f"n{number}" for number in range(8))
    assert durable.stats().queued == 0


# ------------------------------------------------------------------- one at a time


def test_waiting_for_a_lock(stage: Stage, durable: Durable, workers: list[Worker]) -> None:
    """One that is paused and resumed keeps its place; one that is revoked leaves; the holder's end lets the next in."""
    label = uuid()
    holder = tasks.locks.delay(label, "holder")
    begun(label, "holder:in")
    paused, gone, last = (tasks.locks.delay(label, name) for name in ("paused", "gone", "last"))
    for result in (paused, gone, last):
        parked(stage, result, f"lock-{label}")
    durable.pause(paused.id)
    durable.resume(paused.id)
    parked(stage, paused, f"lock-{label}")
    gone.revoke()
    revoked(stage, gone)
    go(label)
    assert [result.get(timeout=TIMEOUT) for result in (holder, paused, last)] == ["holder", "paused", "last"]
    assert not effects(label, "gone:in")
    assert most_at_once(label) == 1


# ------------------------------------------------------------------- what is said of a run


def test_what_a_run_says_of_itself(stage: Stage, durable: Durable, workers: list[Worker]) -> None:
    label = uuid()
    result = tasks.tells.delay(label)
    parked(stage, result)
    told = stage.run(result).progress
    assert told is not None
    assert (told.value, told.total, told.note) == (1, 2, "half")
    emit("approved", key=label)
    assert result.get(timeout=TIMEOUT) == label
    told = stage.run(result).progress
    assert told is not None
    assert (told.value, told.total, told.note) == (2, 2, None)
    lines = [(line.step_id, line.message) for line in durable.logs(result.id)]
    assert lines == [
        (None, f"begins with {label}"),
        (None, "goes on, with the password=***"),
        ("said", "inside"),
    ], "once each, though the body was executed twice"
    signals = ["run_started:None:None", "step_finished:said:completed", "run_finished:None:completed"]
    wait_until(lambda: len(names(result.id)) >= 3, TIMEOUT, "the signals are sent")
    assert names(result.id) == signals


# ------------------------------------------------------------------- killed in the middle


def test_processes_are_killed_in_undos_and_between_beginnings(stage: Stage, workers: list[Worker]) -> None:
    undone, anew = uuid(), uuid()
    rolled_back, generations = tasks.rolls_back.delay(undone), tasks.generations.delay(anew)
    counted = [tasks.counts.delay(anew, 20) for _ in range(6)]

    with pytest.raises(ConnectionError):
        rolled_back.get(timeout=TIMEOUT)
    assert [name for name in names(undone) if name != "pass"] == ["undo-3", "undo-2", "undo-1"]
    assert names(undone).count("pass") >= 2
    undos = {one.id: one.status for one in stage.run(rolled_back).steps if one.kind == "undo"}
    assert undos == {"undo-3": "completed", "undo-2": "completed", "undo-1": "completed"}

    assert generations.get(timeout=TIMEOUT) == tasks.GENERATIONS
    run = stage.run(generations)
    assert (run.generation, [one.id for one in run.steps]) == (tasks.GENERATIONS, ["count"])
    done = Counter(names(anew))
    assert done.pop("died") == 1
    assert done == {f"generation-{number}": 1 for number in range(tasks.GENERATIONS + 1)}

    last = [result.get(timeout=TIMEOUT) for result in counted]
    assert max(last) == 120, "no addition is lost"
    assert Durable(stage.app).state(tasks.counts.name)[anew] == 120


def test_a_worker_is_killed_that_has_a_lock_and_shares(stage: Stage, durable: Durable, workers: list[Worker]) -> None:
    """A lock is kept for the run, which goes on elsewhere; a share goes to whoever is next."""
    locked, shared = uuid(), uuid()
    lockers = [tasks.locks.delay(locked, f"n{number}") for number in range(10)]
    wait_until(lambda: len(entered(locked)) == 1, TIMEOUT, "one has the lock")
    wait_until(lambda: in_line_for_lock(durable, locked) == 9, TIMEOUT, "nine stand in line")
    sharers = [tasks.shares_held.delay(shared, f"n{number}") for number in range(6)]
    wait_until(lambda: durable.stats().queued == 4 and len(entered(shared)) == 2, TIMEOUT, "two have a share")

    (first,) = effects(locked)
    worker_of(first.pid, workers).kill()
    go(locked)
    go(shared)

    assert [result.get(timeout=TIMEOUT) for result in lockers] == [f"n{number}" for number in range(10)]
    assert [result.get(timeout=TIMEOUT) for result in sharers] == [f"n{number}:out" for number in range(6)]
    killed = first.name.removesuffix(":in")
    assert entered(locked)[:2] == [killed, killed], "it had the lock still when it was executed again"
    assert Counter(entered(locked)) == Counter([killed, *(f"n{number}" for number in range(10))])
    assert most_at_once(locked) == 1
    assert most_at_once(shared) <= 2
    assert durable.stats().queued == 0


def in_line_for_lock(durable: Durable, label: str) -> int:
    return len(durable.runs(waiting_on=f"lock-{label}", status="suspended"))


# ------------------------------------------------------------------- nobody there, and other code


def test_nobody_is_there_and_then_other_code_is(
    stage: Stage, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was revoked meanwhile the next worker cancels; what does not fit its code waits for one that does."""
    if not running(stage):
        stage.start_workers("v1", concurrency=1)
    labels = {how: uuid() for how in ("sleep", "event", "never")}
    results = {how: tasks.parks.delay(labels[how], how) for how in ("sleep", "event")}
    results["never"] = tasks.parks.apply_async((labels["never"], "sleep"), countdown=3600)
    changing = tasks.changes.delay(old := uuid())
    for result in (results["sleep"], results["event"], changing):
        parked(stage, result)
    for worker in running(stage):
        worker.kill("SIGTERM")
    wait_until(lambda: not running(stage), TIMEOUT, "nobody is there")

    for result in results.values():
        result.revoke()
    cancelling = {how: stage.run(result) for how, result in results.items()}
    assert {how: (run.status, run.cancelling) for how, run in cancelling.items()} == {
        "sleep": ("suspended", "revoked"),
        "event": ("suspended", "revoked"),
        "never": ("cancelled", None),
    }
    assert durable.check().misfits == ()
    monkeypatch.setenv(VARIABLE, "v3")
    assert durable.check().misfits == ()
    monkeypatch.setenv(VARIABLE, "v2")
    checking = check_by_command()
    (second,) = stage.start_workers("v2", concurrency=1)
    told, trouble = checking.communicate(timeout=TIMEOUT)
    assert checking.returncode == 1, trouble
    (misfit,) = [one for one in json.loads(told)["misfits"] if one["run_id"] == changing.id]
    assert (misfit["task"], misfit["status"]) == (tasks.changes.name, "suspended")
    assert "recorded: a 'wait' step" in misfit["why"]

    for how, result in results.items():
        ended(stage, result, "cancelled")
        with pytest.raises(TaskRevokedError):
            result.get(timeout=TIMEOUT)
        assert names(labels[how]) == ([] if how == "never" else ["begin", "clean", "undo"])

    emit("approved", key=old)
    why = ended(stage, changing, "paused").waiting_on or ""
    assert why.startswith(f"code: step 'approval' of run {changing.id} does not fit what was recorded.")
    wait_until(lambda: "does not fit" in str(app.AsyncResult(changing.id).info), TIMEOUT, "Celery's users are told")
    second.kill()

    monkeypatch.setenv(VARIABLE, "v3")
    stage.start_workers("v3", concurrency=1)
    new = uuid()
    assert changing.get(timeout=TIMEOUT) == "third-v3", "it goes on by itself"
    assert tasks.changes.delay(new).get(timeout=TIMEOUT) == "third-v3"
    assert names(old) == ["first", "third-v3"]
    assert names(new) == ["first", "second", "third-v3"]


def check_by_command() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "celery", "-A", "tests.real.app", "durable", "check", "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
