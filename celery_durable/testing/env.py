"""``DurableEnv``: the real engine and store in one process, with time that passes at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from celery import Celery
from celery.canvas import Signature

from ..core.codec import decode
from ..core.duration import SECOND, Duration, Moment, as_datetime, micros, moment
from ..model import FINISHED, EventReceipt, EventRecord, Run
from ..store.link import Link
from ..worker.apps import the_app
from ..worker.chores import Chores
from ..worker.dispatch import queue_dispatch
from ..worker.durable import Durable
from ..worker.emitting import emit_by
from ..worker.install import install
from ..worker.reporting import end_call, error_text
from ..worker.runtime import Runtime, plain_app, runtime_of, standing_in
from ..worker.sending import Sender
from ..worker.sweeper import recover
from .apps import check_durable
from .beat import Beat
from .clock import Clock
from .memory import NextDue, memory_store
from .mocks import NOTHING, Mock, MockCall, Mocks
from .passes import Hooks
from .replaying import check_replay
from .runs import EnvRun
from .runtimes import new_runtime
from .wire import Message, Wire

__all__ = ["DurableEnv"]

_BATCH = 500
_MOST_WAKE_UPS = 10_000
EMIT = "durable_env.emit"
_HOUR = 3600 * SECOND


class DurableEnv:
    """Runs of durable tasks, with no broker, no worker and no sleeping.

    An app takes part as soon as one of its tasks is started here, or from the beginning if it is given. Until the
    environment is closed, what the app sends and records stays in here. ``now`` is the time at which it begins.
    """

    def __init__(self, app: Celery | None = None, *, now: Moment | None = None) -> None:
        began = datetime.now(timezone.utc).replace(microsecond=0) if now is None else now
        self._open = ExitStack()
        self.is_closed = False
        self._clock = Clock(moment(began))
        self.store = self._open.enter_context(memory_store(self._clock))
        self._wire = Wire(self._clock, self._is_mocked)
        self.mocks = Mocks()
        self._hooks: Hooks = self.mocks
        self._ended: dict[str, tuple[Any, str | None]] | None = None
        self._numbers = itertools.count(1)
        self._beat = Beat(self._clock)
        self._apps: dict[Celery, Runtime] = {}
        self.is_settling = False
        self._is_trial = False
        self._mocked: set[str] = set()
        self._started: set[str] = set()
        if app is not None:
            self._join(app)

    def __enter__(self) -> DurableEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self.mocks.check_used()

    def close(self) -> None:
        """Give the apps back what they had."""
        self.is_closed = True
        self._open.close()

    def _check_open(self) -> None:
        """An app works for one environment at a time; after the last one it uses its own database and broker again."""
        if self.is_closed:
            raise RuntimeError("this environment is closed: start runs, and look at them, before its with block ends")
        if any(runtime_of(app) is not runtime for app, runtime in self._apps.items()):
            raise RuntimeError(
                "the app works for another environment that was opened later. In a script of check_replay, use the "
                "environment that it is given: script(env) or script(env, run)"
            )

    # -------------------------------------------------------------------- act

    def start(self, task: Any, /, *args: Any, **kwargs: Any) -> EnvRun:
        """Start a run of a durable task and let it go as far as it does without time passing.

        Instead of a task and its arguments it may be a signature, with options of its own:
        ``env.start(onboard.s("u1").set(task_id="onboard-u1"))``.
        """
        signature = task if isinstance(task, Signature) else None
        kind = task.type if signature is not None else task
        check_durable(kind, task, "env.start")
        if signature is not None and (args or kwargs):
            raise TypeError("env.start was given a signature and arguments: put the arguments into the signature")
        self._join(kind.app)
        result = kind.apply_async(args, kwargs) if signature is None else signature.apply_async()
        self._started.add(result.id)
        self._settle()
        return EnvRun(self, result.id)

    def emit(
        self, name: str, payload: Any = None, *, key: str | None = None, event_id: str | None = None
    ) -> EventReceipt:
        """Publish an event, and let those go on that it wakes or starts."""
        if self._is_trial and event_id is None:
            event_id = f"event-{next(self._numbers)}"  # the same in each
        self._check_open()
        receipt = emit_by(self.app, name, payload, key=key, event_id=event_id)
        self._settle()
        return receipt

    def advance(self, duration: Duration) -> None:
        """Let time pass, and all happen that it brings about, one after the other."""
        target = self._clock.now + micros(duration)
        self._until(target)
        self._clock.move_to(target)
        self._settle()

    def run_until_idle(self) -> None:
        """Let time pass until no run waits for time any more: sleeps, times between attempts and timeouts are over."""
        self._until(None)

    def follow_schedule(self, task: Any) -> None:
        """Start the runs that a task's ``on_schedule`` triggers say, as a beat does, whenever ``advance`` lets their
        time come. ``run_until_idle`` does not wait for them: they have no end."""
        self._join(task.app)
        self._beat.follow(task)

    @property
    def now(self) -> datetime:
        """What time it is."""
        return as_datetime(self._clock.now)

    # -------------------------------------------------------------------- look

    @property
    def app(self) -> Celery:
        """The app that takes part, the first one if there are several; else the current one, from now on."""
        if not self._apps:
            self._join(the_app())
        return next(iter(self._apps))

    @property
    def durable(self) -> Durable:
        """The client, to operate runs by: cancel, pause, retry, fork, ..."""
        self._check_open()
        return Durable(self.app)

    @property
    def runs(self) -> list[EnvRun]:
        """All runs there are, in the order in which they were started."""
        self._settle()
        with self.store.link() as link:
            found = self.store.all_runs(link)
        return [EnvRun(self, run_id) for run_id in found]

    def run(self, run_id: str) -> EnvRun:
        """One of the runs, whoever has started it. Raises ``RunNotFound``."""
        self.read(run_id)
        return EnvRun(self, run_id)

    def read(self, run_id: str) -> Run:
        """What is recorded of a run, once what is due has been done."""
        self._settle()
        return self.durable.get(run_id)

    def export(self, run: EnvRun | str) -> str:
        """A run's history as JSON, for :func:`check_history`."""
        self._settle()
        return self.durable.export(run if isinstance(run, str) else run.id)

    # -------------------------------------------------------------------- mock

    def mock(
        self,
        target: Callable[..., Any] | str,
        *,
        returns: Any = NOTHING,
        raises: BaseException | type[BaseException] | None = None,
        side_effect: Callable[..., Any] | Iterable[Any] | None = None,
    ) -> Mock:
        """Let something else happen where a step calls this function or task: return a value (``None`` if nothing is
        said), raise an error, or call a function with the same arguments. ``side_effect`` may also be a list of values
        and errors, one for each call.

        ``target`` is the function, the Celery task, or the id of the step; a trailing ``*`` in an id is a wildcard. The
        mock that is returned tells of its ``calls``. One that was never called is an error when the environment is
        closed.
        """
        return self.mocks.add(Mock(target, returns=returns, raises=raises, side_effect=side_effect))

    def fail_once(
        self, target: Callable[..., Any] | str, error: BaseException | type[BaseException] | None = None
    ) -> Mock:
        """Let the next attempt at this fail; those after it are real."""
        return self.mocks.add(Mock(target, raises=error or ConnectionError("env.fail_once"), times=1))

    def _is_mocked(self, message: Message) -> bool:
        """Whether a mock stands in for a task that was called; then it has ended by that."""
        if self._hooks.is_over:
            return True
        if message.name == EMIT:
            emit_by(message.app, *message.args, **message.kwargs)
            return True
        if self._ended is not None and message.id in self._ended:
            value, error = self._ended[message.id]
            end_call(message.app, message.id, value=value, error=error)
            return True
        if message.name.startswith(("celery_durable.", "celery.")):
            return False
        self.mocks.saw(message.name)
        if not len(self.mocks) or message.id in self._started:
            return False
        with self.store.link() as link:
            called = self.store.called(link, message.id)
        if called is not None and called["status"] != "pending":
            return False  # a mock is of the whole run
        step_id = None if called is None else called["parent_step"]
        run_id = None if called is None else called["parent_id"]
        mock = self.mocks.find((step_id, message.name), message.app.tasks.get(message.name))
        if mock is None:
            return False
        if called is None:
            self._wire.execute_as(message, lambda *args, **kwargs: mock.call(MockCall(args, kwargs)))
            return True
        value, error = None, None
        try:
            value = mock.call(MockCall(tuple(message.args), dict(message.kwargs), step_id, run_id))
        except Exception as raised:
            error = error_text(message.app, raised)
        self._mocked.add(message.id)
        end_call(message.app, message.id, value=value, error=error)
        return True

    # ------------------------------------------------------------------- check

    def check_replay(
        self,
        task: Any,
        /,
        *args: Any,
        script: Callable[..., Any] | None = None,
        allow: Iterable[str] = (),
        **kwargs: Any,
    ) -> Run:
        """Execute a run of a task twice, and fail where the two differ: once as it goes, and once with its worker
        killed whenever a step is recorded. Both begin with nothing, besides this environment's mocks.

        ``script(env)``, or ``script(env, run)``, does what happens meanwhile: emit events, let time pass. After it time
        passes until nothing is left to happen. Functions and tasks are called the first time only.

        What the body does outside of its steps is found as well: sockets, processes, files opened for writing, the
        clock, randomness, sets that it goes through. ``allow`` names what is as it should be: what is called, such as
        ``"time.time"``, or the function that calls it. Returns the run as it was the first time.
        """
        check_durable(task, task, "env.check_replay")
        if isinstance(allow, str):
            raise TypeError(f"env.check_replay was given allow={allow!r}: a list is expected, allow=[{allow!r}]")
        self._join(task.app)
        return check_replay(self, task, args, kwargs, script, allow)

    def sibling(self, hooks: Hooks, ended: dict[str, tuple[Any, str | None]] | None = None) -> DurableEnv:
        """Another environment at the same time, for the same app and with the same mocks, and with these hooks.

        ``ended``: what became of tasks that are called, and are not to be executed.
        """
        other = DurableEnv(now=self.now)
        other.mocks, other._hooks, other._ended = self.mocks, hooks, ended
        other._is_trial = True
        other._join(self.app)
        return other

    def expect(self, events: Iterable[EventRecord]) -> None:
        """Let these come at their times: from tasks that are not executed here."""
        for found in events:
            due_at = int(moment(found.emitted_at))
            self._wire.put(
                self.app, EMIT, (found.name, found.payload), {"key": found.key, "event_id": found.id}, due_at
            )

    def ended_tasks(self) -> dict[str, tuple[Any, str | None]]:
        """What became of the ordinary tasks that were called, and of those that were mocked, by their ids."""
        with self.store.link() as link:
            rows = self.store.ended_tasks(link, self._mocked)
        return {row["id"]: (decode(row["result"] or "null"), row["error"]) for row in rows}

    # -------------------------------------------------------------------- work

    def _join(self, app: Any) -> None:
        """Let an app take part."""
        self._check_open()
        app = plain_app(app)
        if app in self._apps:
            return
        install(app)
        strict = {"durable_strict_inputs": True} if self._is_trial else {}
        runtime = new_runtime(app, self.store, self._hooks, **strict)
        self._open.enter_context(standing_in(app, runtime))
        self._open.enter_context(self._wire.instead_of_broker(app))
        self._apps[app] = runtime

    def _until(self, target: int | None) -> None:
        """Let time pass, as far as something happens until then, or until nothing is to happen any more."""
        due = self._next_due(target)
        for _ in range(_MOST_WAKE_UPS):
            if self._hooks.is_over or due is None or (target is not None and due > target):
                return
            self._clock.move_to(due)
            self._beat.start_due()
            due = self._next_due(target)
        going_on = "\n".join(repr(run) for run in self.runs[:20] if run.status not in FINISHED)
        raise AssertionError(
            f"{_MOST_WAKE_UPS} things have happened, and there are more to come: a run that sleeps and begins again "
            f"for ever? Let it go on by env.advance(...)\n{going_on}"
        )

    def _next_due(self, target: int | None) -> int | None:
        instants = [self._settle(), None if target is None else self._beat.next_due]
        return min((instant for instant in instants if instant is not None), default=None)

    def _settle(self) -> int | None:
        """Do all that is due; when there is more to do."""
        self._check_open()
        if self.is_settling or not self._apps:
            return None
        self.is_settling = True
        try:
            while True:
                self._wire.execute_due()
                if self._hooks.is_over:
                    return None
                with self.store.link() as link:
                    for fence in self._hooks.take_killed():
                        self.store.recover(link, fence)
                    due = self.store.next_due()
                    if due.first is None or due.first > self._clock.now:
                        break
                    self._sweep(link, due)
        finally:
            self.is_settling = False
        return min((instant for instant in (due.first, self._wire.next_due) if instant is not None), default=None)

    def _sweep(self, link: Link, due: NextDue) -> None:
        """What a worker's sweeper does."""
        now = self._clock.now
        if due.run is not None and due.run <= now:
            self._send_due(link)
        if due.event is not None and due.event <= now:
            events = self.store.due_events(link, _BATCH)
            for event_id, _ in events:
                queue_dispatch(self.app, event_id)
            self.store.mark_events_sent(link, [(event_id, _HOUR) for event_id, _ in events])
        if due.turn is not None and due.turn <= now:
            for app in self._apps:
                Chores(app, lambda _: True).hand_on(link)

    def _send_due(self, link: Link) -> None:
        found = self.store.due(link, _BATCH)
        for run in found:
            if run.status == "running":  # left by an exception that ends a test
                recover(self._runtime, link, run.fence, task=run.task, worker=run.worker, show=lambda _: None)
        for app in self._apps:
            mine = [run for run in found if self._app_of(run.task) is app]
            Sender(app).send(link, [run for run in mine if run.status != "running" and not _is_sent(run)])
        self.store.mark_sent(link, [(run.fence, _HOUR, True) for run in found if _is_sent(run)])

    @property
    def _runtime(self) -> Runtime:
        return self._apps[self.app]

    def _app_of(self, task: str) -> Celery:
        return next((app for app in self._apps if task in app.tasks), self.app)


def _is_sent(run: Any) -> bool:
    """Whether it is an ordinary task whose message is on the wire."""
    return run.kind is not None and run.sends > 0
