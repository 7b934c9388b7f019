"""The apps that take part: what they have meanwhile, and afterwards; and operating runs."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from celery import current_app

from celery_durable import Durable, DurableTask, RunCancelled, emit, on_event, step
from celery_durable.testing import DurableEnv
from celery_durable.worker.runtime import runtime_of

from .conftest import Declare, new_app


def parts(app: Any) -> dict[str, Any]:
    return {
        "backend": type(app.backend),
        "control": app.control,
        "send_task": getattr(app.send_task, "__func__", app.send_task),
        "of the instance": {"send_task", "producer_or_acquire", "_get_backend"} & set(vars(app)),
        "producer": getattr(app.producer_or_acquire, "__func__", None),
        "eager": app.conf.task_always_eager,
    }


def test_the_app_has_afterwards_what_it_had(app: Any, durable: Declare, sqlite_url: str) -> None:
    app.conf.durable_database_url = sqlite_url
    app.conf.task_always_eager = True

    @durable
    def nap() -> None:
        step.sleep("1h")

    app.finalize()
    before, runtime = parts(app), runtime_of(app)
    for _ in range(2):
        with DurableEnv() as env:
            env.start(nap).assert_status("suspended")
            assert runtime_of(app) is not runtime
        assert parts(app) == before
        assert runtime_of(app) is runtime


def test_an_app_that_was_never_used_is_as_unused_afterwards(app: Any, durable: Declare) -> None:
    @durable
    def nap() -> int:
        return 1

    with DurableEnv() as env:
        env.start(nap).assert_completed(1)
    assert type(app.backend).__name__ == "RedisBackend"


def test_after_an_error_as_well(app: Any, durable: Declare) -> None:
    @durable
    def fails() -> None:
        raise KeyboardInterrupt

    @durable
    def fine() -> int:
        return 5

    app.finalize()
    before = parts(app)

    with pytest.raises(KeyboardInterrupt), DurableEnv() as env:
        env.start(fails)
    assert parts(app) == before
    with DurableEnv() as env:
        env.start(fine).assert_completed(5)


def test_an_app_whose_tasks_are_eager(app: Any, durable: Declare) -> None:
    app.conf.task_always_eager = True
    app.conf.task_eager_propagates = True

    @durable
    def nap() -> str:
        step.sleep("nap", "3d")
        return "awake"

    with DurableEnv(app) as env:
        run = env.start(nap)
        run.assert_status("suspended")
        env.advance("3d")
        run.assert_completed("awake")
    assert app.conf.task_always_eager is True


def test_a_client_made_before(app: Any, durable: Declare) -> None:
    client = Durable(app)

    @durable
    def nap() -> None:
        step.wait_for_event("paid")

    with DurableEnv(app) as env:
        run = env.start(nap)
        assert client.get(run.id).status == "suspended"
        client.emit("paid", 1)
        run.assert_completed()
        assert [found.id for found in client.runs()] == [run.id]


def test_emit_of_the_current_app(app: Any, durable: Declare) -> None:
    @durable
    def waits() -> Any:
        event = step.wait_for_event("paid")
        return event and event.payload

    before = current_app._get_current_object()
    app.set_current()
    try:
        with DurableEnv() as env:
            run = env.start(waits)
            emit("paid", 7)
            run.assert_completed(7)
    finally:
        before.set_current()


def test_two_apps_take_part(app: Any, durable: Declare) -> None:
    theirs = new_app("theirs")

    @theirs.task(shared=False, base=DurableTask, name="theirs.child", triggers=[on_event("order.created")])
    def child() -> Any:
        step.sleep("1h")
        event = step.wait_for_event("order.paid")
        return event and event.payload

    @durable
    def mine() -> Any:
        step.sleep("2h")
        step.emit("tell", "order.paid", 5)
        return step.wait_for_event("more") is not None

    with DurableEnv(app) as env:
        runs = [env.start(mine), env.start(child)]
        env.run_until_idle()
        runs[1].assert_completed(5)
        env.emit("more")
        runs[0].assert_completed(True)


def test_nested_environments_know_nothing_of_each_other(app: Any, durable: Declare) -> None:
    @durable
    def nap(name: str) -> str:
        step.sleep("1h")
        return name

    with DurableEnv(app) as outer:
        first = outer.start(nap, "outer")
        with DurableEnv(app) as inner:
            second = inner.start(nap, "inner")
            inner.run_until_idle()
            second.assert_completed("inner")
            assert len(inner.runs) == 1
            with pytest.raises(RuntimeError, match="another environment"):
                outer.advance("1h")
        first.assert_status("suspended")
        assert len(outer.runs) == 1
        outer.run_until_idle()
        first.assert_completed("outer")


def test_results_are_read_as_from_a_backend(app: Any, durable: Declare) -> None:
    @durable
    def nap() -> int:
        step.sleep("nap", "1h")
        return 5

    with DurableEnv(app) as env:
        run = env.start(nap)
        result = app.AsyncResult(run.id)
        assert result.state == "STARTED"
        assert "nap" in str(result.info)
        env.run_until_idle()
        assert (result.state, result.get(timeout=1)) == ("SUCCESS", 5)


# --------------------------------------------------------------------- operating


def waits() -> Any:
    try:
        event = step.wait_for_event("paid")
    except RunCancelled:
        step.run("tidy", str, "tidied")
        raise
    return event and event.payload


def test_cancelling(env: DurableEnv, durable: Declare) -> None:
    run = env.start(durable(waits))
    env.durable.cancel(run.id, reason="no more")
    run.assert_status("cancelled")
    run.assert_steps("paid", "tidy")
    assert run.error is not None
    assert "no more" in run.error.message


def test_revoking(env: DurableEnv, durable: Declare) -> None:
    task = durable(waits)
    run = env.start(task)
    env.app.AsyncResult(run.id).revoke()
    run.assert_status("cancelled")
    assert task.AsyncResult(run.id).state == "REVOKED"


def test_revoking_an_ordinary_task_before_it_is_due(env: DurableEnv, ordinary: Declare) -> None:
    done = []

    @ordinary
    def note() -> None:
        done.append(1)

    note.apply_async(countdown=60).revoke()
    note.apply_async(countdown=60)
    env.advance("2m")
    assert done == [1]


def test_pausing_and_resuming(env: DurableEnv, durable: Declare) -> None:
    run = env.start(durable(waits))
    env.durable.pause(run.id)
    env.emit("paid", 1)
    run.assert_status("paused")
    env.durable.resume(run.id)
    run.assert_completed(1)


def test_retrying_and_forking(env: DurableEnv, durable: Declare) -> None:
    calls: list[str] = []

    @durable
    def charges() -> Any:
        step.run("before", calls.append, "before")
        return step.run("charge", charge)

    def charge() -> int:
        calls.append("charge")
        if calls.count("charge") < 5:
            raise LookupError("no card")
        return len(calls)

    run = env.start(charges)
    env.run_until_idle()
    run.assert_failed(LookupError)
    env.durable.retry(run.id)
    env.run_until_idle()
    run.assert_completed()
    assert calls.count("before") == 1
    fork = env.run(env.durable.fork(run.id, from_step="charge").id)
    fork.assert_completed()
    assert calls.count("before") == 1
    assert fork.record.forked_from == run.id


# ----------------------------------------------------------------- what is left


def test_a_replay_with_arguments_that_do_not_fit_leaves_all_as_it_was(env: DurableEnv, durable: Declare) -> None:
    """What an operation refuses in the middle costs no connection, and so no database in memory."""

    @durable
    def onboard(name: str) -> str:
        return str(step.run("create", str.upper, name))

    run = env.start(onboard, "ann")
    with pytest.raises(TypeError):
        env.durable.replay(run.id, args=["ann", "too many"])
    run.assert_completed("ANN")


def test_environments_are_many_and_leave_nothing(app: Any, durable: Declare) -> None:
    @durable
    def nap() -> None:
        step.sleep("1h")

    def alive() -> int:
        gc.collect()
        return len([found for found in gc.get_objects() if type(found) is DurableEnv])

    before = alive()  # what other tests have left in a traceback, say
    for _ in range(30):
        with DurableEnv(app) as env:
            assert env.runs == []
            env.start(nap)
    assert alive() <= before + 3


def test_closing_twice_and_using_it_afterwards(app: Any, durable: Declare) -> None:
    @durable
    def nap() -> int:
        return 1

    env = DurableEnv(app)
    run = env.start(nap)
    env.close()
    env.close()
    for use in (
        lambda: env.start(nap),
        lambda: env.emit("paid"),
        lambda: env.advance("1h"),
        lambda: env.runs,
        lambda: run.status,
        lambda: env.export(run),
        lambda: env.durable,
        lambda: env.check_replay(nap),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    assert run.id in repr(run)
