"""``doctor``: whether everything is there that runs need to go on, and what to do where it is not."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import click
from celery import Celery
from pydantic import BaseModel
from sqlalchemy import make_url

from ..client.words import counted, now
from ..core.duration import SECOND, describe, micros
from ..engine.settings import Settings
from ..errors import DurableError
from ..model import Health, LateRun
from ..worker.durable import Durable
from ..worker.runtime import settings_of
from .session import Session, session
from .tables import Screen, cleaned

__all__ = ["Finding", "doctor"]

T = TypeVar("T")

State = Literal["ok", "warning", "broken"]

_PATIENCE = 10.0
"""Seconds that a server has for its answer."""
_LATE = 60.0
"""Seconds after which what is due counts as left undone."""
_SENDS = 4
"""So many messages without an answer are no coincidence: no worker is there for them, or others are before them."""
_SKEW = 2.0
_BIG_SKEW = 30.0
_EXAMPLES = 3
_VISIBILITY = {"sqs": "30m"}
"""What a broker's visibility timeout is where nothing is set, if it is not an hour."""
_WITH_VISIBILITY = ("redis", "rediss", "sentinel", "sqs", "gcpubsub", "azureservicebus")
_CONSUMER_TIMEOUT = 1800 * SECOND
"""How long RabbitMQ lets a worker hold a message, where nothing is set."""


class Finding(BaseModel):
    """What a check has found."""

    check: str
    state: State
    found: str
    advice: str | None = None


@click.command()
@session
def doctor(session: Session) -> None:
    """Check what runs need, and say what to do.

    Exits with 1 if something is broken. Nothing is changed. The last checks need the database, and are left out where
    it does not answer.
    """
    findings = []
    for finding in examine(session.app):
        findings.append(finding)
        if not session.as_json:
            session.print(*_told(finding, session.screen))
    broken = sum(finding.state == "broken" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    if session.as_json:
        state = "broken" if broken else "warning" if warnings else "ok"
        session.print_json({"state": state, "checks": findings})
    elif broken or warnings:
        session.print("", f"{broken} broken, {counted(warnings, 'warning')}.")
    else:
        session.print("", session.screen.styled("All is well.", "green", bold=True))
    session.end_unless(not broken)


_COLORS = {"ok": "green", "warning": "yellow", "broken": "red"}
_SIGNS = {"ok": "✓", "warning": "!", "broken": "✗"}


def _told(finding: Finding, screen: Screen) -> list[str]:
    color = _COLORS[finding.state]
    sign = _SIGNS[finding.state] if screen.is_terminal else f"{finding.state:<7}"
    head = f"{screen.styled(sign, color, bold=True)}  {screen.styled(f'{finding.check:<10}', bold=True)}  "
    indent = " " * (len(sign) + 14)
    first, *more = screen.wrapped(cleaned(finding.found), len(indent))
    lines = [head + first, *(indent + line for line in more)]
    if finding.advice:
        arrow = "→" if screen.is_terminal else "do:"
        first, *more = screen.wrapped(finding.advice, len(indent) + len(arrow) + 1)
        lines += [f"{indent}{screen.styled(arrow, color)} {first}"]
        lines += [f"{indent}{' ' * len(arrow)} {line}" for line in more]
    return lines


def _ok(check: str, found: str) -> Finding:
    return Finding(check=check, state="ok", found=found)


def _warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check=check, state="warning", found=found, advice=advice)


def _broken(check: str, found: str, advice: str) -> Finding:
    return Finding(check=check, state="broken", found=found, advice=advice)


# -- The checks


def examine(app: Celery) -> Iterator[Finding]:
    """All findings, each as soon as it is there."""
    yield _broker(app)
    try:
        settings = settings_of(app.conf.get)
    except DurableError as error:
        yield _broken("settings", str(error), "correct the setting")
        return
    database, state = _database(app, settings)
    yield database
    yield _visibility(app, settings)
    if state is None:
        return
    schema = _schema(state)
    yield schema
    if schema.state == "broken":
        return
    began = now()
    health = Durable(app).health()
    yield _clock(health, (began.timestamp() + now().timestamp()) / 2)
    yield _sweeper(health)
    yield from _runs(health)
    yield _events(health)
    yield _paused(health)


def _broker(app: Celery) -> Finding:
    where = "the broker"
    try:
        with app.connection_for_write() as connection:
            where = cleaned(connection.as_uri())

            def connect() -> str:
                connection.connect()
                return _waiting(connection, app.conf.task_default_queue)

            told = _within(_PATIENCE, connect)
    except Exception as error:
        said = cleaned(str(error)) or type(error).__name__
        return _broken(
            "broker",
            f"{where} can't be reached: {said}",
            "start it, or correct broker_url. Runs are recorded meanwhile, and sent when it is back.",
        )
    return _ok("broker", f"{where} answers{told}")


def _waiting(connection: Any, name: str) -> str:
    """How many messages are in the default queue, where the broker can tell."""
    try:
        messages = connection.default_channel.queue_declare(name, passive=True).message_count
    except Exception:  # no such queue yet, or a transport that can't tell
        return ""
    return f"; {counted(messages, 'message')} in the queue {name!r}"


def _database(app: Celery, settings: Settings) -> tuple[Finding, str | None]:
    """Whether it answers; then also what its schema is."""
    where = settings.database_url
    try:
        where = make_url(where).render_as_string(hide_password=True)
        durable = Durable(app)
        state = _within(_PATIENCE, durable.schema)  # connects, and imports what compares schemas
        began = time.monotonic()
        _within(_PATIENCE, durable.schema)
    except Exception as error:
        said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        advice = "start it, or correct durable_database_url. No step is recorded while it is away."
        return _broken("database", f"{where} can't be used: {said}", advice), None
    return _ok("database", f"{where} answers in {(time.monotonic() - began) * 1000:.0f} ms"), state


def _schema(state: str) -> Finding:
    if state == "current":
        return _ok("schema", "the tables are those that this version needs")
    if state == "newer":
        return _broken("schema", "the tables were made by a newer celery-durable", "upgrade celery-durable here")
    found = "there are no durable tables" if state == "missing" else "the tables are of an older version"
    return _broken("schema", found, "make them with:  celery -A proj durable migrate")


def _transport(app: Celery) -> str:
    """What kind of broker it is, also where what speaks to it is not installed."""
    try:
        named = app.connection_for_write().transport_cls
    except Exception:
        named = app.conf.broker_url
    return str(named).partition(":")[0].partition("+")[0]


def _visibility(app: Celery, settings: Settings) -> Finding:
    transport = _transport(app)
    horizon = f"wake-ups are sent {describe(settings.eta_horizon)} ahead"
    if transport not in _WITH_VISIBILITY:
        if settings.eta_horizon > _CONSUMER_TIMEOUT // 2:
            advice = "lower durable_eta_horizon: RabbitMQ closes a worker's channel that holds a message for 30 minutes"
            return _warning("visibility", horizon, advice)
        return _ok("visibility", f"{horizon}, and this broker gives no message to a second worker before its time")
    options = app.conf.get("broker_transport_options", None) or {}
    timeout = micros(options.get("visibility_timeout") or _VISIBILITY.get(transport, "1h"))
    asked = micros(app.conf.get("durable_eta_horizon", "10s"))
    found = f"{horizon}, the broker's visibility timeout is {describe(timeout)}"
    if asked > timeout // 2:
        advice = (
            f"durable_eta_horizon is {describe(asked)}, more than half of that: lower it, or raise visibility_timeout "
            "in broker_transport_options, in all processes alike"
        )
        return _warning("visibility", found, advice)
    return _ok("visibility", found)


def _clock(health: Health, here: float) -> Finding:
    skew = health.clock.timestamp() - here
    found = f"the database's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    advice = (
        "let both machines take their time from NTP: the database's clock decides what is due, a worker's when it wakes"
    )
    if abs(skew) >= _BIG_SKEW:
        return _broken("clock", found, advice)
    return _warning("clock", found, advice) if abs(skew) >= _SKEW else _ok("clock", found)


def _sweeper(health: Health) -> Finding:
    if health.sweeper is not None:
        return _ok("sweeper", f"{health.sweeper} sweeps")
    advice = "start a worker:  celery -A proj worker  (one that starts sweeps within 10 s)"
    return _broken("sweeper", "no worker sweeps: nothing wakes by time, and no dead worker's run is taken over", advice)


def _runs(health: Health) -> Iterator[Finding]:
    late = [run for run in health.late if run.late >= _LATE]
    untaken = [run for run in health.late if run.status in ("pending", "suspended") and run.sends >= _SENDS]
    yield _judged(
        _broken,
        "stuck",
        [run for run in late if run.status == "running"],
        "whose worker is gone, and that no other has taken over",
        "see that a worker sweeps, and that it can reach the database",
    ) or _ok("stuck", "every run that is executed has a worker")
    yield _judged(
        _broken,
        "unsent",
        [run for run in late if run.status != "running"],
        "due for more than a minute, and not sent",
        "see that a worker sweeps, and that it can reach the broker: its log says why if not",
    ) or _ok("unsent", "every run that is due is sent")
    yield _judged(
        _warning,  # a long queue is no fault
        "untaken",
        [run for run in untaken if run.late < _LATE],
        f"sent {_SENDS} times or more, and taken by no worker",
        "see that a worker consumes the queue of these tasks (-Q), and how many messages are before them",
    ) or _ok("untaken", "every run that is sent is taken by a worker")


def _judged(
    bad: Callable[[str, str, str], Finding], check: str, runs: list[LateRun], what: str, advice: str
) -> Finding | None:
    """What is said of runs that should not be there."""
    if not runs:
        return None
    longest = max(run.late for run in runs)
    for_how_long = f", the first for {describe(int(longest) * SECOND)}" if longest > 0 else ""
    some = ", ".join(f"{run.id} ({run.task})" for run in runs[:_EXAMPLES])
    more = f" and {len(runs) - _EXAMPLES:,} more" if len(runs) > _EXAMPLES else ""
    return bad(check, f"{counted(len(runs), 'run')} {what}{for_how_long}: {some}{more}", advice)


def _events(health: Health) -> Finding:
    if health.event_lag < _LATE:
        return _ok("events", "every event is dispatched")
    found = f"an event waits to be dispatched since {describe(int(health.event_lag) * SECOND)}"
    return _broken(
        "events", found, "see that a worker consumes durable_queue;  celery -A proj durable events  says more"
    )


def _paused(health: Health) -> Finding:
    if not health.paused:
        return _ok("paused", "no run waits for a person")
    advice = "see why:  celery -A proj durable runs --status paused;  then  durable resume RUN  or  durable cancel RUN"
    return _warning("paused", f"{counted(health.paused, 'run')} paused, waiting for a person", advice)


def _within(seconds: float, ask: Callable[[], T]) -> T:
    """An answer, or ``TimeoutError``: a host that swallows packets must not hold everything up."""
    answers: queue.Queue[tuple[T | None, Exception | None]] = queue.Queue()

    def work() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=work, name="celery-durable-doctor", daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]
