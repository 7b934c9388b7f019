"""``show``: all that there is of one run."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import click

from ..client.words import ago, clock, counted, span, state_of, step_says, took, value_of
from ..model import FINISHED, LogRecord, Run, StepRecord
from .session import Session, session
from .statuses import status_cell
from .tables import Cell, Column, Screen, cleaned, cut
from .tracebacks import told_error

__all__ = ["show"]

_STEPS = 50
_VALUE = 2000
"""Characters of a value that are shown without ``--full``."""


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--full", is_flag=True, help="All steps, with their inputs and whole values.")
@click.option("--logs", is_flag=True, help="What the run said by get_logger, where durable_store_logs keeps it.")
@session
def show(session: Session, run_id: str, full: bool, logs: bool) -> None:
    """All that there is of a run.

    What it waits for, its steps, who called it, what was done to it, and at the end what it failed of.
    """
    run = session.durable.get(run_id)
    lines = session.durable.logs(run_id) if logs else None
    if session.as_json:
        told = run.model_dump(mode="json")
        session.print_json(told if lines is None else {**told, "logs": lines})
        return
    screen = session.screen
    session.print(_headline(run, screen), *_facts(run, screen, full), *_steps(run.steps, screen, full))
    if run.audit:
        session.print("", *_audit(run, screen))
    if lines is not None:
        session.print("", *_logs(lines, screen))
    if run.status == "failed":
        session.print("", *told_error(run, screen, full=full))


def _headline(run: Run, screen: Screen) -> str:
    """A run in a line: which it is, and how it stands."""
    spent = took(run)
    status = status_cell(run.status, screen)
    if run.status in FINISHED:
        told = f"  after {span(spent)}" if spent is not None else ""
    else:
        told = f"  for {ago(run.created_at)}"
    name = screen.styled(cleaned(run.id), bold=True)
    return f"{name}  {cleaned(run.task)}  {screen.styled(status.text, status.color, bold=True)}{told}"


def _facts(run: Run, screen: Screen, full: bool) -> list[str]:
    told = [(name, text) for name, text in _facts_of(run) if text]
    width = max(len(name) for name, _ in told)
    lines = []
    for name, text in told:
        text = cleaned(text)
        if screen.width is not None and not full:
            text = cut(text, screen.width - width - 4)
        lines.append(f"  {screen.styled(name.ljust(width), dim=True)}  {text}")
    return lines


_STATES = {"paused": "paused for", "running": "running", "failed": "failed of", "cancelled": "cancelled"}


def _facts_of(run: Run) -> Iterator[tuple[str, str]]:
    yield "input", _call(run)
    waits = run.status not in FINISHED
    yield _STATES.get(run.status, "waits for"), state_of(run)
    yield "goes on at", clock(run.wake_at) if waits else ""
    yield "deadline", clock(run.deadline_at) if waits else ""
    yield "progress", value_of(run.progress.model_dump(exclude_none=True)) if run.progress else ""
    yield "result", value_of(run.result) if run.status == "completed" else ""
    yield "created", _when(run.created_at)
    yield "started", _when(run.started_at)
    yield "finished", _when(run.finished_at) + ("" if run.delivered_at or waits else ", not told to Celery yet")
    yield "counts", _counts(run)
    yield "code", run.code_version or ""
    yield "called by", "" if run.parent is None else f"{run.parent}, in its step {run.parent_step}"
    yield "called", ", ".join(run.children)
    yield "started by", "" if run.started_by is None else f"event {run.started_by}"
    yield "fork of", "" if run.forked_from is None else f"{run.forked_from}, from its step {run.forked_at}"
    yield "replay of", run.replayed_from or ""
    yield "copies", ", ".join(run.copies)


def _call(run: Run) -> str:
    positional = [value_of(value) for value in run.args or ()]
    named = [f"{name}={value_of(value)}" for name, value in (run.kwargs or {}).items()]
    return f"({', '.join(positional + named)})"


def _when(at: object) -> str:
    return f"{clock(at)}, {ago(at)} ago" if at else ""  # type: ignore[arg-type]


def _counts(run: Run) -> str:
    numbers = ["1 pass" if run.passes == 1 else f"{run.passes:,} passes"]
    for number, what in (
        (run.retries, "retry of the body"),
        (run.recoveries, "dead worker"),
        (run.generation, "new beginning"),
        (run.restarts, "retry by hand"),
    ):
        if number:
            numbers.append(f"{what}: {number}")
    return ", ".join(numbers)


# -- Steps


def _steps(steps: tuple[StepRecord, ...], screen: Screen, full: bool) -> list[str]:
    if not steps:
        return ["", "  No step is recorded."]
    shown = steps if full else _worth_seeing(steps)
    columns = [Column("step", least=12), Column("kind"), Column("status"), Column("tries", right=True)]
    columns += [Column("took", right=True), Column("result / error", least=None if full else 16)]
    if full:
        columns.append(Column("input"))
    lines = ["", *screen.table(columns, [_row(step, screen, full) for step in shown], indent=2)]
    if len(shown) < len(steps):
        lines.append(f"  {counted(len(steps) - len(shown), 'earlier step')} not shown: --full shows all.")
    return lines


def _worth_seeing(steps: tuple[StepRecord, ...]) -> list[StepRecord]:
    """The last ones, and whichever did not end well."""
    before, last = steps[:-_STEPS], steps[-_STEPS:]
    odd = [step for step in before if step.status != "completed"]
    return [*odd[-_STEPS:], *last]


def _row(step: StepRecord, screen: Screen, full: bool) -> tuple[Cell | str, ...]:
    says = step_says(step)
    given = ("" if step.input is None else value_of(step.input),) if full else ()
    return (
        Cell(step.id, bold=True),
        step.kind,
        status_cell(step.status, screen),
        str(step.attempts) if step.attempts > 1 else "",
        span(took(step)) if step.kind != "sleep" or step.finished_at else "",
        Cell(says if full else cut(says, _VALUE), "red" if step.status == "failed" else None),
        *given,
    )


# -- What was done to it, what it said


def _audit(run: Run, screen: Screen) -> list[str]:
    columns = (Column("done"), Column("by"), Column("at"), Column("why", least=12), Column("details", least=8))
    rows = [
        (
            deed.action,
            deed.actor,
            clock(deed.at),
            deed.reason or "",
            "" if not deed.details else value_of(deed.details),
        )
        for deed in run.audit
    ]
    return screen.table(columns, rows, indent=2)


def _logs(lines: tuple[LogRecord, ...], screen: Screen) -> list[str]:
    if not lines:
        return ["  No log line is kept of it: durable_store_logs = True keeps them."]
    columns = (Column("at"), Column("level"), Column("step"), Column("message", least=20))
    colors = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}
    rows = [
        (
            clock(line.at),
            Cell(logging.getLevelName(line.level), colors.get(line.level)),
            line.step_id or "",
            line.message,
        )
        for line in lines
    ]
    return screen.table(columns, rows, indent=2)
