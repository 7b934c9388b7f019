"""What all commands share: the client, the way they print, how errors are told, and the options of many of them."""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar, get_args

import click
from celery import Celery
from click.core import ParameterSource
from kombu.exceptions import OperationalError
from pydantic_core import to_json
from sqlalchemy.exc import DBAPIError

from ..client import words
from ..core.duration import micros
from ..errors import DurableError
from ..model import RunStatus
from ..worker.durable import Durable
from .tables import Cell, Column, Screen

__all__ = [
    "Commands", "Session", "deed", "duration", "filters", "given_filters", "json_list", "json_object", "json_value",
    "moment_or_ago", "refusing", "session",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """A group whose commands tell errors in a line: exit code 1, as click's own are 2 where the usage is wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """What belongs together, one after the other."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a run's text may hold what this terminal does not know
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except DurableError as error:
            raise click.ClickException(str(error)) from error
        except DBAPIError as error:
            said = str(error.orig).strip().partition("\n")[0]
            raise click.ClickException(f"the database in durable_database_url does not answer: {said}") from error
        except OperationalError as error:
            raise click.ClickException(f"the broker does not answer: {error}") from error


class Session:
    """What a command works with."""

    def __init__(self, context: click.Context, as_json: bool) -> None:
        self.app: Celery = context.obj.app
        self.durable = Durable(self.app)
        self.as_json = as_json
        self.screen = Screen.of(sys.stdout, color=not context.obj.no_color)
        self.context = context

    def load_tasks(self) -> None:
        """Import the modules of tasks, as a worker does: what is sent or replayed is made by them."""
        self.app.loader.import_default_modules()

    def print(self, *lines: str) -> None:
        """Print what was asked for."""
        for line in lines:
            click.echo(line, color=self.screen.color)

    def print_json(self, value: Any) -> None:
        """Print it for programs."""
        click.echo(to_json(value, indent=2, inf_nan_mode="null"))

    def print_table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]]) -> None:
        """Print a table."""
        self.print(*self.screen.table(columns, rows))

    def note(self, text: str) -> None:
        """Tell a person something besides, where it is not in the way of what is printed."""
        if not self.as_json:
            click.echo(text, err=True)

    def end_unless(self, well: bool) -> None:
        """Exit with 1 if something could not be done."""
        if not well:
            self.context.exit(1)


def session(command: F) -> F:
    """Give a command its :class:`Session`, and the option ``--json``."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    @functools.wraps(command)
    def called(context: click.Context, /, as_json: bool, **given: Any) -> Any:
        return command(Session(context, as_json), **given)

    return called  # type: ignore[return-value]


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """Take these errors for bad usage: what was given is not what the client expects."""
    try:
        yield
    except errors as error:
        raise click.UsageError(str(error)) from error


# -- What options are given


def duration(value: str) -> str:
    """A length of time, as it is written everywhere."""
    try:
        micros(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def moment_or_ago(value: str) -> datetime:
    """A point in time, or how long ago it was."""
    try:
        return words.moment_or_ago(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def json_value(value: str) -> Any:
    """Any JSON."""
    try:
        return json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no JSON: {error}") from error


def json_list(value: str) -> list[Any]:
    """A JSON list."""
    found = json_value(value)
    if not isinstance(found, list):
        raise click.BadParameter(f"{value!r} is no JSON list, such as '[1, \"a\"]'")
    return found


def json_object(value: str) -> dict[str, Any]:
    """A JSON object."""
    found = json_value(value)
    if not isinstance(found, dict):
        raise click.BadParameter(f"{value!r} is no JSON object, such as '{{\"a\": 1}}'")
    return found


_FILTERS = (
    click.option(
        "--status",
        type=click.Choice(get_args(RunStatus)),
        multiple=True,
        help="Only runs in this status, or in these.",
    ),
    click.option("--task", metavar="NAME", help="Only runs of this task."),
    click.option("--since", type=moment_or_ago, metavar="WHEN", help='Only runs made since: "2h", or ISO 8601.'),
    click.option("--until", type=moment_or_ago, metavar="WHEN", help="Only runs made before then."),
    click.option("--search", metavar="TEXT", help="A text in ids, inputs, results and errors."),
    click.option("--waiting-on", metavar="EVENT", help="Only runs that wait for this event, or reason."),
    click.option("--parent", metavar="RUN", help="Only what this run has called."),
    click.option("--event", metavar="EVENT_ID", help="Only runs that took this event."),
)
_NAMES = ("status", "task", "since", "until", "search", "waiting_on", "parent", "event")


def filters(command: F) -> F:
    """The options that say which runs are meant."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def given_filters(context: click.Context) -> dict[str, Any]:
    """Those that were used."""
    return {
        name: list(context.params[name]) if name == "status" else context.params[name]
        for name in _NAMES
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def deed(command: F) -> F:
    """The options that say who does something, and why."""
    command = click.option("--by", metavar="WHO", help="Who does it; else this process's user.")(command)
    return click.option("--reason", metavar="TEXT", help="Why, for the audit log.")(command)
