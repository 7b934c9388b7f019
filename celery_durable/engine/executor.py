"""A pass from beginning to end: run the body, and turn the way it ended into the run's new state."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError

from ..core.boundary import Boundary
from ..core.codec import decode, encode
from ..core.duration import describe
from ..core.faults import read_error, summary, write_error
from ..core.ids import RELEASE
from ..errors import (
    ConfigurationError,
    DamagedRecord,
    DurableError,
    HistoryMismatch,
    RunCancelled,
    RunOverdue,
    RunTimeout,
    add_note,
)
from ..store.records import DAMAGED, Aftermath
from .branch import cancels
from .control import ContinueAsNew, Damaged, DatabaseAway, LeaseLost, RollingBack, RunRetry, Suspended, Unwind
from .current import current_pass
from .passing import Pass
from .undoing import Rollback, begun, roll_back

__all__ = ["Cancelled", "Ended", "Failed", "Finished", "Gone", "Parked", "execute", "left_by", "recorded_end"]

logger = logging.getLogger("celery_durable")

_ENDED_OTHERWISE = (RollingBack, RunRetry, ContinueAsNew)
"""Ways of leaving a body that do not count any more once a rollback has begun."""


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
    marker = current_pass.set(run)
    try:
        value, error = left_by(run, body)
        return _end(run, value, error, result)
    finally:
        current_pass.reset(marker)
        run.let_go()


def left_by(run: Pass, body: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What the body returned, or the error that it raised; neither where it was left in between."""
    try:
        value = body()
        if run.unwinding is None:
            return value, None
        run.swallowed()
    except Unwind as unwind:
        run.unwinding = run.unwinding or unwind
    except (Exception, RunCancelled) as raised:
        return None, raised
    except BaseException as raised:
        # Of several tasks at once: a group of errors, with what carries the run out of the body among them.
        if isinstance(raised, (SystemExit, KeyboardInterrupt)) or (run.unwinding is None and run.cancelled is None):
            raise
        return None, raised
    return None, None


def _end(run: Pass, value: Any, error: BaseException | None, result: Boundary) -> Ended:
    try:
        run.flush_log()
        rollback = begun(run)
        if rollback is not None and (run.unwinding is None or isinstance(run.unwinding, _ENDED_OTHERWISE)):
            return _roll_back(run, rollback)
        if run.unwinding is not None:
            return _left(run, run.unwinding, error)
        if run.cancelled is not None or isinstance(error, RunCancelled):
            return _cancel(run, run.cancelled or error, error)
        if error is not None:
            return _fail(run, error)
        if run.claim.cancelling is not None:  # behind the last of its verbs: nobody could tell the body
            return _cancel(run, RunCancelled(run.claim.cancelling), None)
        return _finish(run, value, result)
    except (Unwind, HistoryMismatch) as unwind:
        return _left(run, unwind, None)
    except DamagedRecord as damaged:
        return _left(run, Damaged(f"the end of run {run.run_id}: {damaged}. Mend the row, then resume the run"), None)
    except (DBAPIError, ConfigurationError) as away:
        return _left(run, DatabaseAway(str(away)), None)
    finally:
        _keep_log(run)


def _keep_log(run: Pass) -> None:
    try:
        run.flush_log()
    except (DBAPIError, ConfigurationError) as error:
        logger.warning("run %s: the last lines of its log could not be kept: %s", run.run_id, error)


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
        return _pause(run, f"code: {unwinding}", unwinding)
    if isinstance(unwinding, Damaged):
        return _pause(run, f"{DAMAGED} {unwinding}", DamagedRecord(str(unwinding)))
    if isinstance(unwinding, RunRetry):
        return _retry(run, unwinding)
    if isinstance(unwinding, ContinueAsNew):
        return _continue_as_new(run, unwinding)
    if isinstance(unwinding, DatabaseAway):
        logger.error(
            "run %s: the durable database can't be reached (%s). What is recorded is safe; the run goes on from there "
            "when its lease has ended",
            run.run_id,
            unwinding,
        )
        return Gone("the durable database can't be reached")
    assert isinstance(unwinding, LeaseLost)
    return _gave_way(run)


def _gave_way(run: Pass) -> Ended:
    """The fence has stopped a write: another worker has the run; or it was paused, or is to be cancelled, and goes on
    from what this pass has done."""
    try:
        found = run.hand_back()
    except (DBAPIError, ConfigurationError) as away:
        return _left(run, DatabaseAway(str(away)), None)
    if found is None:
        return Gone("another worker has taken the run over")
    status, waiting_on = found
    logger.info("run %s is not executed any longer: it waits for %s", run.run_id, waiting_on)
    if status == "suspended":
        run.dispatcher.follow(Aftermath(wake=(run.run_id,)))
    return Parked(waiting_on, status=status)


def _carries_out(error: BaseException, unwinding: BaseException) -> bool:
    """Whether an error is what carries the pass out of the body, by whichever of its tasks."""
    several = getattr(error, "exceptions", None)
    if several is not None:
        return all(_carries_out(one, unwinding) for one in several)
    return error is unwinding or isinstance(error, (Unwind, CancelledError))


def _pause(run: Pass, reason: str, error: DurableError) -> Ended:
    logger.error("run %s is paused: %s", run.run_id, error)
    run.dispatcher.announce(reason, None)
    kept = run.store.pause(run.link, run.fence, waiting_on=reason, error=write_error(error), patience=run.patience)
    return Parked(reason, status="paused") if kept else _gave_way(run)


def _retry(run: Pass, retry: RunRetry) -> Ended:
    """Celery's retry of the whole run: finished steps are kept, the failed step starts over."""
    error = retry.error
    text = run.error_record(error) if error is not None else None
    after = f", after {type(error).__name__}: {error}" if error is not None else ""
    run.unwinding = None
    again, anew = _blamed(run, error)
    try:
        run.park_with(
            None,
            f"retry {run.claim.retries + 1} of the run in {describe(retry.delay)}{after}"[:500],
            delay=retry.delay,
            retried=True,
            error=text,
            reset=again,
            anew=anew,
        )
    except Suspended as parked:
        _send_on(run)
        return Parked(str(parked), parked.wake_at, retry=retry)


def _continue_as_new(run: Pass, new: ContinueAsNew) -> Ended:
    aftermath = run.store.start_over(run.link, run.fence, new.arguments, run.patience)
    if aftermath is None:
        return _gave_way(run)
    _follow(run, aftermath)
    return Parked("its next beginning")


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
    if isinstance(cancelled, RunOverdue):
        return _fail(run, RunTimeout(str(cancelled)))
    return _roll_back(run, Rollback("cancelled", run.error_record(cancelled or RunCancelled())))


def _fail(run: Pass, error: BaseException) -> Ended:
    return _roll_back(run, Rollback("failed", run.error_record(error)), error)


def _roll_back(run: Pass, why: Rollback, error: BaseException | None = None) -> Ended:
    """The run has failed or is cancelled: it ends when what is to be undone is undone."""
    blamed = _blamed(run, error)
    why = roll_back(run, why)
    if error is not None:
        for note in summary(why.error)["notes"]:
            if note not in getattr(error, "__notes__", ()):
                add_note(error, note)
    kept = _close(run, why.status, error=why.error, blamed=encode(list(blamed)))
    if not kept:
        return _gave_way(run)
    if why.status == "cancelled":
        return Cancelled(str(summary(why.error)["message"]))
    return Failed(error or read_error(why.error))


def _blamed(run: Pass, error: BaseException | None) -> tuple[list[str], list[str]]:
    """The steps that a failure comes from, to be tried again when the run is; and those that it has kept from their
    end, to begin anew then."""
    again = run.blamed_steps(error)
    stopped = [step_id for step_id, record in run.history.items() if cancels(record) is not None]
    places = [abs(run.history[step_id].seen or 0) for step_id in (*again, *stopped) if step_id in run.history]
    since = min((place for place in places if place), default=None)
    given_up = [
        record.id
        for record in run.history.values()
        if record.status == "cancelled" and since is not None and abs(record.seen or 0) > since
    ]
    # Locks that were given back because of an error: their blocks are entered again.
    released = [
        record.id for record in run.history.values() if record.kind == "unlock" and record.result == encode(True)
    ]
    locks = [step_id.removesuffix(RELEASE) for step_id in released]
    return again, [*stopped, *given_up, *released, *locks]


def _close(run: Pass, status: str, **outcome: str | None) -> bool:
    """Record the run's end."""
    aftermath = run.store.finish(
        run.link,
        run.fence,
        status=status,
        now=run.now(),
        lease=run.settings.lease,
        parent=run.claim.parent,
        open_steps=run.has_open_steps(),
        retention=run.retention,
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
    return Finished(decode(text)) if kept else _gave_way(run)


def recorded_end(status: str, result: str | None, error: str | None) -> Ended:
    """The end of a run that finished earlier, to be delivered again. One that can't be read is delivered as such."""
    try:
        if status == "completed":
            return Finished(decode("null" if result is None else result))
        if status == "cancelled":
            return Cancelled(summary(error)["message"] if error else "")
        return Failed(read_error(error) if error else DurableError("the run failed"))
    except DamagedRecord as damaged:
        return Failed(damaged) if status != "cancelled" else Cancelled(str(damaged))
