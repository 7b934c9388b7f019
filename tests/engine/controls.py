"""What the tests of undos, state, locks and starting over share.

A body in these tests is written once, as ``async def body(step)``, and executed as both kinds of tasks: as an ``async
def`` one with the verbs of ``celery_durable.aio``, and as a ``def`` one with the plain verbs, which do not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, update

from celery_durable import aio, step
from celery_durable.core.codec import decode
from celery_durable.core.faults import summary
from celery_durable.core.retry import Retry
from celery_durable.engine.executor import Ended, Parked
from celery_durable.store.records import Claim, Fence
from celery_durable.store.store import Store

from .driving import Driver

__all__ = [
    "KINDS",
    "ONCE",
    "Body",
    "Fed",
    "Starting",
    "Undone",
    "cancel",
    "counted",
    "notes_of",
    "put",
    "recover",
    "starting",
    "with_verbs",
]

Body = Callable[..., Any]
Starting = Callable[..., "Fed"]
KINDS = ["def", "async def"]
ONCE = Retry(max_attempts=1)


class Blocking:
    """The plain verbs in the shape of the awaitable ones. What they return is there as soon as it is awaited."""

    def __init__(self, verbs: Any = step) -> None:
        self._verbs = verbs

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._verbs, name)
        if name == "state":
            return Blocking(verb)
        if name == "options":
            return lambda **options: Blocking(verb(**options))
        if name == "lock":
            return lambda *args, **kwargs: _Held(lambda: verb(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return verb(*args, **kwargs)

        return call


class _Held:
    """A plain context manager as an async one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    async def __aenter__(self) -> None:
        self._lock = self._make()
        self._lock.__enter__()

    async def __aexit__(self, *error: Any) -> Any:
        return self._lock.__exit__(*error)


def with_verbs(kind: str, body: Body) -> Body:
    """The body as a task of this kind: it is given the verbs first."""
    if kind == "async def":
        return lambda *args: body(aio.step, *args)

    def plain(*args: Any) -> Any:
        coroutine = body(Blocking(), *args)
        try:
            coroutine.send(None)
        except StopIteration as ended:
            return ended.value
        raise AssertionError("a verb of a def task does not wait for an event loop")

    return plain


class Fed(Driver):
    """A driver that gives the body the arguments which are recorded, and bounds the time of its runs."""

    run_timeout: int | None = None
    task = "t"

    def one_pass(self, run_id: str = "r1", *args: Any) -> Ended:
        with self.store.link() as link:
            claim = self.store.claim(
                link, run_id, worker=self.worker, lease=self.settings.lease, run_timeout=self.run_timeout
            )
            assert isinstance(claim, Claim), claim
            return self.execute(link, claim, *(args or decode(claim.arguments)[0]))

    def parks(self, run_id: str = "r1", *args: Any) -> Parked:
        """A pass that parks the run, and how."""
        ended = self.one_pass(run_id, *args)
        assert isinstance(ended, Parked), ended
        assert ended.status == "suspended", ended
        return ended

    def let_in(self) -> list[str]:
        """What a worker does about the locks that were given back; the runs that have them now."""
        names, self.dispatcher.followed = self.dispatcher.followed.freed, type(self.dispatcher.followed)()
        with self.store.link() as link:
            found = [self.store.next_turn(link, name) for name in names]
        return [run_id for run_id in found if run_id is not None]

    def kinds(self, run_id: str = "r1") -> list[tuple[str, str]]:
        """The steps in their order, each with its kind."""
        return [(name, row["kind"]) for name, row in self.steps(run_id).items()]


def starting(store: Store, kind: str) -> Starting:
    """Records a run of a body as a task of this kind, which is not yet executed; takes what a Driver takes."""

    def start(body: Body, *, run_id: str = "r1", **options: Any) -> Fed:
        driver = Fed(store, with_verbs(kind, body), **options)
        driver.start(run_id)
        return driver

    return start


# -- What happens to a run


class Undone:
    """What was undone."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def undo(self, name: str) -> None:
        self.log.append(name)

    async def undo_later(self, name: str) -> None:
        await asyncio.sleep(0)
        self.log.append(name)


def cancel(driver: Driver, run_id: str = "r1", *, force: bool = False, reason: str = "not needed any more") -> None:
    with driver.store.link() as link:
        aftermath = driver.store.cancel(link, run_id, reason, force=force)
    assert aftermath is not None
    driver.dispatcher.follow(aftermath)


def recover(driver: Driver, run_id: str = "r1") -> None:
    """The sweeper has found out that the run's worker is dead."""
    with driver.store.link() as link:
        assert driver.store.recover(link, Fence(run_id, driver.run(run_id)["token"]))


def put(store: Store, table: str, **values: Any) -> None:
    """Change all rows of a table past all operations."""
    with store.engine.begin() as connection:
        connection.execute(update(getattr(store.tables, table)).values(**values))


def notes_of(driver: Driver, run_id: str = "r1") -> tuple[str, ...]:
    """The notes of the error that is recorded as the run's."""
    notes: tuple[str, ...] = summary(driver.run(run_id)["error"])["notes"]
    return notes


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """The statements that are executed meanwhile, less what brackets a transaction or says how it lasts."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.split()[0].upper() not in ("BEGIN", "START", "COMMIT", "ROLLBACK", "PRAGMA"):
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
