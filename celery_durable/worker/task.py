"""``DurableTask``: the one class that a user must know.

To Celery it is a task like any other. What it changes: a start is recorded before its message is sent
(:meth:`apply_async`), and a message, where a plain task would call its function once, executes one pass
of the run (:meth:`__call__`).
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import sys
from collections.abc import Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from celery import Task, uuid
from celery.exceptions import MaxRetriesExceededError
from celery.result import AsyncResult
from sqlalchemy.exc import DBAPIError

from ..core.boundary import Signature, signature_of
from ..core.codec import decode_arguments, encode, measured
from ..core.concurrency import Concurrency
from ..core.duration import Duration, micros
from ..core.ids import check_run_id, fingerprint
from ..core.retry import Retry
from ..engine.control import RunRetry
from ..engine.current import current_pass
from ..engine.passing import GRACE
from ..errors import ConfigurationError, DurableError, StepFailed, StepTimeout, add_note
from ..store.records import NewRun
from .carrying import attached
from .coroutines import make_awaited
from .delays import delay_of
from .install import install
from .message import PASS_HEADER, keep, message_form
from .runtime import Runtime, runtime_of
from .schedules import OnSchedule
from .telling import Telling, is_next, patience_of_start
from .triggers import OnEvent, install_triggers, tick_of

if TYPE_CHECKING:
    from .joining import Joined

__all__ = ["DurableTask"]

logger = logging.getLogger("celery_durable")


class DurableTask(Task):
    """A task whose runs survive: ``@app.task(base=DurableTask)``.

    The function may use the verbs of :data:`celery_durable.step`. Each step's result is recorded, and
    when the run was interrupted or parked it is called again and finds its results where it left them.
    """

    abstract = True
    Request = "celery_durable.worker.request:DurableRequest"

    #: What starts runs besides calls: ``[on_event("customer.created"), on_schedule(crontab(...))]``.
    triggers: Iterable[OnEvent | OnSchedule] = ()

    #: The retry policy of every step that has none of its own; ``durable_step_retry`` by default.
    step_retry: Retry | None = None

    #: A deadline for the whole run, waits included, such as ``"2h"``: it fails with ``RunTimeout`` then.
    run_timeout: Duration | None = None

    #: How many runs are executed at once, over all workers; the others stand in line without a worker.
    concurrency: Concurrency | None = None

    #: How long a finished run is kept; ``durable_retention`` by default.
    retention: Duration | None = None

    # A message is given back to the broker when its worker dies: the lease decides who executes it.
    acks_late = True
    reject_on_worker_lost = True

    #: Celery's own STARTED would be written by a duplicate message, too, over the result of a run that
    #: has ended. What the user asked for is kept here and done once the run is claimed.
    durable_track_started = False
    durable_tells = False
    _tracer: Any = None

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called by Celery when the task gets its app: all that is needed is installed here."""
        install(app)
        make_awaited(cls)
        if cls.step_retry is not None and not isinstance(cls.step_retry, Retry):
            raise ConfigurationError(f"the task {cls.name} has step_retry={cls.step_retry!r}: a Retry(...) is expected")
        if cls.concurrency is not None:
            cls._check_concurrency(cls.concurrency)
        for name in ("run_timeout", "retention"):
            try:
                cls.length_of(name)
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"the task {cls.name} has {name}={getattr(cls, name)!r}: {error}") from error
        install_triggers(app, cls)
        if cls.track_started:
            cls.durable_track_started = True
            cls.track_started = False

    @classmethod
    def _check_concurrency(cls, concurrency: Any) -> None:
        if not isinstance(concurrency, Concurrency):
            raise ConfigurationError(
                f"the task {cls.name} has concurrency={concurrency!r}: a Concurrency(limit, key=...) is expected"
            )
        try:
            concurrency.check(cls.run)
        except ValueError as error:
            raise ConfigurationError(f"the task {cls.name} has concurrency={concurrency!r}: {error}") from error

    @classmethod
    def length_of(cls, name: str) -> int | None:
        """One of the durations above in microseconds."""
        value = getattr(cls, name)
        length = None if value is None else micros(value)
        if length is not None and length <= 0:
            raise ValueError(f"a time is expected for {name}, not none at all")
        return length

    # ------------------------------------------------------------------ start

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Start a run: record it, then send its message.

        ``task_id`` is the run's id. A second start with the same id and arguments starts nothing and
        returns the same run; with other arguments it raises ``StartConflict``. With a ``session`` (as for
        ``emit``) the start commits with the caller's transaction, or not at all.
        """
        app = self._get_app()
        runtime = runtime_of(app)
        session = options.pop("session", None)
        by = {name: options.pop(f"durable_{name}", None) for name in ("event", "deed")}
        task_id = task_id or tick_of(self, options.get("headers"))
        joined = None if session is None else self._joined(runtime, session)
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        if self.typing:
            self.__header__(*args, **kwargs)
        eager = app.conf.task_always_eager
        if eager:
            options = {name: value for name, value in options.items() if name not in ("countdown", "eta")}
        options |= {"link": link, "link_error": link_error, "shadow": shadow}
        options.setdefault("ignore_result", self.ignore_result)
        run, ahead = self._new_run(runtime, args, kwargs, task_id, options, by)
        retries = options.pop("retries", None)
        if eager:
            # Not by way of Celery's serializer: what is recorded is what the body gets, here as in a worker.
            execute = partial(self.apply, args, kwargs, task_id=run.id, retries=retries or 0, **options)
            if joined is None:
                self._record(runtime, run)
                return execute()
            if runtime.store.start_within(joined.execute, run):
                joined.after_commit(execute)
        elif joined is None:
            self._start(runtime, run, ahead, producer, options)
        elif joined.is_elsewhere:
            joined.after_commit(partial(self._start, runtime, run, ahead, None, options))
        elif runtime.store.start_within(joined.execute, run) and ahead:
            joined.after_commit(lambda: self._send_committed(run, options))
        return self.AsyncResult(run.id)

    @staticmethod
    def _joined(runtime: Runtime, session: Any) -> Joined:
        from .joining import join  # SQLAlchemy's sessions: whoever gives one has imported them

        return join(runtime.store, session)

    def _new_run(
        self,
        runtime: Runtime,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run_id: str | None,
        options: dict[str, Any],
        by: dict[str, Any],
    ) -> tuple[NewRun, bool]:
        """The run as it is to be recorded, and whether its message is to be sent at once. ``by``: the event that starts
        it, or the deed of who does."""
        arguments = self.write_arguments(runtime, args, kwargs)
        delay = delay_of(self._get_app(), options)
        ahead = delay <= runtime.settings.eta_horizon and runtime.etas.take(delay)
        run = NewRun(
            id=check_run_id(run_id or uuid()),
            task=self.name,
            arguments=arguments,
            input_hash=fingerprint(arguments),
            message=keep(self._get_app(), self, options),
            wake_in=delay or None,
            due_in=delay + GRACE if ahead else max(0, delay - runtime.settings.eta_horizon),
            retries=options.get("retries") or 0,
            **by,
        )
        return run, ahead

    def _start(self, runtime: Runtime, run: NewRun, ahead: bool, producer: Any, options: dict[str, Any]) -> None:
        try:
            is_new = self._record(runtime, run)
        except DBAPIError as error:
            if not is_next(self._get_app(), run.id, options):
                raise
            self._send(run, producer, options)
            logger.warning(
                "run %s of %s comes after a task that has ended, and could not be recorded (%s: %s). Its message is "
                "sent all the same: the worker that takes it records it",
                run.id,
                run.task,
                type(error).__name__,
                error,
            )
        else:
            if is_new and ahead:
                self._send_first(run, producer, options)

    def _record(self, runtime: Runtime, run: NewRun) -> bool:
        try:
            with runtime.store.link() as link:
                return runtime.store.start(link, run, patience_of_start.get())
        except DBAPIError as error:
            add_note(
                error,
                f"celery_durable: the start of {run.task}[{run.id}] could not be recorded in durable_database_url "
                f"({runtime.store.engine.url.render_as_string(hide_password=True)}), so nothing was sent. Start it "
                "again under this id: if only the answer was lost, it is there, and is not started twice.",
            )
            raise

    def _send_committed(self, run: NewRun, options: dict[str, Any]) -> None:
        """Send the message of a run that was recorded in a transaction of the caller's, if it is there: a worker
        would take a message without a row for one that was sent by name, and execute it."""
        runtime = runtime_of(self._get_app())
        with runtime.store.link() as link:
            there = runtime.store.is_started(link, run.id)
        if there:
            self._send_first(run, None, options)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """In a Django project: start a run that is there if and only if the current transaction commits.

        It is recorded in that transaction, so that a process which dies right after the commit has started it, too.
        """
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self, args: Any = None, kwargs: Any = None, *, using: str | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """The same with the options of ``apply_async``; ``using`` names the Django database."""
        from .joining_django import start_on_commit

        return start_on_commit(self, args, kwargs, using, options)

    def _send_first(self, run: NewRun, producer: Any, options: dict[str, Any]) -> None:
        """Send the message of a run that is recorded. It holds even if this fails: then the sweeper does it."""
        try:
            self._send(run, producer, options | {"headers": {**(options.get("headers") or {}), PASS_HEADER: 0}})
        except Exception as error:
            logger.warning(
                "run %s of %s is recorded, but its message could not be sent (%s: %s). A worker sends it when the "
                "broker is back",
                run.id,
                run.task,
                type(error).__name__,
                error,
            )

    def _send(self, run: NewRun, producer: Any, options: dict[str, Any]) -> None:
        args, kwargs = message_form(decode_arguments(run.arguments))
        with attached(run.message):
            super().apply_async(args, kwargs, task_id=run.id, producer=producer, retries=run.retries, **options)

    # -------------------------------------------------------------- arguments

    def signature_of_run(self) -> Signature:
        """The function's annotations."""
        return signature_of(self.run)

    def write_arguments(self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The run's arguments as they are recorded."""
        what = f"an argument of {self.name}"
        plain_args, plain_kwargs = self.signature_of_run().plain(args, kwargs, what)
        text = encode([plain_args, plain_kwargs], what)
        return measured(text, f"what {self.name} is given", runtime.settings.max_payload)

    def code_version(self) -> str | None:
        """A fingerprint of the function's source, recorded with each run."""
        plain: Any = self.run
        run: Any = inspect.unwrap(plain)
        return _source_version(getattr(run, "__func__", run))

    # -------------------------------------------------------------------- run

    @property
    def backend(self) -> Any:
        """The result backend; in a worker one by which the end of a run is told."""
        backend = super().backend
        return Telling(backend, runtime_of(self._get_app()).keeper) if self.durable_tells else backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    @property
    def __trace__(self) -> Any:
        """What Celery executes the task's messages by. It makes one when a worker begins."""
        return self._tracer

    @__trace__.setter
    def __trace__(self, value: Any) -> None:
        from .tracing import tracer_of  # a worker's

        self._tracer = tracer_of(self, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Execute one pass in a worker. Called directly, this is the plain function."""
        request = self.request
        inside = current_pass.get()
        if request.called_directly or (inside is not None and inside.run_id == request.id):
            return super().__call__(*args, **kwargs)
        from .running import run_message  # what executes passes: a worker has imported it before its pool forks

        type(self).durable_tells = not request.is_eager
        return run_message(self, request)

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Celery's retry, made durable: the body starts over after the delay, with its finished steps kept."""
        inside = current_pass.get()
        if inside is None or inside.run_id != self.request.id:
            return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        if args is not None or kwargs is not None:
            raise TypeError(
                f"{self.name}: a durable run keeps its arguments, so retry(args=..., kwargs=...) can't change them. "
                "Start another run instead."
            )
        if isinstance(exc, DurableError) and not isinstance(exc, (StepFailed, StepTimeout)):
            raise exc  # misuse, or a time that is up: it would be the same again
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and inside.claim.retries + 1 > limit:
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(f"{self.name}[{inside.run_id}] was retried {limit} times")
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        delay = delay_of(self._get_app(), {"eta": eta, "countdown": countdown})
        raise RunRetry(exc if exc is not None else sys.exc_info()[1], delay)


@cache
def _source_version(function: Any) -> str | None:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return None
    return hashlib.blake2b(source.encode(), digest_size=8).hexdigest()
