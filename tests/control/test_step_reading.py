"""Reading a run's steps: in outline, and some of them in full. On every database alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from celery_durable import Retry, step
from celery_durable.codecs import Fernet
from celery_durable.core.redaction import redact_value
from celery_durable.errors import RunNotFound
from celery_durable.model import StepRecord
from celery_durable.store.link import Link
from celery_durable.store.store import Store
from tests.engine.blocks import ONCE
from tests.engine.driving import Driver

from .operating import Clerk, begin, driver_of, fail

KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
VALUES = ("input", "result", "heartbeat", "tries")


def beating(step_input: dict[str, str]) -> str:
    step.current().heartbeat(42)
    return step_input["name"]


def body() -> None:
    with step.parallel(settle=True) as p:
        p.run("value", beating, {"name": "Ann", "password": "hunter2"})
        p.options(retry=ONCE).run("bad", fail, "Grüße")
        p.options(retry=Retry(max_attempts=3, delay="1h")).run("again", fail, "not now")
        p.call("child", "another")
        p.sleep("over", "1ms")
        p.sleep("nap", "1h")


@pytest.fixture
def clerk(store: Store, link: Link) -> Clerk:
    begin(store, link, "r1")
    driver_of(store, body).one_pass()
    begin(store, link, "r2")
    driver_of(store, lambda: step.run("value", int)).one_pass("r2")
    return Clerk(store, redact_value)


def by_id(steps: tuple[StepRecord, ...]) -> dict[str, StepRecord]:
    return {one.id: one for one in steps}


def test_an_outline_is_the_run_without_the_values_of_its_steps(clerk: Clerk) -> None:
    full, outline = clerk.get("r1"), clerk.get("r1", values=False)
    assert outline.model_copy(update={"steps": full.steps}) == full
    for one, other in zip(full.steps, outline.steps, strict=True):
        error = None if one.error is None else one.error.model_copy(update={"traceback": None, "notes": ()})
        without = dict.fromkeys(("input", "result", "heartbeat")) | {"tries": (), "error": error}
        assert other == one.model_copy(update=without)
    steps = by_id(outline.steps)
    assert [steps[name].status for name in ("value", "bad", "again", "child", "over", "nap")] == [
        "completed", "failed", "waiting", "waiting", "completed", "waiting",
    ]  # fmt: skip
    assert [one.id for one in outline.steps] == ["value", "bad", "again", "child", "over", "nap"]
    for name, message in (("bad", "Grüße"), ("again", "not now")):
        error = steps[name].error
        assert error is not None
        assert (error.type, error.message, error.traceback) == ("ValueError", message, None)
    assert steps["child"].child is not None
    assert steps["over"].finished_at == steps["over"].wake_at is not None
    assert {one.block for one in outline.steps} == {"parallel:0"}
    full.model_validate(outline.model_dump())  # what is made in a hurry is what it says it is


def test_an_outline_reads_no_values(clerk: Clerk, store: Store) -> None:
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement.replace("`", "").replace('"', ""))

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        clerk.get("r1", values=False)
    finally:
        event.remove(store.engine, "before_cursor_execute", note)
    (of_steps,) = (statement for statement in asked if "FROM durable_step" in statement)
    assert not any(f"durable_step.{name}" in of_steps for name in VALUES)
    assert "durable_step.block" in of_steps


def test_some_steps_are_read_in_full(clerk: Clerk) -> None:
    full = by_id(clerk.get("r1").steps)
    found = clerk.steps("r1", ["bad", "value", "no-such", "bad"])
    assert found == (full["value"], full["bad"])  # in the order in which they were asked for
    assert found[0].result == "Ann"
    assert found[0].heartbeat == 42
    assert found[0].input == [[{"name": "Ann", "password": "***"}], {}]
    assert found[1].error is not None
    assert "ValueError" in (found[1].error.traceback or "")
    assert clerk.steps("r1", iter(["over"]))[0].status == "completed"
    assert clerk.steps("r2", ["value"])[0].result == 0
    assert clerk.steps("r2", ["bad"]) == clerk.steps("r2", []) == ()


def test_a_run_that_is_not_there_is_refused(clerk: Clerk) -> None:
    for ids in (["value"], []):
        with pytest.raises(RunNotFound, match="there is no run 'nowhere' in"):
            clerk.steps("nowhere", ids)
    with pytest.raises(RunNotFound, match="there is no run 'nowhere' in"):
        clerk.get("nowhere", values=False)


def test_ids_that_are_none_are_refused(clerk: Clerk) -> None:
    with pytest.raises(ValueError, match="ids='value': a list of at most 1,000 ids of steps is expected"):
        clerk.steps("r1", "value")
    with pytest.raises(ValueError, match="at most 1,000 ids"):
        clerk.steps("r1", map(str, range(1001)))
    assert clerk.steps("r1", map(str, range(1000))) == ()


@pytest.fixture
def sealed(store: Store) -> Iterator[Store]:
    own = Store(store.engine.url.render_as_string(hide_password=False), sealer=Fernet(KEY))
    yield own
    own.engine.dispose()


def test_what_is_sealed_is_read_all_the_same(sealed: Store) -> None:
    with sealed.link() as link:
        begin(sealed, link, "r1")
    driver = Driver(sealed, body)
    driver.one_pass()
    clerk = Clerk(sealed)
    steps = by_id(clerk.get("r1", values=False).steps)
    assert steps["bad"].error is not None
    assert steps["bad"].error.message == "Grüße"
    assert clerk.steps("r1", ["value"])[0].result == "Ann"
    for number in (1, 2):  # what a pass is given goes on with the next attempt
        driver.let_time_pass()
        driver.one_pass()
        (again,) = clerk.steps("r1", ["again"])
        assert [one.error.message for one in again.tries] == ["not now"] * min(number + 1, 2)
    assert again.status == "failed"
    with sealed.engine.connect() as connection:
        stored = connection.execute(text("SELECT tries FROM durable_step WHERE id = 'again'")).scalar_one()
    assert stored.startswith("sealed:")
