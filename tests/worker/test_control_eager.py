"""What was written for operating runs, in eager mode: undos, state, locks, deadlines, and the client's operations."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery, chain

from celery_durable import (
    Concurrency,
    Durable,
    DurableError,
    DurableTask,
    Retry,
    RunCancelled,
    RunTimeout,
    StepNotFound,
    WrongStatus,
    get_logger,
    step,
)
from celery_durable.aio import step as astep
from celery_durable.signals import run_finished, run_resumed, run_started, run_suspended, step_finished, step_retried
from tests.waiting import wait_until

ONCE = Retry(max_attempts=1)


@pytest.fixture
def eager(app: Celery) -> Celery:
    app.conf.task_always_eager = True
    return app


@pytest.fixture
def world() -> list[str]:
    return []


@pytest.fixture
def durable(app: Celery) -> Durable:
    app.conf.durable_store_logs = True
    return Durable(app)


def no() -> str:
    raise LookupError("no")


# ------------------------------------------------------------------- the verbs


def test_undos_are_done_in_reverse(app: Celery, durable: Durable, world: list[str]) -> None:
    @app.task(shared=False, base=DurableTask)
    def order() -> None:
        for name in ("first", "second"):
            step.run(name, world.append, name)
            step.on_rollback(f"undo-{name}", world.append, f"undo-{name}")
            step.sleep("1h")
        step.options(retry=ONCE).run("ship", no)

    result = order.apply(task_id="o1")
    assert isinstance(result.result, LookupError)
    assert world == ["first", "second", "undo-second", "undo-first"]
    assert [one.id for one in durable.get("o1").steps if one.kind == "undo"] == ["undo-second", "undo-first"]


def test_the_verbs_of_async_tasks(app: Celery, durable: Durable, world: list[str]) -> None:
    async def undo(name: str) -> None:
        world.append(name)

    @app.task(shared=False, base=DurableTask, name="aorder")
    async def order(number: int = 0) -> Any:
        count = await astep.state.increment("count")
        async with astep.lock("mine", "lock"):
            await astep.sleep("1h")
        if number < 2:
            await astep.continue_as_new(number + 1)
        await astep.set_progress(number, 2)
        await astep.on_rollback("undo", undo, "undone")
        if await astep.patched("fails"):
            raise LookupError(f"number {count}")

    result = order.apply(task_id="a1")
    assert (type(result.result), str(result.result)) == (LookupError, "number 3")
    run = durable.get("a1")
    assert (run.generation, run.progress and run.progress.value) == (2, 2)
    assert world == ["undone"]


def test_an_undo_may_be_an_async_function(app: Celery, world: list[str]) -> None:
    async def undo(name: str) -> None:
        world.append(name)

    @app.task(shared=False, base=DurableTask)
    def order() -> None:
        step.on_rollback("undo", undo, "undone")
        no()

    assert isinstance(order.apply().result, LookupError)
    assert world == ["undone"]


def test_state_is_shared_by_the_runs_of_a_task(app: Celery, durable: Durable) -> None:
    @app.task(shared=False, base=DurableTask, name="counts")
    def counts(by: int) -> list[Any]:
        before = step.state.get("cursor", "none")
        step.state.set("cursor", by)
        step.sleep("1h")
        forgotten = step.state.delete("cursor") if by == 2 else None
        return [before, step.state.increment("sum", by), forgotten]

    assert [counts.apply((by,)).get() for by in (1, 2, 3)] == [["none", 1, None], [1, 3, True], ["none", 6, None]]
    assert durable.state("counts") == {"cursor": 3, "sum": 6}


def test_a_lock_is_given_back(app: Celery) -> None:
    @app.task(shared=False, base=DurableTask)
    def locks(fails: bool = False) -> str:
        with step.lock("mine", "lock", ttl="1h"):
            step.sleep("1d")
            if fails:
                no()
        return "done"

    assert isinstance(locks.apply((True,)).result, LookupError)
    assert [locks.apply().get() for _ in range(2)] == ["done", "done"]


def test_a_lock_that_somebody_has_is_not_waited_for(app: Celery, durable: Durable) -> None:
    @app.task(shared=False, base=DurableTask, name="waits")
    def waits() -> None:
        with step.lock("mine", "lock"):
            step.wait_for_event("never")

    assert isinstance(waits.apply(task_id="first").result, DurableError)
    error = waits.apply(task_id="second").result
    assert isinstance(error, DurableError)
    assert "waits for the lock 'lock', which nobody" in str(error)
    for run_id in ("first", "second"):
        durable.cancel(run_id, force=True)
    assert "waits for the event 'never'" in str(waits.apply(task_id="third").result)


def test_a_run_begins_anew_as_often_as_it_wants(app: Celery, durable: Durable, world: list[str]) -> None:
    @app.task(shared=False, base=DurableTask)
    def monthly(month: int, *, name: str) -> str:
        step.on_rollback("undo", world.append, "undone")
        step.run("bill", world.append, f"{name}-{month}")
        step.sleep("30d")
        if month < 50:
            step.continue_as_new(month + 1, name=name)
        return name

    assert monthly.apply((1,), {"name": "a"}, task_id="year").get() == "a"
    assert world == [f"a-{month}" for month in range(1, 51)]
    run = durable.get("year")
    assert (run.generation, [one.id for one in run.steps], run.args, run.kwargs) == (
        49,
        ["bill", "sleep"],
        [50],
        {"name": "a"},
    )


def test_wrong_arguments_for_a_new_beginning(app: Celery) -> None:
    @app.task(shared=False, base=DurableTask)
    def monthly(month: int) -> None:
        step.continue_as_new(month, month)

    assert isinstance(monthly.apply((1,)).result, TypeError)


def test_concurrency_counts_no_eager_runs(eager: Celery, durable: Durable) -> None:
    @eager.task(shared=False, base=DurableTask, concurrency=Concurrency(1), name="one")
    def one(depth: int) -> int:
        return 0 if depth == 0 else 1 + step.call("down", one.s(depth - 1))

    assert one.delay(3).get() == 3
    assert durable.stats().queued == 0


def test_progress_and_the_logger(app: Celery, durable: Durable, caplog: pytest.LogCaptureFixture) -> None:
    log = get_logger("mails")

    @app.task(shared=False, base=DurableTask)
    def mailing() -> None:
        for number in (1, 2):
            log.warning("mail %d", number)
            step.run(f"mail-{number}", log.warning, "password=%s", "hunter2")
            step.set_progress(number, 2, "mails")
            step.sleep("1h")

    mailing.apply(task_id="m1").get()
    progress = durable.get("m1").progress
    assert progress is not None
    assert (progress.value, progress.total, progress.note) == (2, 2, "mails")
    kept = [(line.logger, line.step_id, line.message) for line in durable.logs("m1")]
    masked = "password=***"
    assert kept == [
        ("mails", None, "mail 1"),
        ("mails", "mail-1", masked),
        ("mails", None, "mail 2"),
        ("mails", "mail-2", masked),
    ]
    said = [record.getMessage() for record in caplog.records if record.name == "mails"]
    assert [one.partition("] ")[2] for one in said][::2] == ["mail 1", "mail 2"], "once each, in three passes"


def test_signals(app: Celery, durable: Durable, world: list[str]) -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        return "done" if len(tries) > 1 else no()

    @app.task(shared=False, base=DurableTask, name="signalled")
    def signalled() -> None:
        step.options(retry=Retry(delay="1h")).run("flaky", flaky)
        step.sleep("1h")

    def hear(signal: Any, run_id: str, status: str = "", **_: Any) -> None:
        world.append(f"{signal.name} {run_id} {status}".strip())

    signals = (run_started, run_resumed, run_suspended, run_finished, step_finished, step_retried)
    for signal in signals:
        signal.connect(hear, sender=app.tasks["signalled"])
    signalled.apply(task_id="s1").get()
    for signal in signals:
        signal.disconnect(hear, sender=app.tasks["signalled"])
    assert world == [
        "run_started s1",
        "step_retried s1",
        "run_suspended s1",
        "run_resumed s1",
        "step_finished s1 completed",
        "run_suspended s1",
        "run_resumed s1",
        "run_finished s1 completed",
    ]


# ------------------------------------------------------------------- time


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_run_that_takes_too_long(app: Celery, durable: Durable, world: list[str], kind: str) -> None:
    def slow() -> None:
        step.on_rollback("undo", world.append, "undone")
        try:
            for number in range(100):
                step.run(f"work-{number}", time.sleep, 0.05)
        except RunCancelled:
            step.run("clean", world.append, "cleaned")
            raise

    async def aslow() -> None:
        await astep.on_rollback("undo", world.append, "undone")
        try:
            for number in range(100):
                await astep.run(f"work-{number}", time.sleep, 0.05)
        except RunCancelled:
            await astep.run("clean", world.append, "cleaned")
            raise

    task = app.task(shared=False, base=DurableTask, run_timeout="1s", name="slow")(slow if kind == "def" else aslow)
    result = task.apply(task_id="r1")
    assert isinstance(result.result, RunTimeout)
    run = durable.get("r1")
    assert run.status == "failed"
    assert len([one for one in run.steps if one.kind == "run"]) <= 25, "of a hundred"
    assert world == ["cleaned", "undone"]


@pytest.mark.parametrize(("nap", "ends"), [("30m", "done"), ("1w", "done")])
def test_a_sleep_ends_at_once_and_takes_no_time_of_the_run(app: Celery, nap: str, ends: Any) -> None:
    @app.task(shared=False, base=DurableTask, run_timeout="1h")
    def patient() -> str:
        step.sleep(nap)
        return "done"

    assert patient.apply().result == ends


def test_a_wait_for_what_does_not_come_is_refused_also_with_a_run_timeout(app: Celery, durable: Durable) -> None:
    """Not looked for again and again, until the time is up."""

    @app.task(shared=False, base=DurableTask, run_timeout="1m", name="waits")
    def waits() -> None:
        step.wait_for_event("never")

    error = waits.apply(task_id="w1").result
    assert isinstance(error, DurableError)
    assert durable.get("w1").passes <= 3


# ------------------------------------------------------------------- the client


def test_a_failed_run_is_retried_at_once(eager: Celery, durable: Durable, world: list[str]) -> None:
    works: list[bool] = []

    def charge() -> str:
        return "charged" if works else no()

    @eager.task(shared=False, base=DurableTask)
    def order() -> str:
        step.run("reserve", world.append, "reserved")
        return step.options(retry=ONCE).run("charge", charge)

    order.apply_async(task_id="o1")
    assert durable.get("o1").status == "failed"
    assert durable.retry("o1").status == "failed", "it may fail again"
    works.append(True)
    run = durable.retry("o1")
    assert (run.status, run.result, run.restarts) == ("completed", "charged", 2)
    assert world == ["reserved"]
    with pytest.raises(WrongStatus, match="completed: only a failed run can be retried"):
        durable.retry("o1")


def test_copies_are_executed_at_once(eager: Celery, durable: Durable, world: list[str]) -> None:
    @eager.task(shared=False, base=DurableTask, name="three")
    def three(name: str) -> list[str]:
        return [step.run(one, told, f"{name}-{one}") for one in ("first", "second", "third")]

    def told(what: str) -> str:
        world.append(what)
        return what

    @eager.task(shared=False)
    def callback(value: Any) -> None:
        world.append("callback")

    three.apply_async(("a",), task_id="t1", link=callback.s())
    assert world == ["a-first", "a-second", "a-third", "callback"]
    world.clear()
    fork = durable.fork("t1", from_step="third")
    assert (fork.status, fork.forked_from, fork.forked_at) == ("completed", "t1", "third")
    again = durable.replay("t1", args=["b"], task_id="t2")
    assert again.result == ["b-first", "b-second", "b-third"]
    assert durable.replay("t1", args=["b"], task_id="t2").id == "t2"
    assert world == ["a-third", "b-first", "b-second", "b-third"]
    with pytest.raises(StepNotFound):
        durable.fork("t1", from_step="fourth")
    with pytest.raises(TypeError):
        durable.replay("t1", args=[1, 2, 3])


def test_what_is_parked_is_paused_resumed_and_cancelled(eager: Celery, durable: Durable, world: list[str]) -> None:
    @eager.task(shared=False, base=DurableTask)
    def waits(key: str) -> Any:
        step.on_rollback("undo", world.append, f"undone-{key}")
        event = step.wait_for_event("go", key=key)
        return event and event.payload

    for key in ("a", "b"):
        waits.apply_async((key,), task_id=key)
        assert durable.get(key).status == "suspended"
    durable.pause("a")
    durable.emit("go", 7, key="a")
    assert durable.get("a").status == "paused"
    assert durable.resume("a").result == 7
    assert durable.cancel("b").status == "cancelled"
    assert world == ["undone-b"]
    with pytest.raises(WrongStatus, match="completed"):
        durable.cancel("a")


def test_a_run_that_its_own_step_cancels_or_pauses(eager: Celery, durable: Durable, world: list[str]) -> None:
    @eager.task(shared=False, base=DurableTask)
    def order(key: str, how: str) -> str:
        step.run("charge", lambda: getattr(durable, how)(key).status)
        step.on_rollback("refund", world.append, f"refunded-{key}")
        step.run("ship", world.append, f"shipped-{key}")
        return "done"

    for key, how in (("a", "cancel"), ("b", "pause")):
        order.apply_async((key, how), task_id=key)
    assert durable.get("a").status == "cancelled"
    assert durable.get("b").status == "paused"
    assert durable.resume("b").result == "done"
    assert world == ["refunded-a", "shipped-b"]


def test_a_chain_goes_on_with_what_begins_anew(eager: Celery) -> None:
    @eager.task(shared=False, base=DurableTask)
    def up(number: int) -> int:
        if number % 3:
            step.continue_as_new(number + 1)
        return number

    @eager.task(shared=False)
    def double(value: int) -> int:
        return value * 2

    assert chain(up.s(4), double.s(), up.s()).apply_async().get() == 12


@pytest.mark.parametrize("fails", [False, True])
def test_no_worker_is_to_tell_of_an_eager_run_once_more(app: Celery, durable: Durable, fails: bool) -> None:
    @app.task(shared=False, base=DurableTask)
    def ends() -> str:
        return no() if fails else "done"

    ends.apply(task_id="e1")
    wait_until(lambda: durable.get("e1").delivered_at, 3, "it is marked as delivered")
