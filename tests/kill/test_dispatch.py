"""The dispatch of an event, killed right before and right after each of its commits, and done by two at once.

Whatever happens to it, in the end each wait is answered once, each task that the event triggers has one run, and
all of these runs are due: the sweeper sends them, if the dispatch did not come to it.
"""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import func, select

from celery_durable import Durable, DurableTask, Event, on_event
from celery_durable.store.records import Changes, Claim, NewWait
from celery_durable.store.store import Store
from celery_durable.worker import dispatch as dispatching
from celery_durable.worker.message import keep
from celery_durable.worker.runtime import runtime_of
from tests.store.making import a_step, claimed, new_run

from .killing import Commits, die, in_child

WAITERS = 5
_numbers = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery]:
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("dispatch")
        yield from _made(f"sqlite:///{folder / 'durable.db'}")
        return
    services = request.getfixturevalue("services")
    with getattr(services, request.param).fresh() as url:
        yield from _made(url)


def _made(url: str) -> Iterator[Celery]:
    made = Celery("dispatch", broker="memory://", set_as_current=False)
    made.conf.update(durable_database_url=url)

    @made.task(
        shared=False, base=DurableTask, name="welcome", triggers=[on_event("visitor.*"), on_event("visitor.came")]
    )
    def welcome(event: Event) -> None: ...

    @made.task(shared=False, base=DurableTask, name="bill", triggers=[on_event("visitor.came", when={"plan": "pro"})])
    def bill(event: Any) -> None: ...

    @made.task(shared=False, base=DurableTask, name="other", triggers=[on_event("visitor.came", when={"plan": "free"})])
    def other(event: Any) -> None: ...

    Durable(made).migrate()
    yield made
    runtime_of(made).store.engine.dispose()


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "_BATCH", 2)


class Case:
    """An event, the runs that wait for it, and one that waits for another payload."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.name = f"case-{next(_numbers)}"
        self.store: Store = runtime_of(app).store
        for number in range(WAITERS):
            self._waiting(f"{self.name}-{number}", None)
        self._waiting(f"{self.name}-other", '{"plan":"free"}')
        Durable(app).emit("visitor.came", {"plan": "pro"}, key=self.name, event_id=self.name)

    def _waiting(self, run_id: str, match: str | None) -> None:
        with self.store.link() as link:
            assert self.store.start(link, new_run(run_id, message=keep(self.app, None, {})))
            claim: Claim = claimed(self.store, link, run_id)
            self.store.suspend(
                link,
                claim.fence,
                changes=Changes(
                    steps=(a_step("wait", kind="wait", status="waiting", result=None),),
                    waits=(("wait", NewWait("visitor.came", self.name, match, claim.created_at)),),
                ),
                wake_at=None,
                due_at=None,
                waiting_on="visitor.came",
                on_locked=lambda: None,
            )

    def dispatch(self) -> None:
        dispatching.dispatch(self.app, self.name)

    def check(self) -> None:
        tables = self.store.tables
        record = Durable(self.app).event(self.name)
        assert record.dispatched_at is not None
        assert record.error is None
        assert sorted(record.woke) == [f"{self.name}-{number}" for number in range(WAITERS)]
        assert len(record.started) == record.started_total == 2
        with self.store.engine.connect() as connection:
            started = connection.execute(select(tables.run.c.task).where(tables.run.c.id.in_(record.started)))
            assert sorted(started.scalars()) == ["bill", "welcome"]
            waits = connection.execute(select(tables.wait.c.run_id).where(tables.wait.c.key == self.name))
            assert list(waits.scalars()) == [f"{self.name}-other"]
            due = connection.execute(
                select(func.count())
                .select_from(tables.run)
                .where(tables.run.c.id.in_([*record.woke, *record.started]), tables.run.c.due_at.is_not(None))
            )
            assert due.scalar_one() == WAITERS + 2  # sent or not: one that is lost is sent by the sweeper
        for number in range(WAITERS):
            run = Durable(self.app).get(f"{self.name}-{number}")
            assert run.status == "suspended"
            assert run.steps[0].status == "completed"
            assert run.steps[0].result.payload == {"plan": "pro"}


def commits_of_a_dispatch(app: Celery) -> tuple[int, int]:
    case = Case(app)
    with Commits(case.store.engine) as commits:
        case.dispatch()
    case.check()
    return commits.commits, commits.entries


def test_a_dispatch_that_dies(app: Celery) -> None:
    commits, _ = commits_of_a_dispatch(app)
    assert commits >= 8  # three batches, each with its marks; two starts; the end
    for count in range(1, commits + 1):
        for when in ("before", "after"):
            case = Case(app)

            def dies(case: Case = case, when: str = when, count: int = count) -> None:
                with Commits(case.store.engine) as hooks:
                    getattr(hooks, when)[count] = die
                    case.dispatch()

            assert in_child(dies), f"there is no commit {count}"
            if count < commits or when == "before":  # still undone, and the database says so
                assert Durable(app).event(case.name).dispatched_at is None
            case.dispatch()
            case.check()


def test_two_dispatches_at_once(app: Celery) -> None:
    """The second is done whole in the moment before the first one writes, at each of its writes."""
    _, entries = commits_of_a_dispatch(app)
    for count in range(1, entries + 1):
        case = Case(app)
        with Commits(case.store.engine) as hooks:

            def rival(case: Case = case, hooks: Commits = hooks) -> None:
                with hooks.pausing():
                    contextvars.Context().run(case.dispatch)

            hooks.on_entry[count] = rival
            case.dispatch()
        case.check()


def test_a_dispatch_done_again_does_nothing(app: Celery) -> None:
    case = Case(app)
    for _ in range(3):
        case.dispatch()
        case.check()
