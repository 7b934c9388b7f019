"""What a step is found again by, what goes into it and what comes out."""

from __future__ import annotations

import dataclasses
import logging
import math
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from celery_durable import (
    DuplicateStep,
    HistoryMismatch,
    NotInDurableTask,
    NotSerializable,
    PayloadTooLarge,
    Retry,
    TooManySteps,
    step,
)
from celery_durable.engine.executor import Failed, Finished, Parked
from celery_durable.engine.settings import Settings

from .driving import LEASE, Driver

Started = Callable[..., Driver]

untyped: Any = step
"""The verbs, for uses that a type checker would refuse."""


def line_of(mark: str) -> int:
    """The number of the line of this file that ends with a mark."""
    with open(__file__) as source:  # noqa: PTH123
        (number,) = [number for number, line in enumerate(source, 1) if line.rstrip().endswith(f"# {mark}")]
    return number


# -- Ids


def test_a_recorded_step_is_not_run_again(started: Started) -> None:
    calls: list[str] = []

    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    def body() -> list[int]:
        first = step.run("first", call, "first")
        step.sleep("nap", "1h")
        return [first, step.run("second", call, "second")]

    assert started(body).value() == [1, 2]
    assert calls == ["first", "second"]


def test_an_id_that_is_used_twice_names_both_places(started: Started) -> None:
    def body() -> None:
        step.run("charge", int)  # first use
        step.run("charge", int)  # second use

    ended = started(body).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, DuplicateStep)
    said = str(ended.error)
    assert "'charge' is used twice" in said
    assert f"{__file__}, line {line_of('first use')}, in body" in said
    assert f"{__file__}, line {line_of('second use')}, in body" in said


def test_a_duplicate_is_noticed_on_replays_too(started: Started) -> None:
    def body(twice: bool) -> None:
        step.run("charge", int)
        step.sleep("nap", "1h")
        if twice:
            step.run("charge", int)

    driver = started(body)
    assert isinstance(driver.one_pass("r1", False), Parked)
    driver.let_time_pass()
    ended = driver.one_pass("r1", True)
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, DuplicateStep)


@pytest.mark.parametrize(
    "use",
    [
        lambda: (step.run("a", int), step.sleep("a", "1h")),
        lambda: (step.sleep("a", 0), step.sleep_until("a", 0)),
        lambda: (step.transaction("a", lambda session: 1), step.run("a", int)),
        lambda: (step.sleep(0), step.run("sleep", int)),
    ],
)
def test_kinds_share_their_ids(started: Started, use: Callable[[], object]) -> None:
    ended = started(use).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, DuplicateStep)


@pytest.mark.parametrize("wrong", ["", " a", "a ", "a\n", "a\x00", "x" * 256])
def test_ids_that_no_database_would_find_again(started: Started, wrong: str) -> None:
    ended = started(lambda: step.run(wrong, int)).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, ValueError)


@pytest.mark.parametrize("wrong", [None, 1, b"a", int])
def test_an_id_is_a_string(started: Started, wrong: Any) -> None:
    ended = started(lambda: step.run(wrong, int)).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, TypeError)
    assert "a step's id comes first" in str(ended.error)


def test_decorated_functions_are_numbered(started: Started) -> None:
    calls: list[str] = []

    @step
    def fetch(name: str) -> str:
        """Its docstring."""
        calls.append(name)
        return name.upper()

    @step(retry=Retry(max_attempts=1), timeout="10s")
    def other() -> int:
        return len(fetch("inside"))  # in a step it is a plain function

    def body() -> list[Any]:
        found = [fetch("a"), fetch("b"), other()]
        step.sleep("1h")
        found.append(fetch("c"))
        step.sleep("1h")
        return found

    driver = started(body)
    assert driver.value() == ["A", "B", 6, "C"]
    assert list(driver.steps()) == ["fetch", "fetch#2", "other", "sleep", "fetch#3", "sleep#2"]
    assert calls == ["a", "b", "inside", "c"]
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Its docstring.")
    assert fetch("outside") == "OUTSIDE"


class Sdk:
    region = "eu"
    limits = (1, 2)
    nothing = None

    def __init__(self) -> None:
        self.chat = Chat()
        self.calls: list[str] = []

    def whoami(self, loud: bool = False) -> str:
        self.calls.append("whoami")
        return "ME" if loud else "me"


class Chat:
    def post(self, text: str) -> dict[str, str]:
        return {"text": text}

    def fail(self) -> None:
        raise ValueError("refused")


def test_a_wrapped_object(started: Started) -> None:
    sdk = Sdk()

    def body() -> list[Any]:
        slack = step.options(retry=Retry(max_attempts=1)).wrap("slack", sdk)
        found: list[Any] = [slack.whoami(), slack.chat.post("a"), slack.whoami(loud=True), slack.chat.post(text="b")]
        found.extend([slack.region, list(slack.limits), slack.nothing])
        step.sleep("nap", "1h")
        try:
            slack.chat.fail()
        except ValueError as error:
            found.append(str(error))
        return found

    driver = started(body)
    assert driver.value() == ["me", {"text": "a"}, "ME", {"text": "b"}, "eu", [1, 2], None, "refused"]
    assert list(driver.steps()) == [
        "slack.whoami#1",
        "slack.chat.post#1",
        "slack.whoami#2",
        "slack.chat.post#2",
        "nap",
        "slack.chat.fail#1",
    ]
    assert sdk.calls == ["whoami", "whoami"]


def test_a_wrapped_object_keeps_its_own_names(started: Started) -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = step.wrap("slack", Sdk()).nothing_like_it
    assert "slack" in repr(step.wrap("slack", Sdk()))


# -- Where verbs work

VERBS: dict[str, Callable[[], Any]] = {
    "step.run": lambda: step.run("a", int),
    "step.transaction": lambda: step.transaction("a", lambda session: 1),
    "step.sleep": lambda: step.sleep("1h"),
    "step.sleep_until": lambda: step.sleep_until("a", 0),
    "step.now": lambda: step.now(),
    "step.random": lambda: step.random(),
    "step.uuid4": lambda: step.uuid4(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_outside_a_run_says_what_to_do(verb: str) -> None:
    def checkout() -> None:
        VERBS[verb]()

    with pytest.raises(NotInDurableTask) as caught:
        checkout()
    said = str(caught.value)
    assert said.startswith(f"{verb} was called in ")
    assert __file__ in said
    assert "base=DurableTask" in said
    assert ".delay()" in said


def test_the_function_that_called_the_verb_is_named() -> None:
    def checkout() -> None:
        step.run("a", int)

    with pytest.raises(NotInDurableTask, match=r"step\.run was called in checkout\(\)"):
        checkout()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_inside_a_step_is_refused(started: Started, verb: str) -> None:
    ended = started(lambda: step.run("outer", VERBS[verb])).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotInDurableTask)
    assert f"{verb} was called inside the step 'outer'" in str(ended.error)


def test_current_outside_a_step_is_refused(started: Started) -> None:
    with pytest.raises(NotInDurableTask, match=r"step\.current\(\) was called outside a step"):
        step.current()
    ended = started(lambda: step.current()).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotInDurableTask)


# -- A body that has changed


def test_another_kind_of_step_pauses_the_run(started: Started) -> None:
    def body(version: int) -> str:
        step.run("a", int) if version != 2 else step.sleep("a", "1h")
        step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    driver.one_pass("r1", 1)
    driver.let_time_pass()
    ended = driver.one_pass("r1", 2)
    assert isinstance(ended, Parked)
    assert ended.status == "paused"
    run = driver.run()
    assert (run["status"], run["due_at"]) == ("paused", None)
    assert run["waiting_on"].startswith("code: step 'a' of run r1 does not fit what was recorded.\n")
    assert "recorded: a 'run' step" in run["waiting_on"]
    assert "step.patched" in ended.waiting_on
    assert __file__ in ended.waiting_on
    assert driver.dispatcher.announced[-1] == ended.waiting_on
    with driver.store.link() as link:
        assert driver.store.reconsider(link, ["t"]) == 1
    assert driver.value("r1", 3) == "done"


def test_a_body_that_catches_the_mismatch_is_paused_all_the_same(started: Started) -> None:
    later: list[str] = []

    def body(version: int) -> str:
        try:
            step.run("a", int) if version == 1 else step.sleep("a", "1h")
        except HistoryMismatch:
            later.append("caught")
        if version == 2:
            step.run("b", lambda: later.append("ran"))
        step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    driver.one_pass("r1", 1)
    driver.let_time_pass()
    ended = driver.one_pass("r1", 2)
    assert isinstance(ended, Parked)
    assert ended.status == "paused"
    assert later == ["caught"]
    assert "b" not in driver.steps()


def changing(amount: int) -> str:
    step.run("charge", str, amount)
    step.sleep("nap", "1h")
    return "done"


def test_another_input_is_warned_of_and_the_record_kept(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    driver = started(changing)
    driver.one_pass("r1", 1)
    driver.let_time_pass()
    with caplog.at_level(logging.WARNING, "celery_durable"):
        assert driver.value("r1", 2) == "done"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "run r1, step 'charge': its recorded result was kept" in warning
    assert "another input" in warning
    assert __file__ in warning
    assert driver.steps()["charge"]["result"] == '"1"'


def test_another_input_pauses_where_inputs_are_strict(started: Started) -> None:
    driver = started(changing, settings=Settings(lease=LEASE, strict_inputs=True))
    driver.one_pass("r1", 1)
    driver.let_time_pass()
    ended = driver.one_pass("r1", 2)
    assert isinstance(ended, Parked)
    assert ended.status == "paused"
    driver.store.reconsider(driver.store.link(), ["t"])
    assert driver.value("r1", 1) == "done"


@pytest.mark.parametrize("strict", [False, True])
def test_the_same_input_in_another_order_is_the_same(started: Started, strict: bool, caplog: Any) -> None:
    def body(given: dict[str, int]) -> str:
        step.run("a", len, given)
        step.sleep("nap", "1h")
        return "done"

    driver = started(body, settings=Settings(lease=LEASE, strict_inputs=strict))
    driver.one_pass("r1", {"x": 1, "y": 2})
    driver.let_time_pass()
    assert driver.value("r1", {"y": 2, "x": 1}) == "done"
    assert not caplog.records


# -- Values


class Charge(BaseModel):
    id: str
    amount: Decimal


@dataclasses.dataclass
class Address:
    street: str
    tags: set[str]


def make_charge(address: Address, when: datetime) -> Charge:
    assert isinstance(address, Address)
    assert isinstance(when, datetime)
    return Charge(id=address.street, amount=Decimal("1.50"))


class Till:
    def take(self, charge: Charge) -> Decimal:
        assert isinstance(charge, Charge)
        return charge.amount

    def keep(self, session: Any, charge: Charge, note: str) -> Decimal:
        assert isinstance(charge, Charge)
        return charge.amount


def test_values_are_what_the_annotations_say_in_every_pass(started: Started) -> None:
    seen: list[Any] = []

    def body() -> Charge:
        charge = step.run("charge", make_charge, Address("Road", {"a"}), datetime(2026, 1, 1, tzinfo=timezone.utc))
        taken = step.run("take", Till().take, charge)
        plain = step.run("plain", lambda: {1: (Decimal(1), {2})})
        hinted = step.options(returns=list[Charge]).run("hinted", lambda: [{"id": "c", "amount": "2"}])
        seen.append([charge, taken, plain, hinted])
        step.sleep("nap", "1h")
        return charge

    driver = started(body, result=Charge)
    assert driver.value() == {"id": "Road", "amount": Decimal("1.50")}
    first, second = seen
    assert first == second
    assert [type(value) for value in second] == [Charge, Decimal, dict, list]
    assert second[0] == Charge(id="Road", amount=Decimal("1.50"))
    assert second[2] == {1: (Decimal(1), {2})}
    assert type(second[3][0]) is Charge


def test_the_session_of_a_transaction_is_no_argument_of_the_step(started: Started) -> None:
    """The annotations of its function had counted from the session: each was that of the argument before."""

    def keep(session: Any, charge: Charge, number: int, note: str) -> Decimal:
        assert isinstance(charge, Charge)
        return charge.amount * number + len(note)

    def body() -> list[Decimal]:
        charge = Charge(id="c", amount=Decimal("1.50"))
        return [
            step.transaction("function", keep, charge, 2, "note"),
            step.transaction("method", Till().keep, charge, note="note"),
        ]

    assert started(body).value() == [Decimal("7.00"), Decimal("1.50")]


def test_what_is_done_to_a_steps_arguments_and_result_is_not_seen(started: Started) -> None:
    kept: list[Any] = []

    def spoil(items: list[int], *, more: dict[str, int]) -> list[int]:
        items.append(99)
        more["spoilt"] = 1
        kept.append(items)
        return items

    def body() -> Any:
        items, more = [1], {"a": 1}
        found = step.run("spoil", spoil, items, more=more)
        seen = list(found)
        kept[0].append("later")
        step.sleep("nap", 0)
        return [items, more, seen, found]

    assert started(body).value() == [[1], {"a": 1}, [1, 99], [1, 99]]


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: step.run("s", len, [object()]), "the input of step 's' can't be stored: object at [0][0][0]"),
        (lambda: step.run("s", lambda: [object()]), "the result of step 's' can't be stored: object at [0]"),
        (
            lambda: untyped.run("s", make_charge, 1, 2),
            "step 's', argument 'address', does not fit its annotation Address",
        ),
        (lambda: step.options(returns=int).run("s", lambda: "x"), "the result of step 's' does not fit its annotation"),
        (lambda: object(), "the result of run r1 can't be stored: object"),
    ],
)
def test_a_value_that_can_not_be_stored(started: Started, use: Callable[[], Any], said: str) -> None:
    ended = started(use).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotSerializable)
    assert said in str(ended.error)


def test_an_async_function_is_explained(started: Started) -> None:
    async def fetch() -> int:
        return 1

    ended = started(lambda: step.run("fetch", fetch)).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotSerializable)
    assert "is async" in str(ended.error)


# -- Limits

SMALL = Settings(lease=LEASE, max_payload=20_000)


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (lambda: step.run("s", len, "x" * 20_000), "the input of step 's' of run r1 takes 20,009 bytes"),
        (lambda: step.run("s", lambda: "x" * 20_000), "the result of step 's' of run r1 takes 20,002 bytes"),
        (lambda: "x" * 20_000, "the result of run r1 takes 20,002 bytes"),
        (lambda: step.transaction("s", lambda session: "x" * 20_000), "the result of step 's' of run r1 takes"),
        (lambda: step.run("s", lambda: step.current().heartbeat("x" * 20_000)), "a heartbeat of run r1 takes"),
    ],
)
def test_a_value_that_is_too_large(started: Started, use: Callable[[], Any], what: str) -> None:
    ended = started(use, settings=SMALL).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, PayloadTooLarge)
    assert what in str(ended.error)
    assert "durable_max_payload is 20,000" in str(ended.error)


def test_an_error_that_is_too_large_is_shortened(started: Started) -> None:
    def fail() -> None:
        raise ValueError("x" * 25_000)

    ended = started(lambda: step.options(retry=Retry(1)).run("s", fail), settings=SMALL).one_pass()
    assert isinstance(ended, Failed)
    assert "too large to store" in str(ended.error)
    assert "ValueError: xxx" in str(ended.error)


def counted(use: Callable[[int], Any]) -> Callable[[], None]:
    def body() -> None:
        for index in range(5):
            use(index)

    return body


@pytest.mark.parametrize(
    "use",
    [
        lambda index: step.run(f"s{index}", int),
        lambda index: step.now(),
        lambda index: step.sleep(0),
        pytest.param(lambda index: step.sleep("1h")),
        pytest.param(lambda index: step.transaction(f"s{index}", lambda session: 1)),
    ],
    ids=["run", "now", "no sleep", "sleep", "transaction"],
)
def test_too_many_steps(started: Started, use: Callable[[int], Any]) -> None:
    driver = started(counted(use), settings=Settings(lease=LEASE, max_steps=3))
    ended = driver.finish()
    assert isinstance(ended, Failed), ended
    assert isinstance(ended.error, TooManySteps)
    assert "has recorded 3 steps, which is durable_max_steps" in str(ended.error)


def test_not_one_step_too_many(started: Started) -> None:
    driver = started(counted(lambda index: step.run(f"s{index}", int)), settings=Settings(lease=LEASE, max_steps=3))
    driver.finish()
    assert list(driver.steps()) == ["s0", "s1", "s2"]


def test_a_step_that_is_too_many_does_nothing(started: Started) -> None:
    done: list[int] = []
    driver = started(
        counted(lambda index: step.run(f"s{index}", done.append, index)), settings=Settings(lease=LEASE, max_steps=3)
    )
    driver.finish()
    assert len(done) == len(driver.steps())


# -- Sleeps and values


def test_a_time_that_is_past_returns_at_once(started: Started) -> None:
    def body() -> str:
        step.sleep_until("a", datetime.now(timezone.utc) - timedelta(seconds=1))
        step.sleep_until("2020-01-01T00:00:00Z")
        step.sleep("b", 0)
        return "awake"

    driver = started(body)
    assert isinstance(driver.one_pass(), Finished)
    assert {name: row["status"] for name, row in driver.steps().items()} == {
        "a": "completed",
        "sleep_until": "completed",
        "b": "completed",
    }


def test_a_sleep_parks_until_it_is_over(started: Started) -> None:
    driver = started(lambda: step.sleep("nap", "1h30m"))
    ended = driver.one_pass()
    assert ended == Parked("the sleep 'nap' (1h30m)")
    run = driver.run()
    assert run["status"] == "suspended"
    assert run["waiting_on"] == "the sleep 'nap' (1h30m)"
    assert 5_390 < (run["wake_at"] - run["created_at"]) / 1e6 < 5_410
    assert run["due_at"] == run["wake_at"] - driver.settings.eta_horizon
    assert driver.dispatcher.woken == []


def test_a_short_sleep_is_sent_ahead(started: Started) -> None:
    driver = started(lambda: step.sleep("nap", "5s"))
    driver.dispatcher.ahead = True
    assert isinstance(driver.one_pass(), Parked)
    (delay,) = driver.dispatcher.woken
    assert 4_000_000 < delay <= 5_000_000
    assert driver.run()["sends"] == 1


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        (lambda: step.sleep("soon"), ValueError),
        (lambda: step.sleep("a", -1), ValueError),
        (lambda: untyped.sleep("a", None), TypeError),
        (lambda: untyped.sleep("a", "1h", 3), TypeError),
        (lambda: untyped.sleep(), TypeError),
        (lambda: step.sleep("a", float("nan")), ValueError),
        (lambda: step.sleep_until("a", datetime(2030, 1, 1)), ValueError),  # noqa: DTZ001
        (lambda: step.sleep_until("2030-01-01"), ValueError),
        (lambda: step.sleep_until("a", "tomorrow"), ValueError),
        (lambda: untyped.sleep_until("a", None), TypeError),
        (lambda: step.options(timeout="soon"), ValueError),
        (lambda: untyped.options(retry=3), TypeError),
    ],
)
def test_wrong_times_are_refused(started: Started, use: Callable[[], Any], kind: type[Exception]) -> None:
    driver = started(use)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is kind
    assert driver.steps() == {}


def test_values_are_recorded_once(started: Started) -> None:
    seen: list[Any] = []

    def body() -> None:
        seen.append([step.now(), step.random(), step.uuid4(), step.now(), step.random(), step.uuid4()])
        step.sleep("nap", "1h")

    driver = started(body)
    driver.finish()
    first, second = seen
    assert first == second
    when, number, key, later, other, another = first
    assert isinstance(when, datetime)
    assert when.tzinfo is not None
    assert abs(when - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert later >= when
    assert isinstance(key, uuid.UUID)
    assert (0 <= number < 1, math.isclose(number, other), key == another) == (True, False, False)
    assert list(driver.steps()) == ["now", "random", "uuid4", "now#2", "random#2", "uuid4#2", "nap"]
