"""``step.state``: values that outlive a run. Each access is a step; no addition is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from cryptography.fernet import Fernet as Original
from sqlalchemy import text

from celery_durable import NotInDurableTask, NotSerializable, PayloadTooLarge, aio, step
from celery_durable.codecs import Fernet
from celery_durable.core.codec import decode
from celery_durable.engine.executor import Failed, Finished
from celery_durable.engine.settings import Settings
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .controls import Starting, counted, put
from .driving import LEASE, Driver, Noted
from .test_events import rows


def state_of(store: Store, task: str = "t") -> dict[str, Any]:
    with store.link() as link:
        return {row["key"]: decode(row["value"]) for row in store.states_of(link, task)}


def at_once(store: Store, run_id: str, body: Callable[[], Any]) -> Any:
    """The value of a run of its own."""
    driver = Driver(store, body)
    driver.start(run_id)
    return driver.value(run_id)


def keep(store: Store, key: str, value: Any, **options: Any) -> None:
    at_once(store, f"keeps {len(rows(store, 'run'))}", lambda: step.state.set(key, value, **options))


# -- Each access is a step


def test_each_access_is_recorded_and_numbered(start: Starting) -> None:
    async def body(step: Any) -> list[Any]:
        found: list[Any] = [await step.state.get("cursor"), await step.state.get("cursor", "none yet")]
        await step.state.set("cursor", {"page": 1})
        found += [await step.state.get("cursor", "none yet"), await step.state.increment("count")]
        await step.sleep("nap", "1h")
        found += [await step.state.increment("count", by=2.5), await step.state.delete("cursor")]
        return [*found, await step.state.delete("cursor"), await step.state.get("cursor")]

    driver = start(body)
    assert driver.value() == [None, "none yet", {"page": 1}, 1, 3.5, True, False, None]
    steps = driver.kinds()
    assert steps == [
        ("state.get(cursor)", "state"),
        ("state.get(cursor)#2", "state"),
        ("state.set(cursor)", "state"),
        ("state.get(cursor)#3", "state"),
        ("state.increment(count)", "state"),
        ("nap", "sleep"),
        ("state.increment(count)#2", "state"),
        ("state.delete(cursor)", "state"),
        ("state.delete(cursor)#2", "state"),
        ("state.get(cursor)#4", "state"),
    ]
    assert state_of(driver.store) == {"count": 3.5}


def test_what_a_run_has_read_stays_so_for_it(start: Starting) -> None:
    seen: list[Any] = []

    async def body(step: Any) -> None:
        before = await step.state.get("rate", 1), await step.state.increment("uses"), await step.state.delete("old")
        await step.sleep("nap", "1h")
        seen.append((*before, await step.state.get("rate", 1)))
        await step.sleep("nap more", "1h")

    driver = start(body)
    keep(driver.store, "old", "value")
    driver.parks()
    keep(driver.store, "rate", 2)
    keep(driver.store, "uses", 100)
    keep(driver.store, "old", "another")
    driver.let_time_pass()
    driver.finish()
    assert seen == [(1, 1, True, 2)] * 2
    assert state_of(driver.store) == {"rate": 2, "uses": 100, "old": "another"}


def test_a_recorded_access_costs_no_statement(start: Starting) -> None:
    async def body(step: Any, accesses: int) -> None:
        for number in range(accesses):
            await step.state.set("a", number)
            await step.state.increment("n")
            await step.state.get("a")
            await step.state.delete("a")
        await step.sleep("nap", "1h")

    costs = []
    for accesses in (1, 20):
        driver = start(body, run_id=f"r{accesses}")
        driver.parks(f"r{accesses}", accesses)
        driver.let_time_pass(f"r{accesses}")
        with counted(driver.store.engine) as statements:
            assert isinstance(driver.one_pass(f"r{accesses}", accesses), Finished)
        costs.append(len(statements))
    assert costs[0] == costs[1] <= 3


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        "",
        [],
        {},
        True,
        "é\u0000",
        Decimal("1.50"),
        datetime(2030, 1, 1, tzinfo=timezone.utc),
        (1, {2}),
        b"\xff",
    ],
)
def test_any_value_that_can_be_recorded_can_be_kept(start: Starting, value: Any) -> None:
    async def body(step: Any) -> Any:
        await step.state.set("a", value)
        return [await step.state.get("a", "default"), await step.state.delete("a"), await step.state.get("a", "gone")]

    assert start(body).value() == [value, True, "gone"]


def test_a_value_that_can_not_be_stored_is_told_in_the_body(start: Starting) -> None:
    async def body(step: Any, value: Any) -> None:
        await step.state.set("a", value)

    for number, (value, kind) in enumerate([(object(), NotSerializable), ("x" * 2000, PayloadTooLarge)]):
        driver = start(body, run_id=f"r{number}", settings=Settings(lease=LEASE, max_payload=1000))
        ended = driver.one_pass(f"r{number}", value)
        assert isinstance(ended, Failed)
        assert type(ended.error) is kind
        assert driver.steps(f"r{number}") == {}
        assert state_of(driver.store) == {}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("", ValueError),
        (" a", ValueError),
        ("a\n", ValueError),
        ("x" * 201, ValueError),
        (None, TypeError),
        (1, TypeError),
    ],
)
def test_keys_that_no_database_would_find_again(start: Starting, key: Any, kind: type[Exception]) -> None:
    async def body(step: Any) -> None:
        await step.state.get(key)

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is kind
    assert driver.steps() == {}


def test_keys_are_told_apart_byte_by_byte(any_store: Store) -> None:
    keys = ["a", "A", "é", "e\u0301", "ä", "x" * 200, "x" * 199, "straße", "strasse"]

    def body() -> None:
        for number, key in enumerate(keys):
            step.state.set(key, number)

    at_once(any_store, "r1", body)
    assert state_of(any_store) == {key: number for number, key in enumerate(keys)}


def test_state_is_shared_by_the_runs_of_one_task_alone(store: Store) -> None:
    class Other(Noted):
        def task_name(self) -> str:
            return "other"

    def body() -> Any:
        return step.state.increment("count")

    other = Driver(store, body)
    other.dispatcher = Other()
    other.start("of another")
    assert [at_once(store, "a", body), at_once(store, "b", body), other.value("of another")] == [1, 2, 1]
    assert (state_of(store, "t"), state_of(store, "other")) == ({"count": 2}, {"count": 1})


USES: dict[str, Callable[[], Any]] = {
    "step.state.get": lambda: step.state.get("a"),
    "step.state.set": lambda: step.state.set("a", 1),
    "step.state.delete": lambda: step.state.delete("a"),
    "step.state.increment": lambda: step.state.increment("a"),
}


@pytest.mark.parametrize("use", USES)
def test_state_outside_a_body_says_what_to_do(store: Store, use: str) -> None:
    with pytest.raises(NotInDurableTask, match=rf"{use} was called in "):
        USES[use]()
    driver = Driver(store, lambda: step.run("outer", USES[use]))
    driver.start()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert f"{use} was called inside the step 'outer'" in str(ended.error)
    assert state_of(store) == {}


def test_branches_of_a_gather_count_together(store: Store) -> None:
    seen: list[Any] = []

    async def branch(name: str) -> Any:
        await aio.step.run(name, asyncio.sleep, 0.001 * len(name))
        return await aio.step.state.increment("count")

    async def body() -> None:
        seen.append(await asyncio.gather(branch("aaa"), branch("bb"), branch("c")))
        await aio.step.sleep("nap", "1h")

    driver = Driver(store, body)
    driver.start()
    driver.finish()
    assert sorted(seen[0]) == [1, 2, 3]
    assert seen[0] == seen[1]
    assert state_of(store) == {"count": 3}


# -- For a while


def test_a_value_is_gone_when_its_time_is_over(start: Starting) -> None:
    async def body(step: Any) -> Any:
        return [await step.state.get("token", "none"), await step.state.delete("token")]

    driver = start(body)
    keep(driver.store, "token", "secret", ttl="1h")
    assert state_of(driver.store) == {"token": "secret"}
    put(driver.store, "state", expires_at=1)
    assert state_of(driver.store) == {}
    assert driver.value() == ["none", False]


def test_a_short_time_passes_by_itself(any_store: Store) -> None:
    keep(any_store, "token", "secret", ttl=0.3)
    assert state_of(any_store) == {"token": "secret"}
    wait_until(lambda: state_of(any_store) == {})
    assert at_once(any_store, "late", lambda: step.state.get("token", "none")) == "none"


@pytest.mark.parametrize(("then", "expires"), [("set", False), ("set with ttl", True), ("increment", True)])
def test_what_becomes_of_the_time_when_the_value_is_changed(start: Starting, then: str, expires: bool) -> None:
    async def body(step: Any) -> None:
        if then == "increment":
            await step.state.increment("count")
        else:
            await step.state.set("count", 6, **({"ttl": "2h"} if "ttl" in then else {}))

    driver = start(body)
    keep(driver.store, "count", 5, ttl="1h")
    (before,) = rows(driver.store, "state")
    driver.value()
    (after,) = rows(driver.store, "state")
    assert state_of(driver.store) == {"count": 6}
    assert (after.expires_at is not None) == expires
    if then == "increment":
        assert after.expires_at == before.expires_at
    elif expires:
        assert after.expires_at > before.expires_at


def test_adding_to_what_has_expired_begins_anew_and_for_good(start: Starting) -> None:
    async def body(step: Any) -> Any:
        return await step.state.increment("count", by=2)

    driver = start(body)
    keep(driver.store, "count", 5, ttl="1h")
    put(driver.store, "state", expires_at=1)
    assert driver.value() == 2
    assert rows(driver.store, "state")[0].expires_at is None


def test_the_sweeper_forgets_what_has_expired_and_nothing_else(any_store: Store) -> None:
    for number in range(3):
        keep(any_store, f"old {number}", "value", ttl="1h")
    put(any_store, "state", expires_at=1)
    keep(any_store, "later", "value", ttl="1h")
    keep(any_store, "for good", "value")
    with any_store.link() as link:
        assert [any_store.forget_states(link, 2) for _ in range(3)] == [2, 1, 0]
    assert sorted(row.key for row in rows(any_store, "state")) == ["for good", "later"]


@pytest.mark.parametrize("ttl", [-1, 0, "soon", float("nan")])
def test_a_time_for_which_nothing_can_be_kept_is_refused(start: Starting, ttl: Any) -> None:
    async def body(step: Any) -> None:
        await step.state.set("a", 1, ttl=ttl)

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed), ended
    assert isinstance(ended.error, ValueError)
    assert driver.steps() == {}


# -- Sealed


def test_what_is_kept_is_sealed_where_all_else_is(database_url: str) -> None:
    store = Store(database_url, sealer=Fernet(Original.generate_key().decode()))
    store.migrate()
    try:
        keep(store, "token", "hush", ttl="1h")
        assert at_once(
            store, "reads", lambda: [step.state.get("token"), step.state.increment("n"), step.state.increment("n")]
        ) == ["hush", 1, 2]
        with store.engine.connect() as connection:
            stored = connection.execute(text("SELECT value FROM durable_state")).scalars().all()
        assert len(stored) == 2
        assert all("hush" not in value and value not in ("1", "2") for value in stored)
    finally:
        store.engine.dispose()
