"""Calling other tasks: ``step.call``.

What is called is a run with an id made from its caller's and the step's: the transaction that records that it is
waited for makes it, so it is started once, whatever happens. Its end is recorded as the step's answer by the
transaction that ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..core.boundary import Boundary
from ..core.duration import describe, micros
from ..core.faults import read_error, summary
from ..core.ids import derived_id
from ..core.replay import Park, Perform, Replay
from ..core.retry import Retry
from ..core.tries import with_try
from ..errors import CallFailed, StepTimeout, add_note
from ..store.records import NewRun, Parent, StepWrite
from .branch import DONE, Act, Branch, Opening, State, Waiting
from .passing import Pass
from .performing import delay_after
from .work import Options

__all__ = ["Call", "Target"]

logger = logging.getLogger("celery_durable")

_ONCE = Retry(max_attempts=1)


@dataclass(frozen=True)
class Target:
    """What a step calls, checked."""

    name: str
    given: str
    """The step's input as it is recorded."""
    result: Boundary
    new_run: Callable[[str], NewRun]
    """The run that it is, once it has an id."""


class Call(Branch):
    """``step.call``. The called run has its own retries; the step's are those of ``step.options(retry=...)``."""

    kind = "call"

    def __init__(self, run: Pass, id: str, target: Target, options: Options) -> None:
        step_id = run.take_id(id)
        super().__init__(run, step_id, run.measured(target.given, f"the input of step {step_id!r}"))
        self.target = target
        self.timeout = None if options.timeout is None else micros(options.timeout)
        self.retry = options.retry or _ONCE
        self.result = target.result if options.returns is None else Boundary(options.returns)
        self.what = f"{target.name}, called by step {step_id!r}"

    def look(self) -> State:
        decision = self.ask()
        if isinstance(decision, Replay):
            return DONE
        if isinstance(decision, Park):
            return Waiting(decision.wake_at, self.what, outside=decision.record.child is not None)
        assert isinstance(decision, Perform)
        record = self.run.history.get(self.id)
        if record is not None and record.child is not None:
            return Act(self._give_up)
        if record is not None and record.error is not None and record.finished_at is not None:
            return Act(self._failed)
        return self._begin(decision.attempt)

    def _begin(self, attempt: int) -> State:
        run, now = self.run, self.run.now()
        until = None if self.timeout is None else now + self.timeout
        called = self.target.new_run(self._child_id(attempt))
        step = self.new_row(
            status="waiting", function=self.target.name[:255], attempts=attempt, wake_at=until, started_at=now,
            child=called.id,
        )  # fmt: skip
        called = replace(called, parent=Parent(run.run_id, self.id))
        return Waiting(until, self.what, Opening(step, call=called), outside=True)

    def _child_id(self, attempt: int) -> str:
        """The same for every try of this attempt, and another one for the next."""
        claim = self.run.claim
        more = [] if attempt == 1 and not claim.retries else [str(claim.retries), str(attempt)]
        if claim.generation or claim.restarts:
            more += ["begun again", str(claim.generation), str(claim.restarts)]
        return derived_id(self.run.run_id, self.id, *more)

    def _row_of(self, **values: Any) -> StepWrite:
        record = self.run.history[self.id]
        return self.new_row(attempts=record.attempts, started_at=record.started_at, **values)

    def _give_up(self) -> None:
        """It has taken too long: whatever is going on is cancelled."""
        assert self.timeout is not None
        error = StepTimeout(
            f"{self.what} of run {self.run.run_id}, took longer than its timeout of {describe(self.timeout)}, and was "
            "cancelled"
        )
        row = self._after(error, self.run.describe_error(error, self._row_of(status="failed")))
        self.run.withdraw([row])

    def _failed(self) -> None:
        """What was called has failed: for good, or to be called again."""
        text = self.run.history[self.id].error or "{}"
        error = read_error(text, CallFailed)
        self.run.write_all([self._after(error, text)])

    def _after(self, error: Exception, text: str) -> StepWrite:
        run, row = self.run, self._row_of(status="failed", error=text)
        delay = delay_after(run, self.retry, row, error)
        logger.warning(
            "run %s, step %r: %s failed with %s%s",
            run.run_id,
            self.id,
            self.target.name,
            run.reason(text),
            "" if delay is None else f"; it is called again in {describe(delay)}",
        )
        if delay is None:
            return row._replace(finished_at=run.now(), seen=run.next_place())
        now = run.now()
        tries = with_try(row.tries, row.attempts, row.started_at, run.history[self.id].finished_at or now, text)
        return row._replace(status="waiting", wake_at=now + delay, tries=tries)

    def error(self) -> BaseException:
        run = self.run
        text = run.history[self.id].error or "{}"
        error = run.error_of(self.id, CallFailed)
        told = summary(text)["notes"]
        note = f"celery_durable: step {self.id!r} of run {run.run_id} called {self.target.name}"
        if note not in told:
            add_note(error, note)
        return error

    def value(self) -> Any:
        return self.result.read(self.run.stored(self.id), lambda: f"the result of {self.what},")
