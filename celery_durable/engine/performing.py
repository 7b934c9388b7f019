"""Steps whose outcome comes from calling a function, and values that are drawn once.

For a function: encode its input, ask the history, call it, record what came of it, and hand the body the
*recorded* outcome, decoded: what the body sees the first time is what it sees on every replay.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.boundary import Boundary
from ..core.codec import decode_arguments, encode
from ..core.duration import describe, micros
from ..core.replay import Park, Replay
from ..core.retry import Retry, next_delay
from ..core.tries import with_try
from ..errors import NotSerializable
from ..store.link import CONTENDED_TRIES, pause_for_others
from ..store.records import StepWrite
from ..store.transacting import Broken, Give, Transaction
from .attempt import awaited, call
from .branch import DONE, Act, Attempt, Branch, Ready, State, Waiting
from .current import current_step
from .passing import Pass
from .work import StepContext, Work

__all__ = ["Drawn", "Function", "FunctionAttempt", "delay_after"]

logger = logging.getLogger("celery_durable")

_ONCE = Retry(max_attempts=1)
_NOTHING = "[[],{}]"
"""The input of a function that is given nothing."""
_TRIES_WHEN_LOST = 3
"""How often a transaction is done in one attempt whose connection breaks each time: the function may be why."""


class Function(Branch):
    """A step that calls a function: ``step.run``, ``step.transaction``, ``@step``, ``step.wrap``."""

    works_here = True

    def __init__(self, run: Pass, work: Work) -> None:
        self.kind = work.kind
        self.work = work
        self.signature = work.signature()
        self.returns = self.signature.result if work.options.returns is None else Boundary(work.options.returns)
        """Where the function's value crosses: ``returns`` wins over the annotation."""
        step_id = run.take_id(work.id)
        given = self._given(run, step_id) if work.args or work.kwargs else _NOTHING
        super().__init__(run, step_id, given, at_most_once=work.options.at_most_once)
        self.args: Sequence[Any] = ()
        self.kwargs: Mapping[str, Any] = {}

    def look(self) -> State:
        decision = self.ask()
        if isinstance(decision, Replay):
            return DONE
        if isinstance(decision, Park):
            return Waiting(decision.wake_at, f"step {self.id!r}")
        self._take_arguments()
        row = self.new_row(
            status="completed", function=self.work.function, attempts=decision.attempt, started_at=self.run.now(),
            heartbeat=decision.heartbeat,
        )  # fmt: skip
        return Ready(self.attempt(row))

    def _take_arguments(self) -> None:
        """The arguments for the function: a copy, so that what the function does to them is not seen by the body, which
        a replay could not repeat."""
        if self.given != _NOTHING:
            args, kwargs = decode_arguments(self.given)
            self.args, self.kwargs = self.signature.arguments(tuple(args), kwargs, f"step {self.id!r}")

    def attempt(self, row: StepWrite) -> FunctionAttempt:
        """An attempt at the function, whose row is this so far."""
        return FunctionAttempt(self, row)

    def value(self) -> Any:
        return self.returns.read(self.run.stored(self.id), lambda: f"the recorded result of step {self.id!r}")

    def _given(self, run: Pass, step_id: str) -> str:
        """The step's input as it is recorded."""
        what = f"the input of step {step_id!r}"
        plain = self.signature.plain(self.work.args, self.work.kwargs, f"step {step_id!r}")
        return run.measured(encode(list(plain), what), what)


class FunctionAttempt(Attempt):
    """One call of a step's function."""

    def __init__(self, branch: Function, row: StepWrite) -> None:
        self.branch = branch
        self.run = branch.run
        self.work = branch.work
        self.fn = branch.run.function_of(row.id, branch.work)
        self.row = row
        self.result: str | None = None
        self.error: BaseException | None = None
        self.recorded: StepWrite | None = None
        self.lost = False
        self._settled: StepWrite | None = None
        # Where a transaction keeps all other writers out, a heartbeat would wait for the one it is called in.
        silent = self.work.kind == "transaction" and self.run.store.dialect.one_writer
        beat = None if silent else lambda detail: self.run.write_heartbeat(self.row, detail)
        generation = self.run.claim.generation
        self.context = StepContext(
            self.run.run_id, row.id, row.attempts, self.run.read(row.heartbeat), beat, generation
        )

    @property
    def what(self) -> str:
        return f"step {self.row.id!r}"

    @property
    def timeout(self) -> int | None:
        timeout = self.work.options.timeout
        return None if timeout is None else micros(timeout)

    def begin(self) -> StepWrite | None:
        if not self.work.options.at_most_once:
            return None
        started = self.row._replace(status="started")
        self.row = self.row._replace(known=True)
        return started

    @property
    def is_async(self) -> bool:
        """Whether the function is to be awaited."""
        return inspect.iscoroutinefunction(inspect.unwrap(self.fn)) and self.work.kind != "transaction"

    def call(self) -> None:
        with _Inside(self):
            if self.work.kind == "transaction":
                self._in_transaction()
            else:
                value = call(lambda: self.fn(*self.branch.args, **self.branch.kwargs), self.timeout, self.what)
                self.keep(value)

    async def await_(self) -> None:
        """The same for an async function, on the event loop."""
        with _Inside(self):
            work = self.fn(*self.branch.args, **self.branch.kwargs)
            self.keep(await awaited(work, self.timeout, self.what))

    def keep(self, value: Any) -> None:
        """Keep the function's value as it is to be recorded."""
        if hasattr(value, "__await__") and hasattr(value, "close"):
            value.close()
            raise NotSerializable(
                f"the function of {self.what} is async, and this task is not: give step.run a def function "
                "(one that calls asyncio.run, for instance), or write the task as async def"
            )
        text = self.branch.returns.write(value, f"the result of {self.what}")
        self.result = self.run.measured(text, f"the result of {self.what}")

    def conclude(self) -> StepWrite | None:
        if self.lost:
            self.run.lose()
        if self.recorded is not None:
            self.run.kept(self.recorded)
            return None
        row = self._row_now()
        if self.error is None:
            return self.run.settled(row, result=self.result)
        assert isinstance(self.error, Exception)
        return _failed(self.run, self.work, row, self.error)

    def abandon(self) -> None:
        self.context.stop(str(self.branch.cancelled_error()))

    def _row_now(self) -> StepWrite:
        """The step's row as it stands after the function may have sent heartbeats."""
        record = self.run.history.get(self.row.id)
        if record is None:
            return self.row
        return self.row._replace(known=True, position=record.position, heartbeat=record.heartbeat)

    def _in_transaction(self) -> None:
        """The function's writes and the step's record are one transaction: both are there, or neither.

        One that the database takes back, for others' sake or with its connection, was not the function's failure: it
        is done again within the attempt, a few times; not where it is to run at most once.
        """
        for times in itertools.count(1):
            broken = self._one_transaction()
            if broken is None:
                return
            most = CONTENDED_TRIES if broken.is_contended else _TRIES_WHEN_LOST
            if times >= most or self.work.options.at_most_once:
                raise broken.error
            logger.info(
                "run %s, %s: its transaction was taken back, and is done again: %s", self.run.run_id, self.what, broken
            )
            pause_for_others(times)

    def _one_transaction(self) -> Broken | None:
        """What the database has taken it back for, if it has."""
        store = self.run.store
        try:
            with store.transactions.begin(store.engine) as transaction:
                self._transact(transaction)
        except Broken as broken:
            # Broken at the commit, perhaps: then only the database knows whether it took place.
            result = self._committed() if broken.is_lost or self._settled is not None else None
            if result is None or self._settled is None:
                if broken.is_lost or broken.is_contended:
                    return broken
                raise broken.error from None
            self._settled = self._settled._replace(result=result)
        self.recorded = self._settled
        return None

    def _transact(self, transaction: Transaction) -> None:
        """The fence comes last, right before the commit: the run's row is not locked while the function works,
        and a worker that has lost the run finds out and takes its writes back."""
        run, self._settled = self.run, None
        transaction.do(self._call_with, self.keep)
        settled = run.settled(self._row_now(), result=self.result)
        if run.tasks is not None:
            settled = settled._replace(seen=None)  # others may be told before the loop hears of the commit
        self._settled = settled
        if not run.store.record_within(transaction, run.fence, settled, run.lease_until()):
            self.lost = True
            transaction.rollback()

    def _call_with(self, give: Give) -> Any:
        args, kwargs = self.branch.args, self.branch.kwargs
        return call(lambda: give(lambda handed: self.fn(handed, *args, **kwargs)), self.timeout, self.what)

    def _committed(self) -> str | None:
        """The step's result as it is recorded, if it is: by this try, or one before whose commit came late."""
        run = self.run
        row = run.reaching(lambda: run.store.own_outcome(run.link, run.fence, self.row.id))
        return None if row is None or row["status"] != "completed" else str(row["result"])


class _Inside:
    """While a step's function is called; what it raises is kept. No generator: one is made for every attempt."""

    __slots__ = ("_attempt", "_marker")

    def __init__(self, attempt: FunctionAttempt) -> None:
        self._attempt = attempt

    def __enter__(self) -> None:
        self._marker = current_step.set(self._attempt.context)
        self._attempt.run.dispatcher.tell("step_started", step=self._attempt.row)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        attempt = self._attempt
        if isinstance(error, Exception):
            attempt.error = error
        attempt.run.dispatcher.tell("step_returned", step=attempt.row, error=attempt.error)
        attempt.context.close()
        current_step.reset(self._marker)
        return attempt.error is error


def _failed(run: Pass, work: Work, step: StepWrite, error: Exception) -> StepWrite:
    """The row of a failed attempt: the last one, or one after which it is tried again."""
    policy = _ONCE if work.options.at_most_once else work.options.retry or run.step_retry
    delay = None if isinstance(error, run.settings.never_retry) else delay_after(run, policy, step, error)
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
        return run.settled(step, error=error)
    now, text = run.now(), run.describe_error(error, step)
    tries = with_try(step.tries, step.attempts, step.started_at, now, text)
    return step._replace(status="waiting", error=text, wake_at=now + delay, finished_at=now, tries=tries)


def delay_after(run: Pass, policy: Retry, step: StepWrite, error: Exception) -> int | None:
    """How long until the next attempt; ``None`` for none."""
    try:
        return next_delay(policy, step.attempts, error, run.luck())
    except (TypeError, ValueError) as wrong:
        logger.error("run %s, step %r: not tried again: RetryAfter: %s", run.run_id, step.id, wrong)
        return None


class Drawn(Branch):
    """``step.now()``, ``step.random()``, ``step.uuid4()``: drawn once, the same ever after."""

    def __init__(self, run: Pass, kind: str, make: Callable[[], Any]) -> None:
        self.kind = kind
        super().__init__(run, run.take_id(run.next_id(kind)), _NOTHING)
        self._make = make

    def look(self) -> State:
        return DONE if isinstance(self.ask(), Replay) else Act(self._draw)

    def _draw(self) -> None:
        run = self.run
        step = self.new_row(status="completed", started_at=run.now(), attempts=1)
        run.write_all([run.settled(step, result=run.draw(self.id, lambda: encode(self._make())))])

    def value(self) -> Any:
        return self.run.read(self.run.history[self.id].result)
