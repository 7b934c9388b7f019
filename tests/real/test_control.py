"""What is done to runs from outside, with two workers of two processes that stay up."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group, uuid
from celery.exceptions import ChordError, TaskRevokedError

from celery_durable import Durable, Run, RunTimeout, emit
from tests.real import control_tasks as tasks
from tests.real.app import app
from tests.real.conftest import DATABASES, build
from tests.real.control_tasks import go
from tests.real.effects import effects
from tests.real.stage import ROOT, Stage
from tests.services import Services
from tests.waiting import wait_until

TIMEOUT = 20
CONFIG: dict[str, Any] = {
    "imports": ["tests.real.control_tasks"],
    "worker_enable_remote_control": True,
    "worker_prefetch_multiplier": 1,
    "durable_lease": "2s",
    "durable_sweep_interval": "200ms",
    "durable_store_logs": True,
}
BEFORE: dict[str, Any] = {
    "imports": (),
    "worker_enable_remote_control": False,
    "worker_prefetch_multiplier": 4,
    "durable_lease": "3s",
    "durable_sweep_interval": "1s",
    "durable_store_logs": False,
}


def prepared(services: Services, folder: Path, broker: str) -> Iterator[Stage]:
    """A stage for control_tasks, without workers. Those that are up in the end are killed: there is nothing to wait
    for."""
    for stage in build(services, folder, broker, DATABASES[broker], **CONFIG):
        try:
            yield stage
        finally:
            for worker in stage._started:
                if worker.container.status == "running":
                    worker.kill()
            app.conf.update(BEFORE)


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Iterator[Stage]:
    for stage in prepared(services, tmp_path_factory.mktemp("stage"), request.param):
        stage.start_workers("one", "two")
        yield stage


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    tasks.go_everybody()


@pytest.fixture
def durable(stage: Stage) -> Durable:
    return Durable(stage.app)


def names(label: str) -> list[str]:
    return [one.name for one in effects(label)]


def ended(stage: Stage, run_id: Any, status: str = "completed", timeout: float = TIMEOUT) -> Run:
    run = stage.wait_for(run_id, "completed", "failed", "cancelled", "paused", timeout=timeout)
    assert run.status == status, (run.status, run.result, run.error, run.waiting_on)
    return run


def parked(stage: Stage, run_id: Any, what: str = "") -> Run:
    wait_until(
        lambda: (run := stage.run(run_id)).status == "suspended" and what in (run.waiting_on or ""),
        TIMEOUT,
        f"{run_id} waits for {what}",
    )
    return stage.run(run_id)


def begun(label: str, name: str = "begun") -> None:
    wait_until(lambda: effects(label, name), TIMEOUT, f"{name} has begun")


def revoked(stage: Stage, result: Any) -> Run:
    """It is cancelled, and Celery says so."""
    run = ended(stage, result, "cancelled")
    wait_until(lambda: app.AsyncResult(result.id).state == "REVOKED", TIMEOUT, "Celery is told")
    with pytest.raises(TaskRevokedError):
        app.AsyncResult(result.id).get(timeout=TIMEOUT)
    return run


def most_at_once(label: str) -> int:
    """How many were inside at the same time, as far as what they wrote shows."""
    inside: set[str] = set()
    most = 0
    for one in effects(label):
        name, _, what = one.name.rpartition(":")
        inside = inside | {name} if what == "in" else inside - {name}
        most = max(most, len(inside))
    return most


# ------------------------------------------------------------------- revoke


def test_revoking_a_parked_run_cancels_it(stage: Stage) -> None:
    ways = {"sleep": "'long'", "event": "'never'", "call": "child", "backoff": "attempt 2"}
    labels = {how: uuid() for how in ways}
    results = {how: tasks.parks.delay(labels[how], how) for how in ways}
    for how, what in ways.items():
        parked(stage, results[how], what)
    for result in results.values():
        result.revoke()
    for how, result in results.items():
        run = revoked(stage, result)
        assert names(labels[how]) == ["begin", "clean", "undo"], how
        assert run.error is not None
        assert (run.error.type, run.error.message) == ("celery_durable.errors.RunCancelled", "revoked")
        assert [(deed.action, deed.reason) for deed in run.audit] == [("cancel", "revoked")]
    (child,) = stage.run(results["call"]).children
    ended(stage, child, "cancelled")


def test_revoking_a_run_that_has_not_begun(stage: Stage) -> None:
    """Its message is out, or will be sent, or waits where nobody takes it."""
    label = uuid()
    results = [
        tasks.parks.apply_async((label, "sleep"), **options)
        for options in ({"countdown": 1}, {"countdown": 3600}, {"queue": "nobody"})
    ]
    later = tasks.note.apply_async((1, uuid()), countdown=1.1)
    for result in results:
        result.revoke()
    for result in results[:2]:
        revoked(stage, result)
    assert ended(stage, results[2], "cancelled").passes == 0
    assert later.get(timeout=TIMEOUT) == 1
    assert names(label) == []


def test_revoking_a_run_in_the_middle_of_a_step(stage: Stage) -> None:
    label = uuid()
    result = tasks.parks.delay(label, "step")
    begun(label)
    result.revoke()
    go(label)
    revoked(stage, result)
    assert names(label) == ["begin", "begun", tasks.GO, "ended", "clean", "undo"], "what it was at came first"


def test_revoking_a_finished_run_does_nothing(stage: Stage, durable: Durable) -> None:
    """Neither then, nor when it is retried."""
    labels = [uuid(), uuid()]
    tasks.effect(labels[0], "fixed")
    completed, failed = (tasks.fails_until_fixed.delay(label) for label in labels)
    assert completed.get(timeout=TIMEOUT) == labels[0]
    with pytest.raises(ConnectionError):
        failed.get(timeout=TIMEOUT)
    for result in (completed, failed):
        result.revoke()
    assert [stage.run(result).status for result in (completed, failed)] == ["completed", "failed"]
    marker = tasks.note.delay(1, uuid())
    assert marker.get(timeout=TIMEOUT) == 1
    assert [app.AsyncResult(result.id).state for result in (completed, failed)] == ["SUCCESS", "FAILURE"]

    tasks.effect(labels[1], "fixed")
    durable.retry(failed.id)
    assert ended(stage, failed).result == labels[1]


def test_revoking_by_force(stage: Stage) -> None:
    """A process that executes it is ended, nothing is cleaned up, and the worker goes on."""
    labels = [uuid(), uuid()]
    running, asleep = (tasks.parks.delay(label, how) for label, how in zip(labels, ("step", "sleep"), strict=True))
    begun(labels[0])
    parked(stage, asleep)
    (first,) = effects(labels[0], "begun")
    for result in (running, asleep):
        result.revoke(terminate=True)
        revoked(stage, result)
    wait_until(lambda: not Path(f"/proc/{first.pid}").exists(), 5, "its process is gone")
    done = group(tasks.three_steps.s(uuid()) for _ in range(4)).apply_async()
    assert done.get(timeout=TIMEOUT) == [["a-first", "a-second", "a-third"]] * 4
    assert names(labels[0]) == ["begin", "begun"]
    assert names(labels[1]) == ["begin"]


def test_revoking_from_the_command_line(stage: Stage) -> None:
    """Every worker hears of it."""
    label = uuid()
    result = tasks.parks.delay(label, "sleep")
    parked(stage, result)
    command = [sys.executable, "-m", "celery", "-A", "tests.real.app", "control", "revoke", result.id]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "are durable runs, and are cancelled" in done.stdout
    run = revoked(stage, result)
    assert names(label) == ["begin", "clean", "undo"]
    assert [deed.action for deed in run.audit] == ["cancel"], "however many workers were told"


def test_cancelling_twice_does_not_clean_up_twice(stage: Stage, durable: Durable) -> None:
    """As when two workers get one command: the second one finds a run that cleans up."""
    label = uuid()
    result = tasks.parks.delay(label, "clean")
    parked(stage, result)
    durable.cancel(result.id)
    begun(label, "clean")
    assert durable.cancel(result.id).cancelling is not None
    other = tasks.three_steps.delay(uuid())
    assert other.get(timeout=TIMEOUT)
    go(label)
    revoked(stage, result)
    assert Counter(names(label)) == Counter(["begin", "clean", tasks.GO, "ended", "undo"])


def test_revoking_a_member_of_a_chain_a_group_and_a_chord(stage: Stage) -> None:
    labels = [uuid() for _ in range(4)]
    links = chain(tasks.parks.s(labels[0], "sleep"), tasks.note.s(labels[0])).apply_async()
    first = links.parent
    members = group(tasks.parks.s(label, "event") for label in labels[1:3]).apply_async()
    header = [tasks.parks.s(labels[3], "sleep").set(task_id=uuid()), tasks.note.s(1, uuid())]
    body = chord(header)(tasks.note.s(labels[3], "body"))
    member = app.AsyncResult(header[0].id)
    for result in (first, *members.results, member):
        parked(stage, result)

    first.revoke()
    members.revoke()
    member.revoke()

    for result, label in zip((first, *members.results, member), labels, strict=True):
        revoked(stage, result)
        assert names(label) == ["begin", "clean", "undo"]
    wait_until(lambda: body.state == "FAILURE", TIMEOUT, "the body of the chord is given up")
    assert isinstance(body.result, ChordError)
    assert links.state == "PENDING"


def test_cancelling_a_tree_of_runs(stage: Stage, durable: Durable) -> None:
    label = uuid()
    root = tasks.tree.delay(label, 3, 5)
    wait_until(lambda: asleep_in_tree(durable, root.id) == 25, TIMEOUT, "all are parked")
    durable.cancel(root.id)
    for run_id in every_run_of(durable, root.id):
        ended(stage, run_id, "cancelled")
    assert names(label) == ["undo"] * 31


def asleep_in_tree(durable: Durable, root: str) -> int:
    levels = [one for child in durable.runs(parent=root) for one in durable.runs(parent=child.id, status="suspended")]
    return sum("'long'" in (run.waiting_on or "") for run in levels)


def every_run_of(durable: Durable, root: str) -> list[str]:
    children = durable.get(root).children
    return [root, *(run_id for child in children for run_id in every_run_of(durable, child))]


# ------------------------------------------------------------------- pause, retry, copy


def test_a_parked_run_is_paused_and_goes_on(stage: Stage, durable: Durable) -> None:
    """An event that comes meanwhile is kept for it."""
    label = uuid()
    result = tasks.waits.delay(label)
    parked(stage, result)
    assert durable.pause(result.id, reason="a look", by="anna").waiting_on == "paused: by anna: a look"
    receipt = emit("approved", 7, key=label)
    wait_until(lambda: durable.event(receipt.id).dispatched_at, TIMEOUT, "it is dispatched")
    assert durable.pause(result.id).status == "paused", "it can be done twice"
    assert names(label) == ["before"]
    durable.resume(result.id, by="anna")
    assert ended(stage, result).result == 7
    assert result.get(timeout=TIMEOUT) == 7
    assert names(label) == ["before", "after"]
    assert [(deed.action, deed.actor) for deed in stage.run(result).audit] == [("pause", "anna"), ("resume", "anna")]


def test_a_running_run_is_paused_after_its_step(stage: Stage, durable: Durable) -> None:
    label = uuid()
    result = tasks.held.delay(label)
    begun(label)
    assert durable.pause(result.id).status == "paused"
    go(label)
    begun(label, "ended")
    other = tasks.three_steps.delay(uuid())
    assert other.get(timeout=TIMEOUT)
    run = stage.run(result)
    assert (run.status, [one.id for one in run.steps]) == ("paused", ["before", "held"])
    assert result.state in ("PENDING", "STARTED")
    durable.resume(result.id)
    assert result.get(timeout=TIMEOUT) == "after"
    assert Counter(names(label)) == Counter(["before", "begun", tasks.GO, "ended", "after"])


def test_a_run_that_is_paused_before_it_begins_keeps_its_time(stage: Stage, durable: Durable) -> None:
    label = uuid()
    early, late = (tasks.held.apply_async((f"{label}-{name}",), countdown=1) for name in ("early", "late"))
    for name, result in (("early", early), ("late", late)):
        go(f"{label}-{name}")
        durable.pause(result.id)
    assert durable.resume(early.id).status == "pending"
    run = ended(stage, early)
    assert run.started_at is not None
    assert (run.started_at - run.created_at).total_seconds() >= 0.95
    assert tasks.note.delay(1, uuid()).get(timeout=TIMEOUT) == 1
    assert stage.run(late).status == "paused", "its message came and found it paused"
    durable.resume(late.id)
    assert ended(stage, late).result == "after"


def test_a_failed_run_is_retried(stage: Stage, durable: Durable) -> None:
    """Its callbacks come when it has succeeded, in its chain as well."""
    label = uuid()
    linked = tasks.fails_until_fixed.apply_async(
        (label,), link=tasks.note.s(label), link_error=tasks.note_error.s(label)
    )
    chained = chain(tasks.fails_until_fixed.s(label), tasks.note.s(label, "next")).apply_async()
    for result in (linked, chained.parent):
        assert ended(stage, result, "failed").error is not None
    wait_until(lambda: effects(label, "errback"), TIMEOUT, "the error callback comes")
    wait_until(lambda: linked.state == "FAILURE", TIMEOUT, "the failure is stored")

    tasks.effect(label, "fixed")
    for result in (linked, chained.parent):
        assert durable.retry(result.id).restarts == 1
    for result in (linked, chained.parent):
        assert ended(stage, result).result == label
    for task_id in (linked.id, chained.parent.id, chained.id):
        done = partial(lambda task_id: app.AsyncResult(task_id).state == "SUCCESS", task_id)
        wait_until(done, TIMEOUT, "a success takes the place of the failure, which Celery gave the whole chain")
    assert app.AsyncResult(linked.id).get(timeout=TIMEOUT) == label
    assert chained.get(timeout=TIMEOUT) == label
    wait_until(lambda: effects(label, "callback"), TIMEOUT, "the callback comes")
    expected = {"first": 2, "tried": 4, "errback": 1, "fixed": 1, "callback": 1, "next": 1}
    assert Counter(names(label)) == Counter(expected)


def test_copies_of_a_run(stage: Stage, durable: Durable) -> None:
    """They have no callbacks, and a fork has what came before."""
    label, other = uuid(), uuid()
    result = tasks.three_steps.apply_async((label,), link=tasks.note.s(label))
    assert result.get(timeout=TIMEOUT) == ["a-first", "a-second", "a-third"]
    wait_until(lambda: effects(label, "callback"), TIMEOUT, "the callback comes")

    forked = durable.fork(result.id, from_step="second", task_id=uuid())
    assert durable.fork(result.id, from_step="second", task_id=forked.id).id == forked.id
    replayed = durable.replay(result.id, args=[other], kwargs={"name": "b"})
    assert ended(stage, forked.id).result == ["a-first", "a-second", "a-third"]
    assert ended(stage, replayed.id).result == ["b-first", "b-second", "b-third"]

    copies = {forked.id, replayed.id}
    wait_until(lambda: all(stage.run(run_id).delivered_at for run_id in copies), TIMEOUT, "Celery is told")
    assert app.AsyncResult(replayed.id).get(timeout=TIMEOUT) == ["b-first", "b-second", "b-third"]
    assert set(stage.run(result).copies) == copies
    marker = tasks.note.delay(1, uuid())
    assert marker.get(timeout=TIMEOUT) == 1
    assert Counter(names(label)) == Counter({"a-first": 1, "a-second": 2, "a-third": 2, "callback": 1})
    assert names(other) == ["b-first", "b-second", "b-third"]


# ------------------------------------------------------------------- time


def test_a_run_takes_no_longer_than_it_may(stage: Stage) -> None:
    labels = {how: uuid() for how in ("parked", "called", "busy")}
    results = {how: tasks.overdue.delay(label, how) for how, label in labels.items()}
    for how, result in results.items():
        run = ended(stage, result, "failed")
        with pytest.raises(RunTimeout, match="took longer than its run_timeout"):
            result.get(timeout=TIMEOUT)
        assert run.finished_at is not None
        assert (run.finished_at - run.created_at).total_seconds() >= 1
        assert names(labels[how])[-2:] == ["clean", "undo"]
    assert len(effects(labels["busy"], "work:in")) <= 20
    (child,) = stage.run(results["called"]).children
    ended(stage, child, "cancelled")
    assert names(f"{labels['called']}-child") == ["begin", "clean", "undo"]
