"""``Durable.check``: code that does not fit the runs under way is found, and code that fits is left in peace."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import text

from celery_durable import Durable, DurableTask, Retry, step
from celery_durable.core.codec import encode
from celery_durable.core.ids import fingerprint
from celery_durable.engine.executor import Failed, Finished, Parked, execute
from celery_durable.model import Check
from celery_durable.store.records import NewRun
from celery_durable.store.store import Store
from celery_durable.worker import checking
from tests.engine.driving import Noted
from tests.kill.corpus import Notes, Shape
from tests.kill.killing import Cast, Commits, complete, die, drive, in_child, recover

from . import corpus_changes, corpus_check
from .corpus_changes import ALARMING, HARMLESS, Change
from .corpus_check import SHAPES
from .operating import Clerk, all_rows, driver_of, fail

ONCE = Retry(max_attempts=1)


@pytest.fixture
def store(sqlite_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store(sqlite_url)
    opened.migrate()
    with opened.engine.connect() as connection:
        connection.execute(text("CREATE TABLE effects (run_id VARCHAR(64), name VARCHAR(64))"))
    Notes.folder = tmp_path / "notes"
    Notes.folder.mkdir()
    yield opened
    opened.engine.dispose()


class Deploy:
    """An app with code as it is now; its checks find out what they are not to do."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.patch = monkeypatch
        # Signatures are as the driver has them.
        monkeypatch.setattr(checking, "target_of", lambda app, what, queue, eager: Noted().target(what, queue))

    def app(self, tasks: dict[str, Any], durable: bool = True, conf: dict[str, Any] | None = None) -> Celery:
        app = Celery("check", broker="memory://", backend="cache+memory://", set_as_current=False)
        url = self.store.engine.url.render_as_string(hide_password=False)
        app.conf.update(durable_database_url=url, **(conf or {}))
        for name, body in tasks.items():
            options: dict[str, Any] = {"base": DurableTask} if durable else {}
            if not body.__name__.isidentifier():
                body.__name__ = "body"  # Celery makes a header of it
            app.task(shared=False, name=name, **options)(body)
        app.finalize()
        return app

    def check(self, **tasks: Any) -> Check:
        return self.check_by(self.app(tasks))

    def check_by(self, app: Celery) -> Check:
        """What is found; meanwhile nothing is done, and nothing is written."""
        durable, before = Durable(app), all_rows(self.store)

        def refused(*args: Any, **_: Any) -> None:
            raise AssertionError(f"a step's function was called: {args}")

        with self.patch.context() as patch:
            patch.setattr(Notes, "write", refused)
            for corpus in (corpus_check, corpus_changes):
                patch.setattr(corpus, "work", refused)
            found = durable.check()
        assert all_rows(self.store) == before
        return found


@pytest.fixture
def deploy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    return Deploy(store, monkeypatch)


def began(store: Store, run_id: str, args: tuple[Any, ...] = ()) -> None:
    arguments = encode([list(args), {}])
    with store.link() as link:
        store.start(link, NewRun(run_id, "t", arguments, fingerprint(arguments), "{}"))


# -- No false alarm


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_code_that_is_as_it_was_fits_wherever_a_run_has_come_to(store: Store, deploy: Deploy, shape: Shape) -> None:
    """A run of the shape is killed after each of its commits; each is checked then, and after its recovery."""
    cast = Cast(store, shape, step_retry=Retry(max_attempts=2, delay="1h"))
    began(store, "whole")
    with Commits(store.engine) as commits:
        drive(cast, "whole", commits)
    killed = []
    for number in range(1, commits.commits + 1):
        run_id = f"after-{number}"
        began(store, run_id)
        if in_child(partial(_drive_until, cast, run_id, number)):
            killed.append(run_id)
    assert killed, "nothing was tried"
    app = deploy.app({"t": shape.body, **shape.children})
    assert deploy.check_by(app).misfits == ()
    for run_id in killed:
        recover(store, run_id)
        for child in cast.called(run_id).values():
            recover(store, child["id"])
    found = deploy.check_by(app)
    assert found.misfits == ()
    assert found.checked
    with store.link() as link:  # every sleep is over
        for run_id in killed:
            store.skip_wait(link, run_id)
    assert deploy.check_by(app).misfits == ()
    complete(cast, killed[-1])
    assert deploy.check_by(app).misfits == ()


def _drive_until(cast: Cast, run_id: str, number: int) -> None:
    with Commits(cast.store.engine) as commits:
        commits.after[number] = die
        drive(cast, run_id, commits)


def test_what_has_not_begun_and_what_is_paused_fit(store: Store, deploy: Deploy) -> None:
    def body() -> None:
        step.run("one", str)
        step.wait_for_event("end")

    driver, clerk = driver_of(store, body), Clerk(store)
    for run_id in ("pending", "paused", "waiting", "cancelled", "being cancelled"):
        driver.start(run_id)
        if run_id != "pending":
            driver.one_pass(run_id)
    clerk.pause("paused")
    clerk.cancel("cancelled", force=True)
    clerk.cancel("being cancelled")
    assert deploy.check(t=body) == Check(checked=4)


def test_a_run_that_is_retried_fits_though_what_it_did_after_the_failure_is_recorded(
    store: Store, deploy: Deploy
) -> None:
    """The failed step is asked for anew, and what handled the error is recorded behind it."""
    shape = next(shape for shape in SHAPES if shape.name == "handled_and_raised_again")
    cast = Cast(store, shape)
    began(store, "r1")
    assert drive(cast, "r1") == "failed"
    Clerk(store).retry("r1")
    assert deploy.check(t=shape.body).misfits == ()


def test_a_fork_fits_though_it_has_not_the_locks_of_its_original(store: Store, deploy: Deploy) -> None:
    def body() -> Any:
        with step.lock("lock", "l"):
            step.run("one", str)
            return step.run("two", str)

    driver = driver_of(store, body)
    driver.start()
    driver.value()
    assert deploy.check(t=body) == Check(checked=0)
    fork = Clerk(store).fork("r1", "two")
    assert deploy.check(t=body).misfits == ()
    assert isinstance(driver.finish(fork.id), Finished)


def test_a_run_that_failed_in_a_block_and_is_retried_fits(store: Store, deploy: Deploy) -> None:
    def body() -> Any:
        with step.parallel() as p:
            p.sleep("nap", "1h")
            p.options(retry=ONCE).run("fails", fail)

    driver = driver_of(store, body)
    driver.start()
    assert isinstance(driver.finish(), Failed)
    Clerk(store).retry("r1")
    assert deploy.check(t=body).misfits == ()


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.name)
def test_a_change_that_fits_is_no_alarm(store: Store, deploy: Deploy, change: Change) -> None:
    assert _check_change(store, deploy, change) == Check(checked=1)


# -- What breaks is found


@pytest.mark.parametrize("change", ALARMING, ids=lambda change: change.name)
def test_a_change_that_breaks_a_run_is_found(store: Store, deploy: Deploy, change: Change) -> None:
    found = _check_change(store, deploy, change)
    assert (found.checked, len(found.misfits)) == (1, 1)
    (misfit,) = found.misfits
    assert (misfit.run_id, misfit.task, misfit.status) == ("r1", "t", "suspended")
    assert re.search(change.why, misfit.why, re.DOTALL), misfit.why


def _check_change(store: Store, deploy: Deploy, change: Change) -> Check:
    driver = driver_of(store, change.before)
    began(store, "r1", change.args)
    assert isinstance(driver.one_pass("r1", *change.args), Parked)
    tasks: dict[str, Any] = {} if change.after is None else {"t": change.after}
    return deploy.check_by(deploy.app(tasks, change.durable, change.conf))


@pytest.mark.parametrize("change", ALARMING, ids=lambda change: change.name)
def test_what_is_found_would_have_gone_wrong(store: Store, change: Change) -> None:
    """By the new code itself: it stops the run, does something twice or out of order, or ends without what was done."""
    if change.after is None or not change.durable:
        pytest.skip("there is no body to be executed")
    driver = driver_of(store, change.before, strict_inputs=bool(change.conf))
    began(store, "r1", change.args)
    driver.one_pass("r1", *change.args)
    known = set(driver.steps("r1"))
    driver.let_time_pass("r1")
    driver.body = change.after
    ended: Any = driver.one_pass("r1", *change.args)
    wrong = isinstance(ended, (Failed, Finished)) or ended.status == "paused"
    assert wrong or set(driver.steps("r1")) != known or _unasked(driver), ended


def _unasked(driver: Any) -> bool:
    """Whether the body leaves out what is recorded: then it waits for the end before it has asked for all."""
    asked: list[str] = []
    with driver.store.link() as link:
        driver.store.skip_wait(link, "r1")
        claim = driver.store.claim(link, "r1", worker="w", lease=30_000_000)
        passing = driver.pass_of(link, claim)
        take: Callable[[str], str] = passing.take_id

        def noting(step_id: str) -> str:
            asked.append(step_id)
            return take(step_id)

        passing.take_id = noting
        execute(passing, driver.body, driver.result)
    return bool(set(driver.steps("r1")) - set(asked))


def test_all_that_break_are_found_among_all_that_fit(store: Store, deploy: Deploy) -> None:
    """One check of many runs of several tasks, of which some break."""
    fits, broken = driver_of(store, HARMLESS[0].before), driver_of(store, ALARMING[0].before)
    for number in range(250):  # more than are read at once
        driver = broken if number % 50 == 7 else fits
        run_id = f"r{number:03}"
        with store.link() as link:
            task = "breaks" if driver is broken else "fits"
            store.start(link, NewRun(run_id, task, "[[],{}]", fingerprint("[[],{}]"), "{}"))
        driver.one_pass(run_id)
    found = deploy.check(fits=HARMLESS[0].after, breaks=ALARMING[0].after)
    assert found.checked == 250
    assert [(one.run_id, one.task) for one in found.misfits] == [(f"r{n:03}", "breaks") for n in range(7, 250, 50)]


def test_what_has_ended_is_not_checked(store: Store, deploy: Deploy) -> None:
    driver = driver_of(store, lambda: step.run("one", str))
    driver.start()
    driver.value()
    assert deploy.check(t=lambda: step.run("other", str)) == Check(checked=0)


def test_a_run_that_is_paused_for_its_code_is_found_until_the_code_fits(store: Store, deploy: Deploy) -> None:
    change = ALARMING[7]
    assert change.name == "another kind"
    assert change.after is not None
    driver = driver_of(store, change.before)
    driver.start()
    driver.one_pass()
    driver.let_time_pass()
    driver.body = change.after
    assert isinstance(driver.one_pass(), Parked)
    assert driver.run()["status"] == "paused"
    (misfit,) = deploy.check(t=change.after).misfits
    assert misfit.status == "paused"
    assert deploy.check(t=change.before).misfits == ()


# -- Real signatures of Celery


def test_what_is_called_is_not_called_and_not_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy = Deploy(store, monkeypatch)
    monkeypatch.undo()
    app = deploy.app({})

    def below(number: int) -> int:
        return number

    def body() -> Any:
        with step.parallel() as p:
            p.call("one", app.tasks["below"].s(1))
            p.call("two", app.signature("celery.backend_cleanup"))
        return step.call("three", app.tasks["below"].s(3) | app.tasks["below"].s())

    for name, function in (("below", below), ("t", body)):
        app.task(shared=False, base=DurableTask, name=name)(function)
    driver = driver_of(store, body)

    class Sending(Noted):
        def target(self, signature: Any, queue: str | None) -> Any:
            return checking.target_of(app, signature, queue)

    driver.dispatcher = Sending()
    driver.start("before")
    driver.start("r1")
    driver.one_pass("r1")
    assert deploy.check_by(app).misfits == ()
    children = Durable(app).get("r1").children
    assert len(children) == 2
    with store.link() as link:
        for child in children:
            store.end_from_outside(link, child, status="completed", result="1")
    assert deploy.check_by(app).misfits == ()
