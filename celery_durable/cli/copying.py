"""``fork``, ``replay``, ``export``: another run, or a file, made of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..model import Run
from .session import Session, deed, json_list, json_object, refusing, session
from .tables import cleaned

__all__ = ["export", "fork", "replay"]

_TASK_ID = click.option("--task-id", metavar="ID", help="The new run's id: with one, doing it twice starts one run.")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--from-step", metavar="STEP", required=True, help="The first step that is done anew.")
@_TASK_ID
@deed
@session
def fork(session: Session, run_id: str, from_step: str, **given: Any) -> None:
    """Start a copy of a run, from one of its steps on.

    What came before that step is reused; it and all later ones are done anew. The original is left as it is.
    """
    session.load_tasks()
    with refusing(ValueError):
        run = session.durable.fork(run_id, from_step, **given)
    _tell(session, run, f"It reuses what {cleaned(run_id)} did before its step {cleaned(from_step)}.")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--args", type=json_list, metavar="JSON", help="Other positional arguments: a JSON list.")
@click.option("--kwargs", type=json_object, metavar="JSON", help="Other keyword arguments: a JSON object.")
@_TASK_ID
@deed
@session
def replay(session: Session, run_id: str, **given: Any) -> None:
    """Start a run anew, with its input or another."""
    session.load_tasks()
    with refusing(ValueError, TypeError):  # arguments that do not fit the task
        run = session.durable.replay(run_id, **given)
    _tell(session, run, f"It begins anew with {'another' if _has_input(given) else 'the same'} input.")


def _has_input(given: dict[str, Any]) -> bool:
    return given["args"] is not None or given["kwargs"] is not None


def _tell(session: Session, run: Run, what: str) -> None:
    if session.as_json:
        session.print_json(run)
    elif session.screen.is_terminal:
        name = session.screen.styled(cleaned(run.id), bold=True)
        session.print(f"{name} is {run.status}. {what}", f"Follow it with:  durable watch {cleaned(run.id)}")
    else:
        session.print(run.id)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--redact", is_flag=True, help="Take what looks like a secret out of inputs.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@session
def export(session: Session, run_id: str, redact: bool, output: Path | None) -> None:
    """Write a run's history as JSON.

    celery_durable.testing.check_history replays it against the code as it is then.
    """
    text = session.durable.export(run_id, redact=redact)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{output} can't be written: {error.strerror}") from error
    if session.as_json:
        session.print_json({"run_id": run_id, "file": str(output)})
    else:
        session.print(f"Wrote the history of {cleaned(run_id)} to {output}.")
