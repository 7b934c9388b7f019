"""How each kind of step is done, once the decision is to do it.

For a function: encode its input, decide, call it, record what came of it, and hand the body the
*recorded* outcome, decoded: what the body sees the first time is what it sees on every replay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..core.boundary import Boundary
from ..core.codec import decode, encode
from ..core.duration import Duration, Moment, as_datetime, describe, micros, moment
from ..core.replay import Perform, Replay
from ..core.retry import Retry, next_delay
from ..errors import NotSerializable
from ..store.records import StepWrite
from .attempt import call
from .control import DatabaseAway
from .passing import Pass, current_step
from .work import StepContext, Work

__all__ = ["perform", "recorded_value", "sleep_for", "sleep_till"]

logger = logging.getLogger("celery_durable")

_ONCE = Retry(max_attempts=1)


def perform(run: Pass, work: Work) -> Any:
    """A step that calls a function: ``step.run``, ``step.transaction``, ``@step``, ``step.wrap``."""
    step_id = run.take_id(work.id)
    what = f"step {step_id!r}"
    given, args, kwargs = _input(run, work, what)
    decision = run.decide(step_id, work.kind, given, at_most_once=work.options.at_most_once)
    if isinstance(decision, Replay):
        return _replayed(run, step_id, work.result())
    assert isinstance(decision, Perform)
    attempt = decision.attempt
    while True:
        step = run.new_step(
            step_id, work.kind, given, status="completed", function=work.function, attempts=attempt,
            started_at=run.now(), heartbeat=decision.heartbeat,
        )  # fmt: skip
        if work.options.at_most_once:
            run.write(StepWrite(**vars(step) | {"status": "started"}))
            step = StepWrite(**vars(step) | {"known": True})
        if _attempt(run, work, step, args, kwargs):
            return _replayed(run, step_id, work.result())
        attempt += 1


def _input(run: Pass, work: Work, what: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The step's input as it is recorded, and the arguments for the function: a copy, so that what
    the function does to them is not seen by the body, which a replay could not repeat."""
    if not work.args and not work.kwargs:
        return "[[],{}]", [], {}
    signature = work.signature()
    plain = signature.plain(work.args, work.kwargs, what)
    given = run.measured(encode(list(plain), f"the input of {what}"), f"the input of {what}")
    args, kwargs = decode(given)
    args, kwargs = signature.arguments(tuple(args), kwargs, what)
    return given, args, kwargs


def _replayed(run: Pass, step_id: str, boundary: Boundary) -> Any:
    record = run.history[step_id]
    if record.status == "failed":
        raise run.error_of(step_id)
    return boundary.read(record.result or "null", f"the recorded result of step {step_id!r}")


def _attempt(run: Pass, work: Work, step: StepWrite, args: list[Any], kwargs: dict[str, Any]) -> bool:
    """Try once and record what came of it. ``False``: try again, at once."""
    what = f"step {step.id!r}"
    # Where a transaction keeps all other writers out, a heartbeat would wait for the one it is called in.
    silent = work.kind == "transaction" and run.store.dialect.one_writer
    beat = None if silent else lambda detail: run.write_heartbeat(step, detail)
    context = StepContext(run.run_id, step.id, step.attempts, run.read(step.heartbeat), beat)
    timeout = None if work.options.timeout is None else micros(work.options.timeout)
    marker = current_step.set(context)
    try:
        if work.kind == "transaction":
            return _in_transaction(run, work, step, args, kwargs, timeout)
        value = call(lambda: work.fn(*args, **kwargs), timeout, what)
        result = _encoded(run, work, value, what)
    except Exception as error:
        context.close()
        return _failed(run, work, _current(run, step), error)
    finally:
        context.close()
        current_step.reset(marker)
    run.settle(_current(run, step), result=result)
    return True


def _encoded(run: Pass, work: Work, value: Any, what: str) -> str:
    if hasattr(value, "__await__") and hasattr(value, "close"):
        value.close()
        raise NotSerializable(
            f"the function of {what} is async, and this task is not: give step.run a def function "
            "(one that calls asyncio.run, for instance)"
        )
    text = work.result().write(value, f"the result of {what}")
    return run.measured(text, f"the result of {what}")


def _current(run: Pass, step: StepWrite) -> StepWrite:
    """The step's row as it stands after the function may have sent heartbeats."""
    record = run.history.get(step.id)
    if record is None:
        return step
    return StepWrite(**vars(step) | {"known": True, "position": record.position, "heartbeat": record.heartbeat})


def _failed(run: Pass, work: Work, step: StepWrite, error: Exception) -> bool:
    """Record a failed attempt: the last one, or one after which the run is parked."""
    policy = _ONCE if work.options.at_most_once else work.options.retry or run.step_retry
    delay = None
    if not isinstance(error, run.settings.never_retry):
        try:
            delay = next_delay(policy, step.attempts, error, run.luck())
        except (TypeError, ValueError) as wrong:
            logger.error("run %s, step %r: not tried again: RetryAfter: %s", run.run_id, step.id, wrong)
    logger.warning(
        "run %s, step %r: attempt %d failed with %s: %s%s",
        run.run_id,
        step.id,
        step.attempts,
        type(error).__name__,
        error,
        "" if delay is None else f"; the next one is in {describe(delay)}",
        exc_info=error if delay is None else None,
    )
    if delay is None:
        run.settle(step, error=error)
        return True
    wake_at = run.now() + delay
    text = run.describe_error(error, step)
    waiting = StepWrite(**vars(step) | {"status": "waiting", "error": text, "wake_at": wake_at})
    if delay:
        run.park(wake_at, f"attempt {step.attempts + 1} of step {step.id!r}, after {run.reason(text)}", waiting)
    run.write(waiting)
    return False


# ------------------------------------------------------------------ transaction


def _in_transaction(
    run: Pass, work: Work, step: StepWrite, args: list[Any], kwargs: dict[str, Any], timeout: int | None
) -> bool:
    """The function's writes and the step's record are one transaction: both are there, or neither.

    The fence comes last, right before the commit: the run's row is not locked while the function works,
    and a worker that has lost the run finds out and takes its writes back.
    """
    run.link.release()
    engine = run.store.engine.execution_options(isolation_level=run.store.dialect.transaction_isolation)
    what = f"step {step.id!r}"
    settled: StepWrite | None = None
    fenced = True
    try:
        with engine.connect() as connection, connection.begin() as transaction:
            # In a savepoint, so that a commit or rollback of the function's own leaves the transaction whole.
            with Session(bind=connection, join_transaction_mode="create_savepoint") as session:
                value = call(lambda: work.fn(session, *args, **kwargs), timeout, what)
                session.commit()
                result = _encoded(run, work, value, what)
            settled = StepWrite(**vars(_current(run, step)) | {"result": result, "finished_at": run.now()})
            fenced = run.store.record_within(connection, run.fence, settled, run.lease_until())
            if not fenced:
                transaction.rollback()
    except DBAPIError as error:
        # Broken at the commit, perhaps: then only the database knows whether it took place.
        if settled is None or not _was_committed(run, step):
            raise error
    if not fenced:
        run.lose()
    assert settled is not None
    run.remember(settled)
    return True


def _was_committed(run: Pass, step: StepWrite) -> bool:
    try:
        return run.store.step_status(run.link, run.fence, step.id, run.patience) == "completed"
    except DBAPIError as error:
        run.leave(DatabaseAway(str(error)))
        raise


# ------------------------------------------------------------- sleeps and values


def sleep_for(run: Pass, step_id: str, duration: Duration) -> None:
    """``step.sleep``: the end is fixed at the first pass, whatever later passes ask for."""
    length = micros(duration)
    _sleep(run, step_id, encode({"seconds": length / 1_000_000}), run.now() + length, describe(length))


def sleep_till(run: Pass, step_id: str, when: Moment) -> None:
    """``step.sleep_until``."""
    wake_at = moment(when)
    _sleep(run, step_id, encode({"until": as_datetime(wake_at)}), wake_at, as_datetime(wake_at).isoformat())


def _sleep(run: Pass, step_id: str, given: str, wake_at: int, what: str) -> None:
    run.take_id(step_id)
    if isinstance(run.decide(step_id, "sleep", given), Replay):
        return
    now = run.now()
    step = run.new_step(step_id, "sleep", given, status="waiting", wake_at=wake_at, started_at=now, attempts=1)
    if wake_at <= now:
        run.write(StepWrite(**vars(step) | {"status": "completed", "finished_at": now, "result": "null"}))
        return
    run.park(wake_at, f"the sleep {step_id!r} ({what})", step)


def recorded_value(run: Pass, kind: str, make: Callable[[], Any]) -> Any:
    """``step.now()``, ``step.random()``, ``step.uuid4()``: made once, the same ever after."""
    step_id = run.take_id(run.next_id(kind))
    if not isinstance(run.decide(step_id, kind, "[[],{}]"), Replay):
        step = run.new_step(step_id, kind, "[[],{}]", status="completed", started_at=run.now(), attempts=1)
        run.settle(step, result=encode(make()))
    return decode(run.history[step_id].result or "null")
