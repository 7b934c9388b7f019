"""A run as a test sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..core.duration import as_datetime
from ..model import ErrorInfo, Run, RunStatus, StepRecord
from .effects import is_library

if TYPE_CHECKING:
    from .env import DurableEnv

__all__ = ["EnvRun", "table_of"]

_WIDEST = 40
_MOST_STEPS = 30
"""Steps that a table shows: the last ones."""
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


class EnvRun:
    """One run of an environment. Each look at it is a new one, once what is due has been done."""

    def __init__(self, env: DurableEnv, run_id: str) -> None:
        self._env = env
        self.id = run_id

    @property
    def record(self) -> Run:
        """All that is recorded of it, as ``Durable(app).get`` gives it."""
        return self._env.read(self.id)

    @property
    def status(self) -> RunStatus:
        return self.record.status

    @property
    def result(self) -> Any:
        """What the body returned; ``None`` before that."""
        return self.record.result

    @property
    def error(self) -> ErrorInfo | None:
        """What it failed of, or was cancelled for."""
        return self.record.error

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """Its steps, in the order in which the body asked for them."""
        return self.record.steps

    @property
    def waiting_on(self) -> str | None:
        """What a parked run waits for."""
        return self.record.waiting_on

    @property
    def children(self) -> tuple[EnvRun, ...]:
        """The runs that its steps have called, in the order of the steps; before them those of earlier attempts."""
        run = self.record
        places = {step.child: step.position for step in run.steps if step.child is not None}
        ordered = sorted(run.children, key=lambda child: places.get(child, -1))
        return tuple(EnvRun(self._env, child) for child in ordered)

    def step(self, step_id: str) -> StepRecord:
        """One of its steps."""
        run = self.record
        for step in run.steps:
            if step.id == step_id:
                return step
        raise AssertionError(f"there is no step {step_id!r} in\n{table_of(run)}")

    # ------------------------------------------------------------- assertions

    def assert_steps(self, *ids: str) -> None:
        """Its steps are these and no others, in this order."""
        if not all(isinstance(step_id, str) for step_id in ids):
            raise TypeError("run.assert_steps takes ids of steps, not a list: assert_steps(*ids)")
        run = self.record
        found = [step.id for step in run.steps]
        if found != list(ids):
            missing = [step_id for step_id in ids if step_id not in found]
            more = [step_id for step_id in found if step_id not in ids]
            wrong = [f"missing: {', '.join(missing)}"] if missing else []
            wrong += [f"not expected: {', '.join(more)}"] if more else []
            raise AssertionError(
                f"the steps are not those expected ({'; '.join(wrong) or 'they are in another order'})\n"
                f"expected: {', '.join(ids)}\n{table_of(run)}"
            )

    def assert_status(self, status: RunStatus) -> None:
        """It is in this status."""
        run = self.record
        if run.status != status:
            raise AssertionError(f"the run is {run.status}, not {status}\n{table_of(run)}")

    def assert_completed(self, result: Any = ...) -> None:
        """It has ended well, with this result if one is named."""
        run = self.record
        if run.status != "completed":
            raise AssertionError(f"the run is {run.status}, not completed\n{table_of(run)}")
        if result is not ... and run.result != result:
            raise AssertionError(f"the result is {run.result!r}, not {result!r}\n{table_of(run)}")

    def assert_failed(self, error: type[BaseException] | str | None = None) -> None:
        """It has failed: of an error of this type or a subclass, or one whose message has this text."""
        run = self.record
        if run.status != "failed" or run.error is None:
            raise AssertionError(f"the run is {run.status}, not failed\n{table_of(run)}")
        if isinstance(error, str) and error not in run.error.message:
            raise AssertionError(f"its error does not say {error!r}\n{table_of(run)}")
        if isinstance(error, type) and not _is_of_type(run.error.type, error):
            raise AssertionError(
                f"it failed of {_plain_name(run.error.type)}, not of {_name_of(error)}\n{table_of(run)}"
            )

    def assert_waiting_on(self, text: str) -> None:
        """It is parked, and what it waits for has this text."""
        run = self.record
        if run.status != "suspended" or text not in (run.waiting_on or ""):
            raise AssertionError(f"the run does not wait for {text!r}\n{table_of(run)}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EnvRun) and (self._env, self.id) == (other._env, other.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<run {self.id}>" if self._env.is_closed else f"<{_headline(self.record)}>"


def _plain_name(error_type: str) -> str:
    return error_type.removeprefix("builtins.")


def _name_of(kind: type) -> str:
    return _plain_name(f"{kind.__module__}.{kind.__qualname__}")


def _is_of_type(recorded: str, kind: type[BaseException]) -> bool:
    """Whether an error is of this type, or of one made of it that this process knows."""
    kinds = [kind]
    while kinds:
        found = kinds.pop()
        if _name_of(found) == _plain_name(recorded):
            return True
        kinds += found.__subclasses__()
    return False


def _headline(run: Run) -> str:
    said = f"run {run.id} of {run.task}: {run.status}"
    if run.error is not None:
        said += f", {_plain_name(run.error.type)}: {' '.join(run.error.message.split())}"
    elif run.status in ("suspended", "paused") and run.waiting_on:
        until = f" until {as_text(run.wake_at)}" if run.wake_at is not None else ""
        said += f", waiting for {run.waiting_on}{until}"
    elif run.status == "completed":
        said += f" with {_short(run.result)}"
    return said


def as_text(instant: Any) -> str:
    """A point in time, to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S}"


def table_of(run: Run) -> str:
    """A run as a small table, and where in the user's code it failed."""
    rows = [("step", "kind", "status", "attempts", "input", "result")]
    rows += [
        (step.id, step.kind, step.status, str(step.attempts), _short(step.input), _outcome(step)) for step in run.steps
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(lines) > _MOST_STEPS + 1:
        lines[1:-_MOST_STEPS] = [f"... {len(lines) - _MOST_STEPS - 1} steps before these"]
    return "\n  ".join([_headline(run), *(lines if run.steps else ["(no steps)"]), *_places(run)])


def _places(run: Run) -> Iterator[str]:
    """Where the error comes from: in the body, and in the function of the step that has failed of it."""
    if run.error is None:
        return
    yield from _place("raised", run.error)
    for step in reversed(run.steps):
        if step.error is not None and (step.error.type, step.error.message) == (run.error.type, run.error.message):
            yield from _place(f"in step {step.id!r}", step.error)
            return


def _place(what: str, error: ErrorInfo) -> Iterator[str]:
    frames = [frame for frame in _FRAME.findall(error.traceback or "") if not is_library(frame[0])]
    for file, line, function in frames[-1:]:
        yield f"{what} at {file}, line {line}, in {function}"


def _outcome(step: StepRecord) -> str:
    if step.error is not None:
        return _cut(f"{step.error.type.rpartition('.')[2]}: {step.error.message}")
    if step.status == "waiting" and step.wake_at is not None:
        return f"until {as_text(as_datetime(round(step.wake_at.timestamp() * 1_000_000)))}"
    return "" if step.status != "completed" else _short(step.result)


def _short(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 3]}..."
