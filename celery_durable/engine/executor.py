"""A pass from beginning to end: run the body, and turn the way it ended into the run's new state."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError

from ..core.boundary import Boundary
from ..core.codec import decode
from ..core.duration import describe
from ..core.faults import read_error, summary, write_error
from ..errors import ConfigurationError, DurableError, HistoryMismatch, RunCancelled
from ..store.records import Aftermath
from .control import DatabaseAway, LeaseLost, RunRetry, Suspended, Unwind
from .passing import Pass, current_pass

__all__ = ["Cancelled", "Ended", "Failed", "Finished", "Gone", "Parked", "execute", "recorded_end"]

logger = logging.getLogger("celery_durable")


@dataclass(frozen=True)
class Finished:
    """The body returned: the run's result, in plain types."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """An error left the body."""

    error: BaseException


@dataclass(frozen=True)
class Cancelled:
    """The run was cancelled, and the body was left."""

    why: str


@dataclass(frozen=True)
class Parked:
    """The run is suspended or paused. ``wake_at``: when it goes on if nothing comes before."""

    waiting_on: str
    wake_at: int | None = field(default=None, compare=False)
    status: str = "suspended"
    retry: RunRetry | None = None


@dataclass(frozen=True)
class Gone:
    """Nothing of this pass counts: the run is another worker's, or will be."""

    why: str


Ended = Finished | Failed | Cancelled | Parked | Gone


def execute(run: Pass, body: Callable[[], Any], result: Boundary) -> Ended:
    """Run the body once, from its first line, and record how that ended."""
    value: Any = None
    error: BaseException | None = None
    marker = current_pass.set(run)
    try:
        value = body()
    except Unwind as unwind:
        run.unwinding = run.unwinding or unwind
    except (Exception, RunCancelled) as raised:
        error = raised
    except BaseException as raised:
        # Of several tasks at once: a group of errors, with what carries the run out of the body among them.
        if run.unwinding is None and run.cancelled is None:
            raise
        error = raised
    finally:
        current_pass.reset(marker)
    try:
        return _end(run, value, error, result)
    finally:
        run.let_go()


def _end(run: Pass, value: Any, error: BaseException | None, result: Boundary) -> Ended:
    try:
        if run.unwinding is not None:
            return _left(run, run.unwinding, error)
        if run.cancelled is not None or isinstance(error, RunCancelled):
            return _cancel(run, run.cancelled or error, error)
        if error is not None:
            return _fail(run, error)
        return _finish(run, value, result)
    except Unwind as unwind:
        return _left(run, unwind, None)
    except (DBAPIError, ConfigurationError) as away:
        return _left(run, DatabaseAway(str(away)), None)


def _left(run: Pass, unwinding: BaseException, error: BaseException | None) -> Ended:
    """The body was left before its end, whatever it did to what carried it out."""
    if error is not None and not _carries_out(error, unwinding):
        logger.warning(
            "run %s: an error was raised while the run was being parked, and is dropped: %r", run.run_id, error
        )
    if isinstance(unwinding, Suspended):
        _send_on(run)
        return Parked(str(unwinding), unwinding.wake_at)
    if isinstance(unwinding, HistoryMismatch):
        return _pause(run, unwinding)
    if isinstance(unwinding, RunRetry):
        return _retry(run, unwinding)
    if isinstance(unwinding, DatabaseAway):
        logger.error(
            "run %s: the durable database can't be reached (%s). What is recorded is safe; the run goes on from there "
            "when its lease has ended",
            run.run_id,
            unwinding,
        )
        return Gone("the durable database can't be reached")
    assert isinstance(unwinding, LeaseLost)
    return Gone("another worker has taken the run over")


def _carries_out(error: BaseException, unwinding: BaseException) -> bool:
    """Whether an error is what carries the pass out of the body, by whichever of its tasks."""
    several = getattr(error, "exceptions", None)
    if several is not None:
        return all(_carries_out(one, unwinding) for one in several)
    return error is unwinding or isinstance(error, (Unwind, CancelledError))


def _pause(run: Pass, mismatch: HistoryMismatch) -> Ended:
    logger.error("run %s is paused: %s", run.run_id, mismatch)
    reason = f"code: {mismatch}"
    run.dispatcher.announce(reason, None)
    kept = run.store.pause(run.link, run.fence, waiting_on=reason, error=write_error(mismatch), patience=run.patience)
    return Parked(reason, status="paused") if kept else Gone("another worker has taken the run over")


def _retry(run: Pass, retry: RunRetry) -> Ended:
    """Celery's retry of the whole run: finished steps are kept, the failed step starts over."""
    error = retry.error
    text = run.error_record(error) if error is not None else None
    after = f", after {type(error).__name__}: {error}" if error is not None else ""
    run.unwinding = None
    try:
        run.park_with(
            None,
            f"retry {run.claim.retries + 1} of the run in {describe(retry.delay)}{after}"[:500],
            delay=retry.delay,
            retried=True,
            error=text,
            reset=run.blamed_steps(error),
        )
    except Suspended as parked:
        _send_on(run)
        return Parked(str(parked), parked.wake_at, retry=retry)


def _send_on(run: Pass) -> None:
    """The run is parked: send its wake-up, if that is near, and the messages of what it calls."""
    if run.wake_up is not None:
        run.dispatcher.wake(run.wake_up)
    _follow(run, run.aftermath)


def _follow(run: Pass, aftermath: Aftermath) -> None:
    if aftermath != Aftermath():
        run.dispatcher.follow(aftermath)


def _cancel(run: Pass, cancelled: BaseException | None, error: BaseException | None) -> Ended:
    if error is not None and cancelled is not None and not _carries_out(error, cancelled):
        logger.warning("run %s: cleaning up after it was cancelled raised an error: %r", run.run_id, error)
    kept = _close(run, "cancelled", error=run.error_record(cancelled or RunCancelled()))
    return Cancelled(str(cancelled)) if kept else Gone("another worker has taken the run over")


def _fail(run: Pass, error: BaseException) -> Ended:
    kept = _close(run, "failed", error=run.error_record(error))
    return Failed(error) if kept else Gone("another worker has taken the run over")


def _close(run: Pass, status: str, **outcome: str) -> bool:
    """Record the run's end."""
    aftermath = run.store.finish(
        run.link,
        run.fence,
        status=status,
        now=run.now(),
        lease=run.settings.lease,
        parent=run.claim.parent,
        open_steps=run.has_open_steps(),
        patience=run.patience,
        **outcome,
    )
    if aftermath is None:
        return False
    _follow(run, aftermath)
    return True


def _finish(run: Pass, value: Any, result: Boundary) -> Ended:
    try:
        text = run.measured(result.write(value, f"the result of run {run.run_id}"), "the result")
    except Exception as error:  # a serializer of the user's raised, say
        return _fail(run, error)
    kept = _close(run, "completed", result=text)
    return Finished(decode(text)) if kept else Gone("another worker has taken the run over")


def recorded_end(status: str, result: str | None, error: str | None) -> Ended:
    """The end of a run that finished earlier, to be delivered again."""
    if status == "completed":
        return Finished(decode(result or "null"))
    if status == "cancelled":
        return Cancelled(summary(error)["message"] if error else "")
    return Failed(read_error(error) if error else DurableError("the run failed"))
