"""Histories: what was recorded somewhere, replayed by today's code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_durable import Durable, DurableError, DurableTask, Retry, aio, step
from celery_durable.testing import DurableEnv, HistoryError, check_history

from .conftest import new_app


def never(*_: Any) -> Any:
    raise AssertionError("no step is run")


def declare(body: Callable[..., Any], name: str = "order", app: Celery | None = None) -> Any:
    """The task as it is deployed, each time in an app of its own."""
    return (app or new_app()).task(body, shared=False, base=DurableTask, name=name)


def order(name: str = "Ann") -> Any:
    user = step.run("create", str.upper, name)
    step.sleep("nap", "3d")
    event = step.wait_for_event("paid", key=user)
    assert event is not None
    return step.run("send", lambda: event.payload)


@pytest.fixture
def history(tmp_path: Path) -> Callable[..., Path]:
    """The file of a run's history, once the run went as far as ``act`` has let it."""

    def record(body: Any, *args: Any, act: Any = lambda env, run: env.run_until_idle()) -> Path:
        with DurableEnv() as env:
            run = env.start(declare(body), *args)
            act(env, run)
            path = tmp_path / "history.json"
            path.write_text(env.export(run), encoding="utf-8")
        return path

    return record


def to_its_end(env: DurableEnv, run: Any) -> None:
    env.advance("3d")
    env.emit("paid", 5, key="ANN")
    run.assert_completed(5)


@pytest.fixture
def ended(history: Any) -> Path:
    path: Path = history(order, act=to_its_end)
    return path


def test_the_same_code_fits_and_no_step_is_run(ended: Path) -> None:
    def same(name: str = "Ann") -> Any:
        user = step.run("create", never, name)
        step.sleep("nap", "3d")
        step.wait_for_event("paid", key=user)
        return step.run("send", never)

    for body in (order, same):
        check_history(declare(body), ended)
        check_history(declare(body), str(ended))
    check_history(declare(order, name="renamed.task"), ended)


def test_a_history_is_plain_and_stays_as_it_is(ended: Path) -> None:
    told = json.loads(ended.read_text(encoding="utf-8"))
    assert [step["id"] for step in told["steps"]] == ["create", "nap", "paid", "send"]
    check_history(declare(order), ended)
    assert json.loads(ended.read_text(encoding="utf-8")) == told


def test_it_ends_within_an_environment_too(ended: Path, env: DurableEnv, durable: Any) -> None:
    task = durable(order)
    run = env.start(task)
    check_history(task, ended)
    run.assert_status("suspended")


# ------------------------------------------------------------------ breaking changes


def renamed(name: str = "Ann") -> Any:
    user = step.run("make", str.upper, name)
    step.sleep("nap", "3d")
    step.wait_for_event("paid", key=user)
    return step.run("send", never)


def removed(name: str = "Ann") -> Any:
    step.sleep("nap", "3d")
    step.wait_for_event("paid", key="ANN")
    return step.run("send", never)


def removed_at_the_end(name: str = "Ann") -> Any:
    user = step.run("create", str.upper, name)
    step.sleep("nap", "3d")
    event = step.wait_for_event("paid", key=user)
    return event and event.payload


def inserted(name: str = "Ann") -> Any:
    user = step.run("create", str.upper, name)
    step.run("check", never)
    step.sleep("nap", "3d")
    step.wait_for_event("paid", key=user)
    return step.run("send", never)


def inserted_at_the_end(name: str = "Ann") -> Any:
    order(name)
    return step.run("more", never)


def of_another_kind(name: str = "Ann") -> Any:
    user = step.run("create", str.upper, name)
    step.run("nap", never)
    step.wait_for_event("paid", key=user)
    return step.run("send", never)


def reordered(name: str = "Ann") -> Any:
    step.sleep("nap", "3d")
    user = step.run("create", str.upper, name)
    step.wait_for_event("paid", key=user)
    return step.run("send", never)


def fails_in_the_end(name: str = "Ann") -> Any:
    order(name)
    raise LookupError("today")


def with_other_arguments(name: str, *, needed: int) -> Any:
    return order(name)


BREAKING = {
    renamed: "make",
    removed: "create",
    removed_at_the_end: "send",
    inserted: "check",
    inserted_at_the_end: "more",
    of_another_kind: "nap",
    fails_in_the_end: "today|failed",
    with_other_arguments: "TypeError",
}


@pytest.mark.parametrize("body", BREAKING, ids=lambda body: body.__name__)
def test_a_breaking_change_is_found(ended: Path, body: Any) -> None:
    with pytest.raises(HistoryError, match=rf"(?s)order does not fit the history .*history\.json.*({BREAKING[body]})"):
        check_history(declare(body), ended)


def test_steps_in_another_order(ended: Path) -> None:
    """Each of them finds its record by its id, so that the run goes on as it should."""
    check_history(declare(reordered), ended)


def test_a_change_that_is_guarded_fits(ended: Path) -> None:
    def guarded(name: str = "Ann") -> Any:
        user = step.run("create", str.upper, name)
        if step.patched("check"):
            step.run("check", never)
        step.sleep("nap", "3d")
        step.wait_for_event("paid", key=user)
        return step.run("send", never)

    check_history(declare(guarded), ended)


def test_another_input_is_no_misfit(ended: Path) -> None:
    def other(name: str = "Ann") -> Any:
        user = step.run("create", str.upper, name + "!")
        step.sleep("nap", "4d")
        step.wait_for_event("paid", key=user)
        return step.run("send", never)

    check_history(declare(other), ended)


# ------------------------------------------------------------------------ other runs


def test_a_run_that_still_waits(history: Any) -> None:
    path = history(order, act=lambda env, run: run.assert_status("suspended"))
    check_history(declare(order), path)
    check_history(declare(inserted_at_the_end), path)
    for body in (renamed, removed, of_another_kind):
        with pytest.raises(HistoryError):
            check_history(declare(body), path)


def test_a_run_that_failed(history: Any) -> None:
    def refuses() -> Any:
        raise LookupError("nothing there")

    def fails() -> Any:
        step.run("before", abs, 1)
        return step.options(retry=Retry(max_attempts=1)).run("refuse", refuses)

    def catches() -> Any:
        try:
            return fails()
        except LookupError:
            return None

    def catches_and_goes_on() -> Any:
        catches()
        return step.run("after", never)

    path = history(fails)
    check_history(declare(fails), path)
    with pytest.raises(HistoryError, match=r"had failed here, and the body returns"):
        check_history(declare(catches), path)
    with pytest.raises(HistoryError):
        check_history(declare(catches_and_goes_on), path)


def test_a_run_that_was_cancelled(history: Any) -> None:
    def tidies() -> Any:
        try:
            step.wait_for_event("never")
        finally:
            step.run("tidy", abs, 1)

    def does_not_tidy() -> Any:
        step.wait_for_event("never")

    path = history(tidies, act=lambda env, run: env.durable.cancel(run.id))
    check_history(declare(tidies), path)
    with pytest.raises(HistoryError, match="tidy"):
        check_history(declare(does_not_tidy), path)


def test_an_async_run(history: Any) -> None:
    async def both(*, more: bool = False) -> Any:
        import asyncio

        found = await asyncio.gather(aio.step.run("one", abs, 1), aio.step.sleep("nap", "1h"), aio.step.now())
        return [found[0], await aio.step.run("two", abs, 2)]

    async def another() -> Any:
        await aio.step.run("one", abs, 1)
        return await aio.step.run("three", abs, 2)

    path = history(both)
    check_history(declare(both), path)
    with pytest.raises(HistoryError, match="three"):
        check_history(declare(another), path)


def test_a_run_with_children_blocks_and_a_new_beginning(history: Any) -> None:
    def parent(page: int = 0) -> Any:
        with step.parallel() as p:
            found = [p.run(f"part-{number}", abs, number) for number in range(3)]
        step.run("sum", sum, [future.result() for future in found])
        if page == 0:
            step.continue_as_new(1)
        return step.state.increment("count")

    path = history(parent)
    check_history(declare(parent), path)


def test_one_of_a_database(tmp_path: Path, app: Celery, sqlite_url: str) -> None:
    """As in production: ``Durable(app).export``."""
    app.conf.update(durable_database_url=sqlite_url, task_always_eager=True)
    task = declare(lambda_order, app=app)
    run_id = task.apply(("Ann",)).id
    path = tmp_path / "history.json"
    path.write_text(Durable(app).export(run_id), encoding="utf-8")
    check_history(declare(lambda_order), path)
    with pytest.raises(HistoryError, match="make"):
        check_history(declare(renamed), path)


def lambda_order(name: str) -> Any:
    return step.run("create", str.upper, name)


def test_one_without_its_secrets(history: Any, tmp_path: Path) -> None:
    def pays(card: str) -> Any:
        return step.run("pay", len, card)

    with DurableEnv() as env:
        run = env.start(declare(pays), "4111")
        text = env.durable.export(run.id, redact=True)
    path = tmp_path / "redacted.json"
    path.write_text(text, encoding="utf-8")
    check_history(declare(pays), path)


# ------------------------------------------------------------------------ misuse


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"run": {}}', '{"celery_durable_history": 1}'])
def test_no_history(tmp_path: Path, text: str) -> None:
    path = tmp_path / "history.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DurableError, match="no history"):
        check_history(declare(order), path)


def test_a_history_of_another_format(tmp_path: Path, ended: Path) -> None:
    told = json.loads(ended.read_text(encoding="utf-8")) | {"celery_durable_history": 99}
    path = tmp_path / "new.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(DurableError, match="format 99"):
        check_history(declare(order), path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_history(declare(order), tmp_path / "none.json")


def test_the_arguments_the_wrong_way_round(ended: Path) -> None:
    with pytest.raises(TypeError, match="base=DurableTask"):
        check_history(ended, declare(order))


def test_the_app_is_given_back(ended: Path) -> None:
    task = declare(order)
    check_history(task, ended)
    with pytest.raises(HistoryError):
        check_history(declare(renamed, app=task.app, name="other"), ended)
    assert "send_task" not in vars(task.app)


def other_order(_name: str) -> None: ...


def test_what_is_no_history_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "of-another-kind.json"
    path.write_text("{}")
    with pytest.raises(DurableError, match=r"of-another-kind\.json: this is no history of a run"):
        check_history(declare(order), path)


def test_the_history_of_another_task_is_told_with_its_name(ended: Path) -> None:
    """It may have been renamed, or the wrong file was taken."""
    with pytest.raises(HistoryError, match=r"other does not fit the history .* of order: "):
        check_history(declare(other_order, "other"), ended)
