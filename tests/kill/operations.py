"""Every operation that is killed at each of its statements: how it is brought about, and how it has to end.

An operation is prepared, done in a process that is killed at one of its boundaries, and brought to its end as a living
system would: what somebody has called is called again; then workers, sweepers and time do the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from celery_durable.core.duration import SECOND
from celery_durable.engine.events import EVENT_GRACE, new_event
from celery_durable.errors import WrongStatus
from celery_durable.store.lines import Line
from celery_durable.store.records import Claim
from celery_durable.worker.dispatch import queue_dispatch
from celery_durable.worker.runtime import runtime_of

from .living import System
from .workflows import FIXED

__all__ = ["OPERATIONS", "Operation"]

Act = Callable[[System, list[Any]], object]
"""What is killed; it is given the messages that were on their way."""
LEASE = 30 * SECOND


def _nothing(system: System) -> None: ...


@dataclass(frozen=True)
class Operation:
    """One operation."""

    name: str
    by: Literal["client", "worker", "sweeper"]
    prepare: Callable[[System], object]
    act: Act
    ends: dict[str, str] = field(hash=False)
    """The statuses of the runs that people started, in the end."""
    afterwards: Callable[[System], object] = _nothing
    """What people do when it is done, so that its runs come to their end."""
    branches: int = 0
    """Functions that end at once: whether they are recorded together is chance."""


# -- How things come about


def start(system: System, task: str, run_id: str = "r", *args: Any, **options: Any) -> None:
    system.app.tasks[task].apply_async(args, task_id=run_id, **options)


def started(task: str, *runs: str) -> Callable[[System], None]:
    """Runs whose messages wait for a worker."""

    def prepare(system: System) -> None:
        for run_id in runs or ("r",):
            start(system, task, run_id)

    return prepare


def begun(task: str, *runs: str) -> Callable[[System], None]:
    """Runs that have come to where they wait, or to their end."""

    def prepare(system: System) -> None:
        started(task, *runs)(system)
        system.work()

    return prepare


def handle(system: System, messages: list[Any]) -> None:
    system.handle(messages)


def sweep(system: System, messages: list[Any]) -> None:
    system.sweep()


def client(call: Callable[[System], object]) -> Act:
    """Somebody's call; done again, it may find that what it asked for has long been done, and says so."""

    def act(system: System, messages: list[Any]) -> None:
        try:
            call(system)
        except WrongStatus as said:
            assert "completed" in str(said), said  # noqa: PT017

    return act


def emit(system: System, run_id: str = "r", **options: Any) -> None:
    system.durable.emit("outside", {"n": 1}, key=run_id, event_id=f"for-{run_id}", **options)


def answered(system: System, *runs: str) -> None:
    """What they wait for comes."""
    for run_id in runs or ("r",):
        emit(system, run_id)


def left_to_dispatch(system: System, *runs: str) -> None:
    """The same, and who emits it does not come to answering it: that is the dispatch's."""
    store = runtime_of(system.app).store
    for run_id in runs or ("r",):
        event = new_event(f"for-{run_id}", "outside", {"n": 1}, run_id, max_payload=1000)
        with store.link() as link:
            assert store.emit(link, event, EVENT_GRACE)
        queue_dispatch(system.app, event.id)


def in_own_transaction(write: Callable[[System, Session], object]) -> Callable[[System], None]:
    """An application that writes a row of its own, once, and with it what it has to say."""

    def call(system: System) -> None:
        with Session(system.users) as session:
            if not _has_row(session.connection()):
                session.execute(text("INSERT INTO effects VALUES ('r', 'ordered')"))
                write(system, session)
            session.commit()

    return call


def _has_row(connection: Connection) -> bool:
    return connection.execute(text("SELECT 1 FROM effects WHERE name = 'ordered'")).first() is not None


def fix(system: System) -> None:
    (system.folder / FIXED).touch()


def failed(system: System) -> None:
    begun("fails_until_fixed")(system)


def with_rival(task: str, *args: Any) -> Callable[[System], None]:
    """Two runs that want the same lock, of which the first has it."""

    def prepare(system: System) -> None:
        for run_id in ("r", "s"):
            start(system, task, run_id, *args)
            system.work()

    return prepare


def executed(task: str, run_id: str = "r", line: Line | None = None) -> Callable[[System], None]:
    """A run that a worker has, which has died."""

    def prepare(system: System) -> None:
        start(system, task, run_id)
        system.take()
        with system.store.link() as link:
            claim = system.store.claim(link, run_id, worker="gone@away/1", lease=LEASE, line=line)
            assert isinstance(claim, Claim)

    return prepare


def later(prepare: Callable[[System], object], duration: str = "1m") -> Callable[[System], None]:
    """That, and time has passed; what was on its way is lost."""

    def and_later(system: System) -> None:
        prepare(system)
        system.take()
        system.time_passes(duration)

    return and_later


def then(*each: Callable[[System], object]) -> Callable[[System], None]:
    def prepare(system: System) -> None:
        for one in each:
            one(system)

    return prepare


def ended_alone(system: System) -> None:
    """A run has ended, and its worker has died before anybody was told."""
    executed("nothing")(system)
    with system.store.link() as link:
        claim = system.durable.get("r")
        fence = system.store.running_under(link, "r", "gone@away/1")
        assert fence is not None, claim
        now = system.store.now(link)
        system.store.finish(link, fence, status="completed", now=now, lease=LEASE, result='"done"')


def in_line(system: System) -> None:
    """A run is executed, and another one stands in line for its share."""
    executed("limited", line=Line("limited", 1))(system)
    start(system, "limited", "s")
    system.work()


def old(system: System) -> None:
    """Runs, events and state whose time is over."""
    begun("emits", "r", "s")(system)
    begun("counts", "t")(system)
    emit(system, "nobody")
    system.live()
    system.time_passes("31d")


# -- All of them

CLIENT = [
    Operation("start", "client", _nothing, client(lambda s: start(s, "one_step")), {"r": "completed"}),
    Operation(
        "start in a transaction of the caller's", "client", _nothing,
        client(in_own_transaction(lambda s, session: start(s, "one_step", session=session))), {"r": "completed"},
    ),
    Operation("emit", "client", begun("waits"), client(emit), {"r": "completed"}),
    Operation(
        "emit in a transaction of the caller's", "client", begun("waits"),
        client(in_own_transaction(lambda s, session: emit(s, session=session))), {"r": "completed"},
    ),
    Operation(
        "answer", "client", begun("asks"),
        client(lambda s: s.durable.answer("r", "approval", {"n": 1}, by="p")), {"r": "completed"},
    ),
    Operation(
        "cancel", "client", begun("tidies"), client(lambda s: s.durable.cancel("r", by="p")), {"r": "cancelled"}
    ),
    Operation(
        "cancel, before it has begun", "client", later(started("tidies"), "0s"),
        client(lambda s: s.durable.cancel("r", by="p")), {"r": "cancelled"},
    ),
    Operation(
        "cancel, of a run that has called another", "client", begun("calls_a_waiting_one"),
        client(lambda s: s.durable.cancel("r", by="p")), {"r": "cancelled"},
    ),
    Operation(
        "cancel by force, of a run that has called another", "client", begun("calls_a_waiting_one"),
        client(lambda s: s.durable.cancel("r", force=True, by="p")), {"r": "cancelled"},
    ),
    Operation(
        "pause", "client", begun("waits"), client(lambda s: s.durable.pause("r", by="p")), {"r": "completed"},
        afterwards=then(answered, System.live, lambda s: s.durable.resume("r", by="p")),
    ),
    Operation(
        "resume", "client", then(begun("waits"), lambda s: s.durable.pause("r", by="p"), answered, System.work),
        client(lambda s: s.durable.resume("r", by="p")), {"r": "completed"},
    ),
    Operation(
        "retry", "client", failed, client(then(fix, lambda s: s.durable.retry("r", by="p"))), {"r": "completed"}
    ),
    Operation(
        "fork", "client", begun("sleeps"), client(lambda s: s.durable.fork("r", "nap", task_id="f", by="p")),
        {"r": "completed", "f": "completed"},
    ),
    Operation(
        "replay", "client", begun("one_step"), client(lambda s: s.durable.replay("r", task_id="f", by="p")),
        {"r": "completed", "f": "completed"},
    ),
    Operation(
        "cancel_all", "client", begun("tidies", "r", "s"),
        client(lambda s: s.durable.cancel_all(task="tidies", by="p")), {"r": "cancelled", "s": "cancelled"},
    ),
    Operation(
        "resume_all", "client", then(begun("waits", "r", "s"), lambda s: s.durable.pause("r", by="p"),
                                     lambda s: s.durable.pause("s", by="p")),
        client(lambda s: s.durable.resume_all(task="waits", by="p")), {"r": "completed", "s": "completed"},
        afterwards=lambda s: answered(s, "r", "s"),
    ),
    Operation(
        "retry_all", "client", begun("fails_until_fixed", "r", "s"),
        client(then(fix, lambda s: s.durable.retry_all(task="fails_until_fixed", by="p"))),
        {"r": "completed", "s": "completed"},
    ),
    Operation(
        "prune", "client", then(begun("sleeps", "r"), System.live, begun("waits", "s"), lambda s: s.time_passes("31d")),
        client(lambda s: s.durable.prune("30d", by="p")), {"s": "completed"}, afterwards=lambda s: answered(s, "s"),
    ),
]  # fmt: skip
"""What people and programs call."""

WORKER = [
    Operation("claim, and end", "worker", started("nothing"), handle, {"r": "completed"}),
    Operation("step", "worker", started("one_step"), handle, {"r": "completed"}),
    Operation("step that is tried again later", "worker", started("step_fails_first"), handle, {"r": "completed"}),
    Operation("step.transaction", "worker", started("books"), handle, {"r": "completed"}),
    Operation(
        "branches of a parallel block", "worker", started("side_by_side"), handle, {"r": "completed"}, branches=2
    ),
    Operation("suspend, for a sleep", "worker", started("sleeps"), handle, {"r": "completed"}),
    Operation(
        "wake, after a sleep", "worker", then(later(begun("sleeps")), System.sweep), handle, {"r": "completed"}
    ),
    Operation("suspend, for an event", "worker", started("waits"), handle, {"r": "completed"}, afterwards=answered),
    Operation(
        "an event that came before its wait", "worker", then(started("waits"), answered), handle, {"r": "completed"}
    ),
    Operation(
        "dispatch", "worker", then(begun("waits", "r", "s"), left_to_dispatch), handle,
        {"r": "completed", "s": "completed"}, afterwards=lambda s: answered(s, "s"),
    ),
    Operation(
        "wake, by an event", "worker",
        then(begun("waits"), left_to_dispatch, lambda s: s.handle(s.take())), handle, {"r": "completed"},
    ),
    Operation(
        "timeout of a wait", "worker", then(later(begun("waits_for_a_while")), System.sweep), handle,
        {"r": "completed"},
    ),
    Operation("step.emit", "worker", started("emits"), handle, {"r": "completed"}),
    Operation("call", "worker", started("calls"), handle, {"r": "completed"}),
    Operation(
        "end of a called run", "worker", then(started("calls"), lambda s: s.handle(s.take())), handle,
        {"r": "completed"},
    ),
    Operation(
        "report of a called ordinary task", "worker",
        then(started("calls_an_ordinary_task"), lambda s: s.handle(s.take())), handle, {"r": "completed"},
    ),
    Operation(
        "report of one of many", "worker",
        then(started("calls_ordinary_tasks"), lambda s: s.handle(s.take())), handle, {"r": "completed"},
    ),
    Operation(
        "clean-up of a cancelled run", "worker",
        then(begun("calls_a_waiting_one"), lambda s: s.durable.cancel("r", by="p")), handle, {"r": "cancelled"},
    ),
    Operation("rollback", "worker", started("undone"), handle, {"r": "failed"}),
    Operation("retry of a run, by Celery's policy", "worker", started("run_fails_first"), handle, {"r": "completed"}),
    Operation("continue as new", "worker", started("begins_again"), handle, {"r": "completed"}),
    Operation("step.state", "worker", started("counts"), handle, {"r": "completed"}),
    Operation(
        "lock that is free", "worker", started("locks"), handle, {"r": "completed"}, afterwards=answered
    ),
    Operation(
        "lock that is taken", "worker", then(begun("locks"), lambda s: start(s, "locks", "s")), handle,
        {"r": "completed", "s": "completed"}, afterwards=lambda s: answered(s, "r", "s"),
    ),
    Operation(
        "lock that is handed on", "worker",
        then(with_rival("locks"), left_to_dispatch, lambda s: s.handle(s.take())), handle,
        {"r": "completed", "s": "completed"}, afterwards=lambda s: answered(s, "s"),
    ),
    Operation(
        "share that is handed on", "worker", then(later(in_line), System.sweep), handle,
        {"r": "completed", "s": "completed"},
    ),
    Operation("delivery of a recorded result", "worker", then(later(ended_alone), System.sweep), handle,
              {"r": "completed"}),
]  # fmt: skip
"""What a worker does about a message."""

SWEEPER = [
    Operation("recovery of a dead worker's run", "sweeper", later(executed("one_step")), sweep, {"r": "completed"}),
    Operation("message of a start, lost", "sweeper", later(started("one_step")), sweep, {"r": "completed"}),
    Operation("sleep that is over", "sweeper", later(begun("sleeps")), sweep, {"r": "completed"}),
    Operation("wait whose time is up", "sweeper", later(begun("waits_for_a_while")), sweep, {"r": "completed"}),
    Operation("result that was not delivered", "sweeper", later(ended_alone), sweep, {"r": "completed"}),
    Operation(
        "event that was not dispatched", "sweeper", later(then(begun("waits"), left_to_dispatch)), sweep,
        {"r": "completed"},
    ),
    Operation(
        "lock whose holder's time is up", "sweeper", later(with_rival("locks", "40s")), sweep,
        {"r": "completed", "s": "completed"}, afterwards=lambda s: answered(s, "r", "s"),
    ),
    Operation(
        "share of a dead worker", "sweeper", later(in_line), sweep, {"r": "completed", "s": "completed"}
    ),
    Operation("retention", "sweeper", old, sweep, {}),
]  # fmt: skip
"""What the sweeper finds due."""

OPERATIONS = [*CLIENT, *WORKER, *SWEEPER]
