"""What stands in for functions, tasks and steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery import chain, chord

from celery_durable import CallFailed, Retry, StepFailed, aio, step
from celery_durable.testing import DurableEnv, Mock, MockCall, UnusedMock

from .conftest import Declare

ONCE = Retry(max_attempts=1)


class Declined(Exception):
    """The card is."""


def charge(amount: int, *, currency: str = "EUR") -> Any:
    raise AssertionError("the real one was called")


@step
def refund(amount: int) -> Any:
    raise AssertionError("the real one was called")


async def fetch(name: str) -> Any:
    raise AssertionError("the real one was called")


class Gateway:
    def pay(self, amount: int) -> int:
        raise AssertionError("the real one was called")


@pytest.fixture
def shop(durable: Declare) -> Any:
    @durable
    def shop(amount: int = 5) -> Any:
        return step.options(retry=Retry(max_attempts=3, delay="1m", jitter=False)).run(
            "charge", charge, amount, currency="USD"
        )

    return shop


def test_a_function_by_itself_and_by_its_step(env: DurableEnv, shop: Any) -> None:
    for target in (charge, "charge", "cha*"):
        with DurableEnv(env.app) as inner:
            mock = inner.mock(target, returns={"id": "c1"})
            run = inner.start(shop, 7)
            run.assert_completed({"id": "c1"})
            assert mock.calls == [MockCall((7,), {"currency": "USD"}, "charge", run.id, 1)]
            assert (mock.called, mock.call_count) == (True, 1)


def test_nothing_said_is_none(env: DurableEnv, shop: Any) -> None:
    env.mock(charge)
    env.start(shop).assert_completed(None)


def test_raises(env: DurableEnv, shop: Any) -> None:
    mock = env.mock(charge, raises=Declined("no money"))
    run = env.start(shop)
    env.run_until_idle()
    run.assert_failed("no money")
    assert [call.attempt for call in mock.calls] == [1, 2, 3]
    assert len(run.error.notes if run.error else ()) <= 2  # of one error, not of three


def test_an_error_that_is_raised_again_tells_of_one_call(env: DurableEnv, shop: Any) -> None:
    """Its traceback grew with each attempt, and filled the log of the test."""
    mock = env.mock(charge, raises=Declined("no money"))
    run = env.start(shop)
    env.run_until_idle()
    assert mock.call_count == 3
    error = run.step("charge").error
    assert error is not None
    assert (error.traceback or "").count("in stand_in") == 1


def test_raises_a_type(env: DurableEnv, shop: Any) -> None:
    env.mock(charge, raises=Declined)
    run = env.start(shop)
    env.run_until_idle()
    run.assert_failed(Declined)


def test_side_effects_one_after_the_other(env: DurableEnv, shop: Any) -> None:
    mock = env.mock(charge, side_effect=[ConnectionError("one"), Declined, "paid"])
    run = env.start(shop)
    env.run_until_idle()
    run.assert_completed("paid")
    assert mock.call_count == 3


def test_too_few_side_effects_are_told(env: DurableEnv, shop: Any) -> None:
    env.mock(charge, side_effect=[ConnectionError("one")])
    run = env.start(shop)
    env.run_until_idle()
    run.assert_failed("no value for one more call")


def test_a_function_instead(env: DurableEnv, shop: Any) -> None:
    env.mock(charge, side_effect=lambda amount, currency: [step.current().step_id, amount, currency])
    env.start(shop, 3).assert_completed(["charge", 3, "USD"])


def test_fail_once(env: DurableEnv, durable: Declare) -> None:
    @durable
    def adds() -> int:
        return step.options(retry=Retry(max_attempts=2, delay="1m", jitter=False)).run("add", lambda: 1 + 1)

    mock = env.fail_once("add")
    other = env.fail_once("add", ValueError("mine"))
    run = env.start(adds)
    run.assert_status("suspended")
    assert other.called
    env.run_until_idle()
    run.assert_failed(ConnectionError)
    assert mock.called
    again = env.start(adds)
    again.assert_completed(2)


def test_later_mocks_come_first(env: DurableEnv, shop: Any) -> None:
    first = env.mock(charge, returns=1)
    env.start(shop).assert_completed(1)
    env.mock(charge, returns=2)
    env.start(shop).assert_completed(2)
    assert first.call_count == 1


def test_a_decorated_function(env: DurableEnv, durable: Declare) -> None:
    @durable
    def refunds() -> Any:
        return [refund(1), refund(2)]

    mock = env.mock(refund, returns=True)
    env.start(refunds).assert_completed([True, True])
    assert [call.step_id for call in mock.calls] == ["refund", "refund#2"]


def test_a_method(env: DurableEnv, durable: Declare) -> None:
    gateway = Gateway()

    @durable
    def pays() -> Any:
        return [step.run("one", gateway.pay, 1), step.wrap("gateway", gateway).pay(2)]

    mock = env.mock(gateway.pay, returns=5)
    env.start(pays).assert_completed([5, 5])
    assert mock.call_count == 2


def test_a_method_of_a_class(env: DurableEnv, durable: Declare) -> None:
    @durable
    def pays() -> Any:
        return step.run("one", Gateway().pay, 1)

    mock = env.mock(Gateway.pay, returns=5)
    env.start(pays).assert_completed(5)
    assert mock.calls[0].args == (1,)


def test_async_functions(env: DurableEnv, durable: Declare) -> None:
    async def slowly(name: str) -> str:
        await asyncio.sleep(3600)
        return name.upper()

    @durable
    async def fetches(*names: str) -> Any:
        return await asyncio.gather(*(aio.step.run(name, fetch, name) for name in names))

    other = env.mock(fetch, side_effect=slowly)
    mock = env.mock("a", returns=1)
    began = env.now
    env.start(fetches, "a", "b", "c").assert_completed([1, "B", "C"])
    assert (env.now - began).total_seconds() == 3600
    assert (mock.call_count, other.call_count) == (1, 2)


def test_each_step_of_a_map_and_a_transaction(env: DurableEnv, durable: Declare) -> None:
    def book(session: Any, name: str) -> Any:
        raise AssertionError("the real one was called")

    @durable
    def many() -> Any:
        return [step.map("charges", charge, [1, 2]), step.transaction("book", book, "x")]

    env.mock(charge, returns="first")
    env.mock("charges[1]", returns="second")
    booked = env.mock(book, returns="booked")
    env.start(many).assert_completed([["first", "second"], "booked"])
    assert booked.calls[0].args[1:] == ("x",)


def test_what_a_mock_returns_crosses_the_boundary(env: DurableEnv, durable: Declare) -> None:
    def count() -> int:
        return 1

    @durable
    def counts() -> Any:
        return step.options(retry=ONCE).run("count", count)

    env.mock(count, returns="not a number")
    run = env.start(counts)
    run.assert_status("failed")
    assert "count" in (run.error.message if run.error else "")


# ------------------------------------------------------------------------- tasks


def test_tasks_and_children(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def plain(number: int) -> Any:
        raise AssertionError("the real one was called")

    @durable
    def child(number: int) -> Any:
        raise AssertionError("the real one was called")

    @durable
    def parent() -> Any:
        with step.parallel() as p:
            calls = [p.call("plain", plain.s(1)), p.call("child", child.s(2)), p.call("far", "far.away")]
        return [call.result() for call in calls]

    mocks = [env.mock(plain, returns=1), env.mock(child, returns=2), env.mock("far.*", returns=3)]
    run = env.start(parent)
    run.assert_completed([1, 2, 3])
    assert [mock.calls[0].args for mock in mocks] == [(1,), (2,), ()]
    assert {mock.calls[0].run_id for mock in mocks} == {run.id}


def test_a_task_that_fails(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def plain() -> None: ...

    @durable
    def parent() -> Any:
        try:
            step.options(retry=ONCE).call("plain", plain.s())
        except (Declined, CallFailed, StepFailed) as error:
            return str(error)

    env.mock(plain, raises=Declined("no money"))
    run = env.start(parent)
    env.run_until_idle()
    assert "no money" in run.result


def test_a_task_that_a_function_sends(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def notify(name: str) -> None:
        raise AssertionError("the real one was called")

    @durable
    def parent() -> Any:
        return step.run("notify", lambda: bool(notify.delay("ann").id))

    mock = env.mock(notify)
    env.start(parent).assert_completed(True)
    assert mock.calls == [MockCall(("ann",), {})]


def test_the_result_of_a_mocked_task_is_there(env: DurableEnv, ordinary: Declare) -> None:
    @ordinary
    def add(one: int) -> int:
        return one + 1

    env.mock(add, returns=50)
    result = add.delay(1)
    env.run_until_idle()
    assert result.get(timeout=1) == 50


def test_chains_and_callbacks_go_on_after_a_mock(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    done = []

    @ordinary
    def add(one: int, two: int) -> int:
        return one + two

    @ordinary
    def note(value: int) -> int:
        done.append(value)
        return value

    @durable
    def double(number: int) -> int:
        raise AssertionError("the real one was called")

    @durable
    def parent() -> Any:
        return [
            step.call("chain", chain(add.s(1, 1), double.s(), note.s())),
            step.call("chord", chord([add.s(1, 1), double.s(1)], note.s())),
        ]

    env.mock(add, returns=10)
    env.mock(double, side_effect=lambda number: number + 0.5)
    run = env.start(parent)
    env.run_until_idle()
    run.assert_completed([10.5, [10, 1.5]])
    assert done == [10.5, [10, 1.5]]


def test_a_mock_of_everything_is_of_steps_and_tasks_of_the_user(
    env: DurableEnv, durable: Declare, ordinary: Declare
) -> None:
    @durable
    def waits() -> Any:
        step.run("one", charge, 1)
        step.sleep("1m")
        event = step.wait_for_event("paid")
        return event and event.payload

    mock = env.mock("*", returns=5)
    run = env.start(waits)
    env.emit("paid", 1)
    env.advance("1h")
    run.assert_completed(1)
    assert {call.step_id for call in mock.calls} == {"one"}


# ------------------------------------------------------------------------- misuse


def test_an_unused_mock_is_told_with_what_there_was(app: Any, shop: Any) -> None:
    env = DurableEnv()
    env.mock(charge, returns=1)
    env.mock("chrage", returns=1)
    env.start(shop)
    with pytest.raises(UnusedMock, match=r"'chrage'[\s\S]*Did you mean 'charge'[\s\S]*'charge'"):
        env.__exit__(None, None, None)


def test_an_unused_mock_does_not_hide_an_error(app: Any, shop: Any) -> None:
    env = DurableEnv()
    env.mock("chrage", returns=1)
    env.__exit__(ZeroDivisionError, ZeroDivisionError(), None)


def test_an_unused_mock_of_a_function(app: Any, shop: Any) -> None:
    with (
        pytest.raises(UnusedMock, match=r"mock of (.*\.)?fetch stands in for[\s\S]*none at all"),
        DurableEnv(app) as env,
    ):
        env.mock(fetch)


def test_an_unused_fail_once(app: Any, shop: Any) -> None:
    with pytest.raises(UnusedMock), DurableEnv(app) as env:
        env.fail_once("charge")


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (charge, {"returns": 1, "raises": Declined}, "one of returns"),
        (charge, {"returns": None, "side_effect": len}, "one of returns"),
        (charge, {"raises": "no money"}, "an exception is expected"),
        (charge, {"raises": int}, "an exception is expected"),
        (charge, {"side_effect": 5}, "side_effect"),
        (5, {}, "a function, a Celery task or a step's id"),
        (None, {}, "a function, a Celery task or a step's id"),
    ],
)
def test_misuse_is_told(env: DurableEnv, target: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        env.mock(target, **options)


def test_a_mock_that_another_one_hides_is_told(shop: Any) -> None:
    env = DurableEnv()
    env.mock("charge", returns=1)
    env.mock(charge, returns=2)
    env.start(shop)
    with pytest.raises(UnusedMock, match="those that are made later come first"):
        env.__exit__(None, None, None)


def test_its_repr_tells_what_and_how_often() -> None:
    assert repr(Mock(charge)) == "<mock of charge, called 0 times>"
    assert "step-*" in repr(Mock("step-*"))


def test_a_signature_is_no_target(env: DurableEnv, ordinary: Declare) -> None:
    @ordinary
    def add(one: int) -> int:
        return one

    with pytest.raises(TypeError, match="a function, a Celery task"):
        env.mock(add.s(1))
