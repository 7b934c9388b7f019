"""An event that finds one wait alone: see ``statements/lone.py``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..core.codec import decode
from ..core.match import matches
from .dialects import skips_locked
from .events import Events
from .link import Link
from .records import AnswerText, Deed, Due, NewEvent, StoredEvent
from .upkeep import due_of

__all__ = ["Emitted", "Lone", "LoneWait"]


class LoneWait(NamedTuple):
    """The one wait that there is for an event."""

    event: StoredEvent
    run_id: str
    step_id: str


class Emitted(NamedTuple):
    """What became of an emit."""

    is_new: bool
    """It was not recorded before."""
    has_looked: bool = False
    """Whether a wait was looked for that it answers."""
    woken: Due | None = None
    """The run whose wait it has answered, whose message is now to be sent."""


class Lone(Events):
    """What is done by whoever emits an event, who waits for nobody."""

    def emit_answering(
        self,
        link: Link,
        event: NewEvent,
        answer_text: Callable[[NewEvent], AnswerText],
        due_in: int,
        deed: Deed | None = None,
    ) -> Emitted:
        """Record an event, as :meth:`emit` does. Where an INSERT can stand in a WITH, the same statement answers the
        wait that the event finds alone, as :meth:`answer_lone` does."""
        by_name, by_key = self.statements.emit_by_name, self.statements.emit_by_key
        statement = by_name if event.key is None else by_key
        if statement is None or deed is not None:
            return Emitted(self.emit(link, event, due_in, deed=deed))
        answer, values = answer_text(event), vars(event) | {"due_in": due_in, "at_name": event.name}
        values |= {"answer_before": answer.before, "answer_between": answer.between, "answer_after": answer.after}
        if event.key is not None:
            values["at_key"] = event.key
        tries = 0

        def write(connection: Connection) -> Emitted:
            nonlocal tries
            tries += 1
            rows = self._do(connection, statement, values).rows
            if not rows:
                self._check_same(self._on(connection).execute, event)
                return Emitted(tries > 1)
            found = rows[0]
            if found.id is not None:
                return Emitted(True, True, due_of(found, found.arguments, found.message))
            return Emitted(True, len(rows) > 1 or not found.asks)

        return link.run(write)

    def lone_wait(self, link: Link, event_id: str, name: str, key: str | None) -> LoneWait | None:
        """The wait that an event answers, if there is one alone and no event comes first."""
        statement = self.statements.lone_by_name
        values: dict[str, Any] = {"at_id": event_id, "at_name": name}
        if key is not None:
            statement, values = self.statements.lone_by_key, values | {"at_key": key}
        rows = self._rows(link, statement, values)
        if len(rows) != 1 or rows[0].run_id is None or rows[0].is_late or rows[0].dispatched_at is not None:
            return None
        run_id, step_id, _, match, *of_event = rows[0]
        event = StoredEvent._make(of_event)
        if match is not None and not matches(decode(match), decode(event.payload)):
            return None
        return LoneWait(event, run_id, step_id)

    def answer_lone(self, link: Link, wait: LoneWait, result: str, due_in: int) -> Due | None:
        """Answer it, if its run sleeps and nobody has its lock: the run that it wakes, whose message is now to be sent.
        It counts as sent, and is looked at again after so long."""
        values = {
            "at_run": wait.run_id, "at_step": wait.step_id, "of_event": wait.event.seq, "given_result": result,
            "due_in": due_in,
        }  # fmt: skip

        def answer(connection: Connection) -> Due | None:
            at_once = self.statements.answer_lone
            if at_once is None:
                return self._answer_behind_lock(link, connection, values)
            row = self._do(connection, at_once, values).first()
            return None if row is None else due_of(row, row.arguments, row.message)

        with suppress(IntegrityError):  # another dispatch of this event has answered another wait of the run
            return link.run(answer)
        return None

    def _answer_behind_lock(self, link: Link, connection: Connection, values: dict[str, Any]) -> Due | None:
        if self.dialect.name == "mysql" and not skips_locked(connection):
            return None
        ours = self.statements
        with link.atomic(connection):
            row = self._do(connection, ours.lock_asleep, values).first()
            if row is None or not self._count(connection, ours.take_lone, values):
                return None
            for statement in (ours.drop_lone, ours.answer_step, ours.wake_lone):
                self._do(connection, statement, values)
        due = due_of(row, row.arguments, row.message)
        return replace(due, due_at=due.now + values["due_in"], wake_at=None, sends=1)
