"""What passes ``check_replay``, what can be allowed, and what it returns and takes."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group

from celery_durable import DurableTask, Retry, aio, emit, get_logger, step
from celery_durable.testing import DurableEnv, EnvRun, ReplayError

from .conftest import Declare

HOURLY = Retry(max_attempts=3, delay="1h", jitter=True)
logger = logging.getLogger(__name__)
durable_logger = get_logger(__name__)


def test_effects_inside_of_steps_are_none(env: DurableEnv, durable: Declare, tmp_path: Path) -> None:
    def effects() -> Any:
        (tmp_path / "x").write_text("x")
        subprocess.run(["true"], check=True)
        return [str(uuid.uuid4()), time.time(), random.random()]

    async def later() -> Any:
        await asyncio.sleep(0.1)
        return effects()

    @durable
    def sync() -> Any:
        found = step.run("effects", effects)
        with step.parallel() as p:
            more = [p.run(f"effects-{number}", effects) for number in range(3)]
        return [found, [future.result() for future in more], step.now().isoformat(), step.random(), str(step.uuid4())]

    @durable
    async def asynchronous() -> Any:
        return await asyncio.gather(
            aio.step.run("later", later), aio.step.run("threaded", effects), aio.step.sleep("1h")
        )

    assert env.check_replay(sync).status == "completed"
    assert env.check_replay(asynchronous).status == "completed"


def test_logging_in_a_body_is_no_effect(env: DurableEnv, durable: Declare, tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    logger.addHandler(handler)

    @durable
    def logs() -> None:
        logger.warning("begun")
        durable_logger.info("durably")
        step.run("work", logger.warning, "inside")
        logger.warning("done")

    try:
        env.check_replay(logs)
    finally:
        logger.removeHandler(handler)
        handler.close()


def test_reading_a_file_and_importing_are_none(env: DurableEnv, durable: Declare) -> None:
    @durable
    def reads() -> Any:
        import colorsys

        return [Path(__file__).read_text()[:3], step.run("work", colorsys.rgb_to_hls, 0, 0, 0)]

    env.check_replay(reads)


def test_what_is_done_while_garbage_is_collected_is_no_effect_of_the_body(env: DurableEnv, durable: Declare) -> None:
    """Other packages look at the clock then: Hypothesis measures how long it takes."""

    def measure(_phase: str, _info: dict[str, int]) -> None:
        time.perf_counter()

    @durable
    def body() -> Any:
        gc.collect()
        return step.run("one", int)

    gc.callbacks.append(measure)
    try:
        env.check_replay(body)
    finally:
        gc.callbacks.remove(measure)


def test_an_effect_can_be_allowed_by_its_name_or_its_function(env: DurableEnv, durable: Declare) -> None:
    def stamp() -> float:
        return time.time()

    @durable
    def measured() -> Any:
        began = stamp()
        step.run("work", abs, -1)
        logger.info("took %s", time.monotonic() - began)
        return None

    with pytest.raises(ReplayError) as caught:
        env.check_replay(measured)
    assert "stamp() reads the clock (time.time)" in str(caught.value)
    assert "measured() reads the clock (time.monotonic)" in str(caught.value)
    with pytest.raises(ReplayError, match=r"time\.monotonic"):
        env.check_replay(measured, allow=["time.time"])
    env.check_replay(measured, allow=["stamp", "time.monotonic"])
    env.check_replay(measured, allow=["stamp", "measured"])
    env.check_replay(measured, allow=("time.time", "time.monotonic"))


def test_allow_is_no_single_text(env: DurableEnv, durable: Declare) -> None:
    @durable
    def measured() -> float:
        return time.time() * 0

    with pytest.raises(TypeError, match="allow"):
        env.check_replay(measured, allow="time.time")


def test_sets_whose_order_does_not_matter_are_none(env: DurableEnv, durable: Declare) -> None:
    def letters(*_: Any) -> set[str]:
        return set("ab")

    @durable
    def sorts() -> Any:
        names = letters()
        more = sorted(step.run("letters", letters, names))
        names = names | {"c"}
        for name in sorted(names):
            step.run(name, str.upper, name)

        def each(names: list[str]) -> Any:
            return [step.run(f"{name}!", str.upper, name) for name in names]

        return [each(more), len(names), "a" in names, max(name for name in names)]

    assert env.check_replay(sorts).result == [["A", "B"], 3, True, "c"]


def test_sets_of_tasks_and_of_numbers_are_none(env: DurableEnv, durable: Declare) -> None:
    """What is left of ``asyncio.wait`` is cancelled in any order."""

    @durable
    async def races() -> Any:
        waits = [asyncio.ensure_future(aio.step.wait_for_event(f"never-{number}")) for number in range(2)]
        quick = asyncio.ensure_future(aio.step.run("quick", abs, -1))
        done, pending = await asyncio.wait([quick, *waits], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        numbers = await aio.step.run("numbers", numbered)
        return [[task.result() for task in done], [number for number in numbers]]  # noqa: C416

    assert env.check_replay(races).result == [[1], [1, 2]]


def numbered() -> set[int]:
    return {1, 2}


# ------------------------------------------------------------------------ scripts


def waits() -> Any:
    event = step.wait_for_event("paid", key=step.run("key", str, "k"), timeout="1d")
    step.sleep("1h")
    return event and event.payload


def test_scripts_of_one_and_two_parameters(env: DurableEnv, durable: Declare) -> None:
    seen = []

    def one(of: DurableEnv) -> None:
        of.advance("1h")
        of.emit("paid", 1, key="k")

    def two(of: DurableEnv, run: EnvRun) -> None:
        seen.append(run.status)
        run.assert_waiting_on("paid")
        of.emit("paid", 2, key="k")
        of.advance("1h")
        run.assert_completed(2)

    task = durable(waits)
    assert env.check_replay(task, script=one).result == 1
    assert env.check_replay(task, script=two).result == 2
    assert seen == ["suspended"] * 2
    assert env.check_replay(task, script=lambda of: None).result is None
    assert env.check_replay(task).result is None


def test_a_script_that_uses_the_environment_around_it_is_told(env: DurableEnv, durable: Declare) -> None:
    with pytest.raises(RuntimeError, match=r"script\(env\)"):
        env.check_replay(durable(waits), script=lambda: env.emit("paid", 1, key="k"))


def test_a_canvas_is_executed_once(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    calls: list[int] = []

    @ordinary
    def add(one: int, two: int) -> int:
        calls.append(one)
        return one + two

    @durable
    def parent() -> Any:
        return [step.call("chain", chain(add.s(1, 1), add.s(2))), step.call("group", group(add.s(5, 1), add.s(6, 1)))]

    assert env.check_replay(parent).result == [4, [6, 7]]
    assert sorted(calls) == [1, 2, 5, 6]


def test_the_environment_itself_has_no_run_of_it(env: DurableEnv, durable: Declare) -> None:
    began = env.now
    env.check_replay(durable(waits))
    assert (env.runs, env.now) == ([], began)


def test_a_script_that_fails_is_told_as_it_is(env: DurableEnv, durable: Declare) -> None:
    def script(of: DurableEnv, run: EnvRun) -> None:
        run.assert_completed(5)

    with pytest.raises(AssertionError, match="not completed") as caught:
        env.check_replay(durable(waits), script=script)
    assert not isinstance(caught.value, ReplayError)
    env.check_replay(env.app.tasks["waits"])


def test_what_is_no_durable_task_is_refused(env: DurableEnv) -> None:
    with pytest.raises(TypeError, match="base=DurableTask"):
        env.check_replay(waits)


def test_arguments_are_the_tasks(env: DurableEnv, durable: Declare) -> None:
    @durable
    def adds(one: int, *, two: int = 0) -> int:
        return step.run("add", lambda: one + two)

    run = env.check_replay(adds, 1, two=2)
    assert (run.args, run.kwargs, run.result) == ([1], {"two": 2}, 3)


# ---------------------------------------------------------------------- functions


def test_functions_are_called_the_first_time_only(env: DurableEnv, durable: Declare) -> None:
    calls: list[str] = []

    def flaky(name: str) -> int:
        calls.append(name)
        if step.current().attempt < 3:
            raise ConnectionError(name)
        return step.current().attempt

    @durable(step_retry=HOURLY)
    def retries() -> Any:
        return [step.run("one", flaky, "one"), step.map("more", flaky, ["two", "three"])]

    run = env.check_replay(retries)
    assert run.result == [3, [3, 3]]
    assert sorted(calls) == sorted(["one", "two", "three"] * 3)


def test_mocks_stand_in(env: DurableEnv, durable: Declare) -> None:
    def never() -> int:
        raise AssertionError("not to be called")

    @durable
    def calls() -> Any:
        return [step.run("one", never), step.call("two", "elsewhere.task")]

    mocks = env.mock(never, returns=1), env.mock("elsewhere.task", returns=2)
    assert env.check_replay(calls).result == [1, 2]
    assert [mock.call_count for mock in mocks] == [1, 1]


def test_a_function_that_emits_what_the_run_waits_for(env: DurableEnv, durable: Declare, app: Any) -> None:
    def pay() -> None:
        env.app.tasks["payer"].delay()
        emit_of(app, "ordered")

    @durable
    def payer() -> None:
        step.sleep("1h")
        step.run("tell", lambda: emit_of(app, "paid"))

    @durable
    def order() -> Any:
        step.run("pay", pay)
        return [step.wait_for_event(name).payload for name in ("ordered", "paid")]

    run = env.check_replay(order)
    assert run.result == [1, 1]


def emit_of(app: Any, name: str) -> None:
    app.set_current()
    emit(name, 1)


def test_a_task_that_emits_what_the_run_waits_for(
    env: DurableEnv, durable: Declare, ordinary: Declare, app: Any
) -> None:
    calls = []

    @ordinary
    def charge() -> int:
        calls.append(1)
        emit_of(app, "charged")
        return 5

    @durable
    def order() -> Any:
        charged = step.call("charge", charge.s())
        event = step.wait_for_event("charged", timeout="1d")
        return [charged, event and event.payload]

    assert env.check_replay(order).result == [5, 1]
    assert calls == [1]


def test_children_are_checked_as_well(env: DurableEnv, durable: Declare) -> None:
    @durable
    def child() -> Any:
        return step.run(f"pay-{time.time_ns()}", abs, 1)

    @durable
    def parent() -> Any:
        return step.call("child", child.s())

    with pytest.raises(ReplayError, match=r"time_ns[\s\S]*of child|time_ns"):
        env.check_replay(parent)


def test_a_child_of_another_app(env: DurableEnv, durable: Declare) -> None:
    @durable(step_retry=HOURLY)
    def child(number: int) -> int:
        step.sleep("1h")
        return number

    @durable
    def parent() -> Any:
        with step.parallel() as p:
            calls = [p.call(f"child-{number}", child.s(number)) for number in range(3)]
        return [call.result() for call in calls]

    assert env.check_replay(parent).result == [0, 1, 2]


def test_a_run_that_fails_the_same_way_passes(env: DurableEnv, durable: Declare) -> None:
    @durable
    def fails() -> None:
        step.run("work", abs, 1)
        raise LookupError("nothing there")

    assert env.check_replay(fails).status == "failed"


def test_autoretry_of_a_run(env: DurableEnv, durable: Declare) -> None:
    calls: list[int] = []

    def find() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise LookupError("nothing there")
        return len(calls)

    @durable(autoretry_for=(LookupError,), max_retries=4, retry_backoff=True, step_retry=Retry(max_attempts=1))
    def finds() -> Any:
        step.run("before", abs, 1)
        return step.run("find", find)

    assert env.check_replay(finds).result == 3


def test_locks_state_and_beginning_again(env: DurableEnv, durable: Declare) -> None:
    @durable
    def counts(page: int = 0) -> Any:
        with step.lock("mine", "shop", ttl="1h"):
            step.state.increment("pages")
            step.options(at_most_once=True).run("page", abs, page)
        step.sleep("1h")
        if page < 2:
            step.continue_as_new(page + 1)
        return step.state.get("pages")

    assert env.check_replay(counts).result == 3


def test_bound_and_pydantic_tasks(env: DurableEnv, app: Any) -> None:
    @app.task(shared=False, base=DurableTask, name="bound", bind=True)
    def bound(self: Any, number: int) -> Any:
        return [self.name, self.request.id, step.run("work", abs, number)]

    assert env.check_replay(bound, -1).result == ["bound", "check-replay", 1]


def test_one_after_the_other_and_profiles_and_hooks_are_left(env: DurableEnv, durable: Declare) -> None:
    import sys

    task = durable(waits)
    for _ in range(5):
        env.check_replay(task)
    assert sys.getprofile() is None
