"""What a message of a durable run does in a worker: claim, one pass, and its end told to Celery."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from billiard.einfo import ExceptionInfo
from celery import signals, states
from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry
from sqlalchemy.exc import DBAPIError

from ..core.codec import decode_arguments
from ..core.duration import SECOND
from ..core.ids import fingerprint
from ..engine.calls import Target
from ..engine.control import RunRetry
from ..engine.executor import Cancelled, Ended, Failed, Finished, Gone, Parked, execute, recorded_end
from ..errors import ConfigurationError, DurableError
from ..store.lines import Line
from ..store.link import Link
from ..store.records import Aftermath, Claim, Deed, NewRun, NotClaimed, Outcome
from .calling import target_of
from .dispatch import announce
from .eager import execute_eagerly
from .message import PASS_HEADER, from_request, header_of, keep, message_form, outside_any_request, send
from .runtime import Runtime, runtime_of
from .sending import follow
from .showing import show_waiting, store_state
from .signals import notice
from .telling import is_chord_left, is_outage

if TYPE_CHECKING:
    from .task import DurableTask

__all__ = ["Dropped", "RunEnded", "RunParked", "run_message", "worker_name"]

logger = logging.getLogger("celery_durable")

_EARLY = 100_000
"""Microseconds by which a message may come before its time and be waited for here."""
_PAUSE_BEFORE_REJECT = 1.0
"""Seconds before a message goes back that nothing can be done about now: it comes again at once."""
_PATIENCE_AT_CLAIM = 10.0
"""Seconds to wait for the database before a message is given back to the broker."""


class RunParked(Ignore):
    """The pass is over and the run is not: Celery stores nothing and fires nothing."""


class RunEnded(Ignore):
    """The run was cancelled: Celery has been told what to store, and fires nothing."""


class Dropped(Ignore):
    """A message that has nothing to do: a duplicate, or one for a run that is not due."""


def worker_name(hostname: str | None, pid: int) -> str:
    """How the holder of a lease is written."""
    return f"{hostname or 'eager'}/{pid}"[:255]


def run_message(task: DurableTask, request: Any) -> Any:
    """Execute one pass of the run that this message is for."""
    runtime = runtime_of(task.app)
    if request.is_eager:
        return _run_eagerly(task, request, runtime)
    return _tell_celery(task, request, runtime, _one_pass(task, request, runtime))


def _run_eagerly(task: DurableTask, request: Any, runtime: Runtime) -> Any:
    """Passes until the run ends: what it waits for is over at once."""
    while True:
        ended = _one_pass(task, request, runtime)
        if not isinstance(ended, Parked) or ended.status != "suspended":
            try:
                return _tell_celery(task, request, runtime, ended)
            finally:
                _note_delivered(request, runtime)
        if ended.wake_at is None and not _is_due(runtime, request.id):
            raise DurableError(
                f"run {request.id} of {task.name} is executed eagerly and waits for {ended.waiting_on}, which nobody "
                "can emit meanwhile: emit it before, give the wait a timeout, or execute the run by a worker"
            )
        request.retries += ended.retry is not None
        with runtime.store.link() as link:
            runtime.store.skip_wait(link, request.id)


def _is_due(runtime: Runtime, run_id: str) -> bool:
    with runtime.store.link() as link:
        found = runtime.store.get(link, run_id)
    return found is not None and found[0]["due_at"] is not None


def _one_pass(task: DurableTask, request: Any, runtime: Runtime) -> Ended:
    with runtime.store.link() as link:
        try:
            claimed = _claim(task, request, runtime, link)
        except (DBAPIError, ConfigurationError) as error:
            if request.is_eager:
                raise
            time.sleep(_PAUSE_BEFORE_REJECT)
            logger.error("run %s: the durable database can't be reached (%s); its message goes back", request.id, error)
            raise Reject(f"the durable database can't be reached: {error}", requeue=True) from error
        request.durable_fence = claimed.fence
        if isinstance(claimed, Outcome):
            logger.info("run %s has finished before; its result is delivered now", request.id)
            return recorded_end(claimed.status, claimed.result, claimed.error)
        early = (claimed.wake_at or 0) - claimed.now
        if early > 0:
            time.sleep(early / SECOND)
            claimed = replace(claimed, now=claimed.now + early)
        runtime.keeper.hold(claimed.fence)
        try:
            return _pass(task, request, runtime, link, claimed)
        except DBAPIError as away:  # the body's own errors are the end of the run: this one is none of them
            logger.error("run %s: the durable database can't be reached (%s); the pass is given up", request.id, away)
            return Gone("the durable database can't be reached")
        finally:
            runtime.keeper.drop(claimed.fence)
            _let_in(task, request, runtime, link, claimed)


def _line_of(task: DurableTask, request: Any, arguments: str | None) -> Line | None:
    """What the run needs a share of to be executed. In eager mode there is nobody to share with."""
    if task.concurrency is None or request.is_eager or arguments is None:
        return None
    given_args, given_kwargs = decode_arguments(arguments)
    args, kwargs = task.signature_of_run().arguments(tuple(given_args), given_kwargs, f"an argument of {task.name}")
    return Line(task.concurrency.resource(task.name, task.run, args, kwargs), task.concurrency.limit)


def _let_in(task: DurableTask, request: Any, runtime: Runtime, link: Link, claim: Claim) -> None:
    """This run is not executed any more: the first in its line has its share."""
    try:
        line = _line_of(task, request, claim.arguments)
        if line is not None:
            follow(task.app, Aftermath(wake=tuple(runtime.store.let_in(link, line))))
    except Exception as error:
        logger.warning("run %s: who is next in its line could not be told (%s); the sweeper does it", request.id, error)


def _claim(task: DurableTask, request: Any, runtime: Runtime, link: Link) -> Claim | Outcome:
    store, lease = runtime.store, runtime.settings.lease
    worker = worker_name(request.hostname, os.getpid())
    patience = 0.0 if request.is_eager else _PATIENCE_AT_CLAIM
    version, timeout = task.code_version(), task.length_of("run_timeout")
    try:
        line = None
        if task.concurrency is not None:
            line = _line_of(task, request, store.arguments(link, request.id, patience))
    except Exception as error:
        if isinstance(error, (DBAPIError, ConfigurationError)):
            raise
        _set_aside(task, request, runtime, link, error)
    found = store.claim(
        link, request.id, worker=worker, lease=lease, slack=_EARLY, code_version=version, run_timeout=timeout,
        line=line, patience=patience,
    )  # fmt: skip
    if isinstance(found, NotClaimed) and found.status is None:
        if header_of(request, PASS_HEADER) is not None:
            # Sent for a run that was recorded: taken back with the caller's transaction, or pruned since.
            logger.warning("run %s of %s is not in the database: its message is dropped", request.id, task.name)
            raise Dropped("there is no such run")
        run = _unrecorded(task, request, runtime)
        if task.concurrency is not None or timeout is not None:
            store.start(link, run, patience)
            return _claim(task, request, runtime, link)
        taken = store.start_claimed(link, run, worker, lease, version, patience)
        found = taken if taken is not None else NotClaimed("running")
    if isinstance(found, NotClaimed):
        state = f"is {found.status}" if not found.early_by else f"is due in {found.early_by / SECOND:.3f} s"
        logger.info("run %s %s: this message has nothing to do %s", request.id, state, found.why)
        raise Dropped(f"the run {state}")
    return found


def _set_aside(task: DurableTask, request: Any, runtime: Runtime, link: Link, error: Exception) -> NoReturn:
    """The key of the task's ``concurrency`` can't be made of what this run was given."""
    reason = f"code: the key of the concurrency of {task.name}: {type(error).__name__}: {error}"
    logger.error("run %s is paused: %s", request.id, reason)
    runtime.store.pause_by_hand(link, request.id, Deed("pause", "a worker", reason), waiting_on=reason)
    raise Dropped(reason) from error


def _unrecorded(task: DurableTask, request: Any, runtime: Runtime) -> NewRun:
    """A run whose message was sent by name, by a process that does not know it is durable."""
    arguments = task.write_arguments(runtime, tuple(request.args or ()), dict(request.kwargs or {}))
    with outside_any_request(task.app):  # it names its own caller, if it has one, and is not its own
        message = keep(task.app, task, {} if request.is_eager else from_request(task, request))
    return NewRun(
        id=request.id,
        task=task.name,
        arguments=arguments,
        input_hash=fingerprint(arguments),
        message=message,
        retries=request.retries or 0,
    )


def _pass(task: DurableTask, request: Any, runtime: Runtime, link: Link, claim: Claim) -> Ended:
    dispatcher = MessageDispatcher(task, request, runtime, claim)
    if task.durable_track_started:
        dispatcher.started()
    request.retries = claim.retries
    run = runtime.new_pass(
        claim,
        store=runtime.store,
        link=link,
        settings=runtime.settings,
        dispatcher=dispatcher,
        step_retry=task.step_retry or runtime.settings.step_retry,
        retention=task.length_of("retention"),
    )
    signature = task.signature_of_run()
    if claim.passes == 1:
        notice("run_started", task, request)
    else:
        notice("run_resumed", task, request, passes=claim.passes)

    def body() -> Any:
        with run.reading("the arguments"):
            given_args, given_kwargs = decode_arguments(claim.arguments)
        args, kwargs = signature.arguments(tuple(given_args), given_kwargs, f"an argument of {task.name}")
        return task.run(*args, **kwargs)

    ended = execute(run, body, signature.result)
    _tell_monitors(task, request, claim, ended, run.now())
    return ended


def _tell_monitors(task: DurableTask, request: Any, claim: Claim, ended: Ended, now: int) -> None:
    if isinstance(ended, Parked):
        if ended.status == "paused":
            notice("run_paused", task, request, waiting_on=ended.waiting_on)
        else:
            notice("run_suspended", task, request, waiting_on=ended.waiting_on, wake_at=ended.wake_at)
    elif not isinstance(ended, Gone):
        error = ended.error if isinstance(ended, Failed) else None
        status = {Finished: "completed", Failed: "failed"}.get(type(ended), "cancelled")
        seconds = (now - claim.started_at) / SECOND
        notice("run_finished", task, request, status=status, seconds=seconds, error=error)


def _tell_celery(task: DurableTask, request: Any, runtime: Runtime, ended: Ended) -> Any:
    """The end of a pass in Celery's words: a value, an error, or nothing at all."""
    if isinstance(ended, Finished):
        request.durable_ended = states.SUCCESS
        return message_form(ended.value)
    if isinstance(ended, Failed):
        request.durable_ended = states.FAILURE
        if isinstance(ended.error, (Ignore, Reject)):  # the body's own: no result will ever be stored
            _note_delivered(request, runtime)
        raise ended.error
    if isinstance(ended, Cancelled):
        if _revoke(task, request, ended.why):
            _note_delivered(request, runtime)
        raise RunEnded(ended.why)
    if isinstance(ended, Parked):
        if ended.retry is not None:
            _tell_of_retry(task, request, ended.retry)
        raise RunParked(ended.waiting_on)
    assert isinstance(ended, Gone)
    raise Dropped(ended.why)


def _tell_of_retry(task: DurableTask, request: Any, retry: RunRetry) -> None:
    """What Celery does about a retry besides sending it: the hook and the signal."""
    reason = CeleryRetry(exc=retry.error, when=retry.delay / SECOND)
    try:
        raise reason
    except CeleryRetry:
        info = ExceptionInfo(sys.exc_info())
    task.on_retry(retry.error, request.id, request.args, request.kwargs, info)
    signals.task_retry.send(sender=task, request=request, reason=reason, einfo=info)


def _revoke(task: DurableTask, request: Any, why: str) -> bool:
    """What Celery does about a task that is revoked: the state, and the part of a chord that it was. Whether it could
    be done now."""
    try:
        task.backend.mark_as_revoked(request.id, why, request=request, store_result=not request.ignore_result)
    except Exception as error:
        if not is_outage(task.backend, error):
            raise
        logger.warning("run %s: that it is cancelled could not be told (%s); the sweeper does it", request.id, error)
        return False
    return not is_chord_left(task.app.backend, request)


def _note_delivered(request: Any, runtime: Runtime) -> None:
    runtime.keeper.delivered(request.durable_fence)


class MessageDispatcher:
    """The engine's :class:`~celery_durable.engine.passing.Dispatcher`, for the message being executed."""

    def __init__(self, task: DurableTask, request: Any, runtime: Runtime, claim: Claim) -> None:
        self._task = task
        self._request = request
        self._runtime = runtime
        self._claim = claim

    def may_send_ahead(self, delay: int) -> bool:
        return not self._request.is_eager and self._runtime.etas.take(delay)

    def wake(self, delay: int) -> None:
        try:
            send(
                self._task.app,
                self._task.name,
                self._request.id,
                arguments=self._claim.arguments,
                kept=self._claim.message,
                passes=self._claim.passes,
                retries=self._claim.retries,
                delay=delay,
            )
        except Exception as error:
            logger.warning(
                "run %s: its wake-up could not be sent (%s: %s); the sweeper sends it when the broker is back",
                self._request.id,
                type(error).__name__,
                error,
            )

    def task_name(self) -> str:
        return str(self._task.name)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if self._task.typing:
            self._task.__header__(*args, **kwargs)
        return self._task.write_arguments(self._runtime, args, kwargs)

    def tell(self, what: str, **facts: Any) -> None:
        notice(what, self._task, self._request, **facts)

    def target(self, signature: Any, queue: str | None) -> Target:
        return target_of(self._task.app, signature, queue, eager=self._request.is_eager)

    def follow(self, aftermath: Aftermath) -> None:
        if self._request.is_eager:
            execute_eagerly(self._task.app, aftermath, besides=self._request.id)
        else:
            follow(self._task.app, aftermath)

    def emitted(self, event_id: str, name: str, key: str | None) -> None:
        announce(self._task.app, event_id, name, key)

    def announce(self, waiting_on: str, wake_at: int | None) -> None:
        if self._shows():
            state = self._runtime.settings.suspended_state
            show_waiting(self._task.app, self._request.id, waiting_on, wake_at, state=state, request=self._request)

    def started(self) -> None:
        """What ``task_track_started`` asks for."""
        if self._shows():
            meta = {"pid": os.getpid(), "hostname": self._request.hostname}
            store_state(self._task.app, self._request.id, meta, states.STARTED, request=self._request)

    def _shows(self) -> bool:
        return not self._request.is_eager and not self._ignores_result()

    def _ignores_result(self) -> bool:
        """What the caller asked for wins over what the task says."""
        asked = vars(self._request).get("ignore_result")
        return bool(self._task.ignore_result if asked is None else asked)

    def stopping(self) -> bool:
        return self._runtime.stopping and not self._request.is_eager
