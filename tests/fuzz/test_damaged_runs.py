"""A run with a damaged row: its body never sees it, nobody goes round in circles, and a person is told where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_durable import DurableTask, Retry, aio, step
from celery_durable.testing import DurableEnv
from celery_durable.testing.runs import EnvRun

from .damaging import DAMAGES, UNREADABLE, damage

app = Celery("damaged", broker="memory://", backend="cache+memory://", set_as_current=False)
CAUGHT: list[str] = []


def refuse() -> None:
    raise ValueError("no")


@app.task(base=DurableTask)
def child() -> str:
    step.sleep("1h")
    return "grown"


@app.task(base=DurableTask)
def work(order: str = "o-1") -> list[Any]:
    """All kinds of records, and a body that catches everything it may."""
    got: list[Any] = []
    for ask in (
        lambda: step.run("good", str.upper, "a"),
        lambda: step.options(retry=Retry(max_attempts=1)).run("bad", refuse),
        lambda: step.state.set("k", 5),
        lambda: step.now(),
        lambda: step.emit("sent", "told", {"a": 1}),
        lambda: step.set_progress(1, 2),
        lambda: step.call("called", child.s()),
        lambda: step.wait_for_event("asked", match={"n": 1}, timeout="2h"),
        lambda: step.state.get("k"),
    ):
        try:
            got.append(ask())
        except Exception as error:
            CAUGHT.append(type(error).__name__)
            got.append(str(error))
    return got


@app.task(base=DurableTask)
async def awaited() -> list[Any]:
    try:
        first = await aio.step.run("good", str.upper, "a")
    except Exception as error:
        CAUGHT.append(type(error).__name__)
        first = str(error)
    await aio.step.wait_for_event("asked")
    return [first]


@pytest.fixture
def env() -> Iterator[DurableEnv]:
    CAUGHT.clear()
    with DurableEnv(app) as opened:
        yield opened


def until_it_waits(env: DurableEnv) -> EnvRun:
    run = env.start(work)
    env.advance("1h")
    assert (run.status, env.durable.get(run.id).waiting_on) == ("suspended", "the event 'asked'"), run
    CAUGHT.clear()
    return run


damaged = pytest.mark.parametrize("text", [DAMAGES[name] for name in UNREADABLE], ids=UNREADABLE)
OF_STEPS = [("good", "result"), ("bad", "error"), ("now", "result"), ("sent", "result"), ("called", "result")]


@damaged
@pytest.mark.parametrize(("step_id", "column"), OF_STEPS)
def test_a_damaged_step_pauses_its_run(env: DurableEnv, step_id: str, column: str, text: str) -> None:
    run = until_it_waits(env)
    damage(env.store, "step", column, text, run_id=run.id, id=step_id)
    env.emit("asked", {"n": 1})
    found = env.durable.get(run.id)
    assert set(CAUGHT) <= {"ValueError"}, "the body has seen it"
    assert found.status == "paused"
    assert str(found.waiting_on).startswith(f"damaged: step {step_id!r} of run {run.id}: ")
    assert found.steps, "a person can look at it"


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES)
def test_it_goes_on_when_the_row_is_mended(env: DurableEnv, text: str) -> None:
    run = until_it_waits(env)
    with env.store.link() as link:
        found = env.store.get(link, run.id)
    assert found is not None
    error = next(row["error"] for row in found[1] if row["id"] == "bad")
    damage(env.store, "step", "error", text, run_id=run.id, id="bad")
    env.emit("asked", {"n": 1})
    assert run.status == "paused"

    damage(env.store, "step", "error", error, run_id=run.id, id="bad")
    env.durable.resume(run.id)
    env.run_until_idle()
    assert run.result[:2] == ["A", "no"]
    assert run.result[6] == "grown"
    assert run.result[7]["payload"] == {"n": 1}


def test_a_damaged_step_pauses_an_async_run(env: DurableEnv) -> None:
    run = env.start(awaited)
    damage(env.store, "step", "result", "{not", run_id=run.id, id="good")
    env.emit("asked")
    assert run.status == "paused"
    assert not CAUGHT
    assert str(env.durable.get(run.id).waiting_on).startswith("damaged: step 'good'")


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("column", ["arguments", "message"])
def test_what_a_run_was_started_with_pauses_it(env: DurableEnv, column: str, text: str) -> None:
    run = until_it_waits(env)
    damage(env.store, "input", column, text, run_id=run.id)
    env.emit("asked", {"n": 1})
    env.advance("1h")
    found = env.durable.get(run.id)
    assert found.status == "paused"
    assert str(found.waiting_on).startswith("damaged: ")


@damaged
def test_what_no_replay_asks_for_stops_nothing(env: DurableEnv, text: str) -> None:
    run = until_it_waits(env)
    damage(env.store, "run", "error", text, id=run.id)
    damage(env.store, "step", "tries", text, run_id=run.id)
    damage(env.store, "step", "input", text, run_id=run.id)
    env.durable.get(run.id)
    env.emit("asked", {"n": 1})
    assert run.status == "completed"


@damaged
def test_a_damaged_match_pauses_its_run_and_answers_the_others(env: DurableEnv, text: str) -> None:
    bad, good = until_it_waits(env), until_it_waits(env)
    damage(env.store, "wait", "match", text, run_id=bad.id)
    env.emit("asked", {"n": 1})
    assert good.status == "completed"
    assert bad.status == "paused"
    assert str(env.durable.get(bad.id).waiting_on).startswith("damaged: what it waits for: ")


@damaged
def test_a_damaged_event_keeps_no_later_one_back(env: DurableEnv, text: str) -> None:
    run = until_it_waits(env)
    env.emit("asked", {"n": 2}, event_id="bad")
    damage(env.store, "event", "payload", text, id="bad")
    with env.store.engine.begin() as connection:
        connection.execute(env.store.tables.event.update().values(dispatched_at=None, due_at=1))
    env.emit("asked", {"n": 1}, event_id="good")
    env.advance("1h")
    assert run.status == "completed"
    assert run.result[7]["id"] == "good"
    assert env.durable.event("bad").dispatched_at is not None
    assert len(env.durable.events(name="asked")) == 2


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_damaged_end_is_delivered_once_as_such(
    env: DurableEnv, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = until_it_waits(env)
    env.emit("asked", {"n": 1})
    damage(env.store, "run", "result", "{not", id=run.id)
    damage(env.store, "run", "error", "{not", id=run.id)
    of, now = env.store.tables.run, int(env.now.timestamp() * 1_000_000)
    with env.store.engine.begin() as connection:
        connection.execute(
            of.update().where(of.c.id == run.id).values(status=status, due_at=now, wake_at=now, delivered_at=None)
        )
    env.advance("1h")
    found = env.durable.get(run.id)
    assert (found.status, found.delivered_at is not None) == (status, True)
    assert ("raised unexpected: DamagedRecord" in caplog.text) == (status != "cancelled")


@damaged
def test_a_damaged_state_pauses_who_reads_it(env: DurableEnv, text: str) -> None:
    run = until_it_waits(env)
    damage(env.store, "state", "value", text, key="k")
    env.durable.state(work.name)
    env.emit("asked", {"n": 1})
    assert str(env.durable.get(run.id).waiting_on).startswith("damaged: step")

    damage(env.store, "state", "value", "7", key="k")
    env.durable.resume(run.id)
    env.run_until_idle()
    assert run.result[-1] == 7


def test_half_a_character_in_what_a_run_says_does_not_make_it_unreadable(env: DurableEnv) -> None:
    """JSON can write it, and nothing else can."""

    def refuse_oddly() -> None:
        raise ValueError("\ud83d and \x00")

    @app.task(base=DurableTask, shared=False, name="odd")
    def odd() -> None:
        step.set_progress(1, note="\ud83d")
        step.options(retry=Retry(max_attempts=2, delay="1s")).run("bad", refuse_oddly)

    run = env.start(odd)
    assert "ValueError" in str(env.durable.get(run.id).waiting_on)
    env.run_until_idle()
    found = env.durable.get(run.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.message == "\\ud83d and \x00"
    assert found.progress is not None
    assert found.progress.note == "\\ud83d"
