"""Killing a process, or taking its run away, right before and right after each of its commits."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from celery_durable.core.codec import decode, encode
from celery_durable.core.duration import SECOND
from celery_durable.engine.events import event_of, new_event
from celery_durable.engine.executor import Ended, Gone
from celery_durable.model import FINISHED
from celery_durable.store.records import Claim, Fence
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .corpus import Shape

__all__ = ["Cast", "Commits", "answer", "complete", "die", "drive", "in_child", "lose", "recover"]

KILLED = 9

Moment = Callable[[], object]


def _nothing() -> None: ...


def die() -> None:
    """As SIGKILL does it: nothing is flushed, closed or told."""
    os._exit(KILLED)


def lose() -> None:
    """The connection breaks, and nobody knows whether the statement was done."""
    raise OperationalError("(the statement)", None, OSError("server closed the connection unexpectedly"))


class Commits:
    """Counts the commits of an engine, and does something right before or after one of them.

    A statement that writes is a commit by itself where the connection is in autocommit mode; otherwise the
    COMMIT is. ``entries`` counts, as commits do, where each of these writes begins and holds no lock yet.
    """

    def __init__(self, engine: Engine) -> None:
        self.commits = 0
        self.entries = 0
        self.of_users: set[int] = set()
        """The commits of step.transaction."""
        self.before: dict[int, Moment] = {}
        self.after: dict[int, Moment] = {}
        self.on_entry: dict[int, Moment] = {}
        self.counting = True
        self._engine = engine
        self._open: set[int] = set()
        self._commit: Any = engine.dialect.do_commit

    def __enter__(self) -> Commits:
        event.listen(self._engine, "before_cursor_execute", self._before)
        event.listen(self._engine, "after_cursor_execute", self._after)
        self._engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._before)
        event.remove(self._engine, "after_cursor_execute", self._after)
        del self._engine.dialect.do_commit

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def _before(self, connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if not self.counting:
            return
        key, word = id(connection.connection.dbapi_connection), statement.split()[0].upper()
        if key not in self._open:
            managed = connection.get_execution_options().get("isolation_level", "AUTOCOMMIT") != "AUTOCOMMIT"
            begins = managed or word in ("BEGIN", "START")
            if begins or _writes(word):
                self._enter()
            if begins:
                self._open.add(key)
            elif _writes(word):
                self._before_commit()
        elif word == "COMMIT":
            self._open.discard(key)
            self._before_commit()

    def _after(self, connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if not self.counting:
            return
        key, word = id(connection.connection.dbapi_connection), statement.split()[0].upper()
        if word == "ROLLBACK":
            self._open.discard(key)
        if word == "COMMIT" or (_writes(word) and key not in self._open):
            self._after_commit()

    def _do_commit(self, dbapi_connection: Any) -> None:
        if not self.counting:
            self._commit(dbapi_connection)
            return
        self.of_users.add(self.commits + 1)
        self._before_commit()
        self._commit(dbapi_connection)
        self._open.clear()
        self._after_commit()

    def _enter(self) -> None:
        self.entries += 1
        self.on_entry.get(self.entries, _nothing)()

    def _before_commit(self) -> None:
        self.commits += 1
        self.before.get(self.commits, _nothing)()

    def _after_commit(self) -> None:
        self.after.get(self.commits, _nothing)()


def _writes(word: str) -> bool:
    return word in ("INSERT", "UPDATE", "DELETE", "WITH")


# -- Runs


class Cast(Driver):
    """A driver that also knows the bodies of what its runs call, by their names."""

    def __init__(self, store: Store, shape: Shape, **values: Any) -> None:
        super().__init__(store, shape.body, **values)
        self.children = shape.children
        self.cancels = shape.cancelled

    def of(self, task: str) -> Cast:
        """The one for runs that are called by this name."""
        child = copy.copy(self)
        child.body, child.cancels = self.children[task], False
        return child

    def called(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The runs that a run has called, by the steps that did."""
        calls = {name: row["child"] for name, row in self.steps(run_id).items() if row["child"] is not None}
        return {name: self.run(child) for name, child in calls.items()}


def drive(driver: Driver, run_id: str, commits: Commits | None = None, most: int = 60) -> str:
    """Passes until the run ends, and what it called, letting time pass between them.

    The run's status; or that somebody else has it (``gone``), or that it waits for what does not come (``asleep``).
    """
    for _ in range(most):
        with _pausing(commits):
            _hand_on_locks(driver.store)
            run = driver.run(run_id)
            if run["status"] == "suspended" and "'outside'" in run["waiting_on"]:
                answer(driver.store, run_id)
        if isinstance(driver, Cast) and _drive_called(driver, run_id, commits) == "gone":
            return "gone"
        if run["status"] in FINISHED or run["status"] == "paused":
            return str(run["status"])
        with _pausing(commits):
            if not _is_due(driver, run_id):
                return "asleep"
        ended = _pass(driver, run_id)
        if ended is None or isinstance(ended, Gone):
            return "gone"
    raise AssertionError(f"run {run_id} did not end in {most} passes")


def _pausing(commits: Commits | None) -> contextlib.AbstractContextManager[None]:
    return commits.pausing() if commits else contextlib.nullcontext()


def _hand_on_locks(store: Store) -> None:
    """What the sweeper does about locks that are free and waited for."""
    with store.link() as link:
        for name in store.free_locks(link, 10):
            store.next_turn(link, name)


def _is_due(driver: Driver, run_id: str) -> bool:
    """Make it so: let time pass; cancel the run where it waits for good."""
    run = driver.run(run_id)
    if run["status"] != "suspended":
        return True
    if run["due_at"] is None:
        if not isinstance(driver, Cast) or not driver.cancels:
            return False
        with driver.store.link() as link:
            driver.store.cancel(link, run_id, "not needed any more")
    elif run["cancelling"] is None or run["wake_at"] is not None:  # who is told to end is told at once
        driver.let_time_pass(run_id)
    return True


def _drive_called(driver: Cast, run_id: str, commits: Commits | None) -> str | None:
    """Bring what a run has called to its end."""
    for run in driver.called(run_id).values():
        if run["status"] in FINISHED:
            continue
        if run["kind"] is None:
            if drive(driver.of(run["task"]), run["id"], commits) == "gone":
                return "gone"
        elif "never" not in run["task"]:
            with driver.store.link() as link:
                driver.store.end_from_outside(link, run["id"], status="completed", result=encode(run["task"]))
    return None


def _pass(driver: Driver, run_id: str) -> Ended | None:
    with driver.store.link() as link:
        claim = driver.store.claim(link, run_id, worker=driver.worker, lease=driver.settings.lease)
        return driver.execute(link, claim, *decode(claim.arguments)[0]) if isinstance(claim, Claim) else None


def answer(store: Store, run_id: str) -> None:
    """Emit the event that a run waits for, once, and dispatch it."""
    event = new_event(f"for-{run_id}", "outside", {"from": "the world"}, run_id, max_payload=1000)
    with store.link() as link:
        store.emit(link, event, SECOND)
        emitted = store.event(link, event.id)
        assert emitted is not None
        store.close_gates(link, emitted)
        for waits in store.waits_for(link, emitted, 10):
            store.deliver(link, emitted, encode(event_of(emitted)), waits, SECOND)
        store.dispatched(link, event.id, None)


def recover(store: Store, run_id: str) -> bool:
    """What the sweeper does about a run whose worker has died."""
    with store.link() as link:
        found = store.get(link, run_id)
        assert found is not None
        return found[0]["status"] == "running" and store.recover(link, Fence(run_id, found[0]["token"]))


def complete(driver: Driver, run_id: str) -> str:
    """Take the run over, and what it called, and bring it to its end."""
    _recover_all(driver, run_id)
    return drive(driver, run_id)


def _recover_all(driver: Driver, run_id: str) -> None:
    recover(driver.store, run_id)
    if isinstance(driver, Cast):
        for run in driver.called(run_id).values():
            _recover_all(driver, run["id"])


def in_child(work: Callable[[], object]) -> bool:
    """Do it in a forked process; whether that was killed."""
    for thread in threading.enumerate():  # of functions that nobody waits for: a fork would leave their locks held
        if thread.name.startswith("celery-durable "):
            thread.join()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), f"the child failed with {code}"
    return code == KILLED
