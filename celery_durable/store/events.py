"""Emitting events, registering waits for them, and delivering one to the other.

How they can't miss each other is told in ``statements/events.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..core.codec import decode
from ..core.ids import gate_of
from ..core.match import matches
from ..core.replay import Record
from ..errors import DamagedRecord, EventConflict
from ..statuses import FINISHED
from .base import Execute
from .gates import Gated
from .link import Link
from .recording import Recording
from .records import DAMAGED, Deed, Due, Fence, NewEvent, NewWait, StepWrite, StoredEvent
from .upkeep import Upkeep

__all__ = ["Events"]

_PAGE = 100
_WAITS_AT_ONCE = 5_000
"""Each look sorts all that still wait for an event: of a hundred thousand there are twenty, not five hundred."""


class Prospects(NamedTuple):
    """What there is for an event to answer, and who comes first."""

    keyed: bool
    """Waits for its name and key."""
    keyless: bool
    """Waits for its name, whatever the key."""
    earlier: bool
    """Events of its name that were emitted before it and are not dispatched yet."""


class Events(Recording, Gated, Upkeep):
    """Events, from the emit to the last run that takes one."""

    # ------------------------------------------------------------------ emit

    def emit(
        self, link: Link, event: NewEvent, due_in: int, patience: float = 0.0, *, deed: Deed | None = None
    ) -> bool:
        """Record an event, and who emits it where that is to be kept; ``False`` where it was recorded before.
        ``EventConflict`` where it was another.

        One that is there after a try whose answer was lost is taken for this one's: else nobody would be told of it.
        """
        tries = 0

        def write(connection: Connection) -> bool:
            nonlocal tries
            tries += 1
            if deed is None:
                return self.emit_within(self._on(connection).execute, event, due_in) or tries > 1
            with link.atomic(connection):
                return self.emit_within(self._on(connection).execute, event, due_in, deed) or tries > 1

        return link.run(write, patience)

    def emit_within(self, execute: Execute, event: NewEvent, due_in: int, deed: Deed | None = None) -> bool:
        """The same by a connection in a transaction of the caller's."""
        if execute(self.statements.emit, vars(event) | {"due_in": due_in}).rowcount == 1:
            self._note(execute, None, deed)
            return True
        self._check_same(execute, event)
        return False

    def _check_same(self, execute: Execute, event: NewEvent) -> None:
        """The event of this id that is there is this one. ``EventConflict`` where it is another."""
        there = execute(self.statements.emitted, {"at_id": event.id}).first()
        if there is None or tuple(there) == (event.name, event.content_hash):
            return
        other = "with another key or payload" if there[0] == event.name else f"as {there[0]!r}"
        raise EventConflict(
            f"an event {event.id!r} was emitted before {other}, so {event.name!r} was not emitted. One event_id is one "
            "event: put what tells them apart into it, such as the sender's name."
        )

    def emit_step(
        self, link: Link, fence: Fence, step: StepWrite, event: NewEvent, due_in: int, lease_until: int, patience: float
    ) -> bool:
        """Emit an event and record the step that does, in one transaction. ``False``: the lease is lost."""

        def write(connection: Connection) -> bool:
            try:
                with link.atomic(connection):
                    if not self.record_within(self._on(connection), fence, step, lease_until):
                        return False
                    self.emit_within(self._on(connection).execute, event, due_in)
                return True
            except IntegrityError:  # of the step: recorded by an earlier try, whose answer was lost
                return self._status_of(connection, fence.run_id, step.id) is not None

        return link.run(write, patience)

    # ------------------------------------------------------------------ wait

    def _look(self, connection: Connection, run_id: str, wait: NewWait) -> StoredEvent | None:
        """The oldest event that answers a wait and that the run has not had."""
        wanted = None if wait.match is None else decode(wait.match)
        look = self.statements.look_by_name if wait.key is None else self.statements.look_by_key
        limit = 1 if wanted is None else _PAGE
        values: dict[str, Any] = {"at_id": run_id, "at_name": wait.name, "since": wait.since, "limit": limit}
        values |= {"after_time": 0, "after_seq": 0}
        if wait.key is not None:
            values["at_key"] = wait.key
        while True:
            rows = self._do(connection, look, values).rows
            for row in rows:
                event = StoredEvent._make(row)
                if _fits(wanted, event):
                    return event
            if len(rows) < limit:
                return None
            values |= {"after_time": rows[-1].emitted_at, "after_seq": rows[-1].seq}

    def look(self, link: Link, run_id: str, wait: NewWait) -> StoredEvent | None:
        """Whether an event is there, for a wait that is over at once."""
        return link.run(lambda connection: self._look(connection, run_id, wait))

    def take_event(
        self, link: Link, fence: Fence, step: StepWrite, seq: int, lease_until: int, patience: float = 0.0
    ) -> bool:
        """Record a wait that is answered by an event which came before it. ``False``: the lease is lost."""

        def take(connection: Connection) -> bool:
            try:
                with link.atomic(connection):
                    if not self.record_within(self._on(connection), fence, step, lease_until):
                        return False
                    values = {"at_id": fence.run_id, "event": seq, "of_step": step.id}
                    self._do(connection, self.statements.take, values)
                return True
            except IntegrityError:  # as above
                return self._status_of(connection, fence.run_id, step.id) is not None

        return link.run(take, patience)

    def end_wait(
        self, link: Link, fence: Fence, step: StepWrite, lease_until: int, patience: float = 0.0
    ) -> Record | None:
        """Record that a wait's time is up; what is recorded then, which may be an event that came first.

        ``None``: the lease is lost.
        """
        at_step = {"at_id": fence.run_id, "at_step": step.id}
        outcome = at_step | {"status": step.status, "result": step.result, "error": step.error}

        def end(connection: Connection) -> Record | None:
            at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
            with link.atomic(connection):
                if self._count(connection, self.statements.fence, at_run) != 1:
                    return None
                self._do(connection, self.statements.end_wait, outcome)
                self._do(connection, self.statements.drop_wait, at_step)
                values = {"at_id": fence.run_id, "ids": [step.id]}
                return Record._make(self._do(connection, self.statements.settled_steps, values).first())

        return link.run(end, patience)

    # -------------------------------------------------------------- dispatch

    def event(self, link: Link, event_id: str) -> StoredEvent | None:
        """One event by its id."""

        def read(connection: Connection) -> StoredEvent | None:
            row = self._do(connection, self.statements.one_event, {"at_id": event_id}).first()
            return None if row is None else StoredEvent._make(row)

        return link.run(read)

    def close_gates(self, link: Link, event: StoredEvent) -> None:
        """Wait until all are through who began to register a wait before this event was to be seen."""
        name_gate = gate_of(self.prefix, event.name)
        key_gate = name_gate if event.key is None else gate_of(self.prefix, event.name, event.key)

        statement = self.statements.close_gates
        if statement is None:
            return

        def close(connection: Connection) -> None:
            if self.dialect.advisory_locks:
                self._do(connection, statement, {"name_gate": name_gate, "key_gate": key_gate})
                return
            with link.atomic(connection):
                self._at_gates(connection, statement, (name_gate, key_gate))

        link.run(close)

    def prospects(self, link: Link, event: StoredEvent) -> Prospects:
        """What there is for an event to answer."""
        statement = self.statements.prospects_by_name
        values: dict[str, Any] = {"at_name": event.name, "at_seq": event.seq, "limit": 1}
        if event.key is not None:
            statement, values = self.statements.prospects_by_key, values | {"at_key": event.key}
        (row,) = self._rows(link, statement, values)
        return Prospects(*map(bool, row))

    def earlier_events(self, link: Link, event: StoredEvent, *, of_any_key: bool, limit: int) -> list[str]:
        """The events before this one that are not dispatched yet and might answer the same waits."""
        values: dict[str, Any] = {"at_name": event.name, "at_seq": event.seq, "limit": limit}
        statement = self.statements.earlier_by_name
        if not of_any_key:
            statement, values = self.statements.earlier_by_key, values | {"at_key": event.key}
        return [row.id for row in self._rows(link, statement, values)]

    def waits_for(self, link: Link, event: StoredEvent, limit: int) -> Iterator[list[tuple[str, str]]]:
        """The waits that an event answers, each by its run and step, in batches. A run whose wait can't be read is set
        aside, and keeps no other from its answer."""
        statement = self.statements.waits_by_name if event.key is None else self.statements.waits_by_key
        values: dict[str, Any] = {"at_name": event.name, "emitted_at": event.emitted_at, "limit": _WAITS_AT_ONCE}
        values |= {"after_run": "", "after_step": ""}
        if event.key is not None:
            values["at_key"] = event.key
        payload = decode(event.payload)
        while True:
            rows = self._rows(link, statement, values)
            found = []
            for row in rows:
                try:
                    if row.match is None or matches(decode(row.match), payload):
                        found.append((row.run_id, row.step_id))
                except DamagedRecord as error:
                    self._set_waiting_aside(link, row.run_id, error)
            yield from (found[start : start + limit] for start in range(0, len(found), limit))
            if len(rows) < _WAITS_AT_ONCE:
                return
            values |= {"after_run": rows[-1].run_id, "after_step": rows[-1].step_id}

    def _set_waiting_aside(self, link: Link, run_id: str, error: DamagedRecord) -> None:
        row = link.run(lambda connection: self._row(connection, self.statements.outcome, at_id=run_id))
        if row is not None:
            reason = f"{DAMAGED} what it waits for: {error}. Mend the row, then resume the run"
            self.set_aside(link, Fence(run_id, row["token"]), reason)

    def deliver(
        self, link: Link, event: StoredEvent, result: str, waits: Sequence[tuple[str, str]], due_in: int
    ) -> list[str]:
        """Answer waits with an event, as one transaction; the runs that it wakes.

        A run that is being executed, or is paused, finds the answer when it comes to the wait again.
        """

        def answer(connection: Connection) -> list[str]:
            with link.atomic(connection):
                runs = self._do(connection, self.statements.lock_runs, {"ids": sorted({run for run, _ in waits})}).rows
                if not runs:
                    return []
                statuses = {run.id: run.status for run in runs}
                over = [wait for wait in waits if statuses.get(wait[0]) in FINISHED]
                open_waits = [wait for wait in waits if statuses.get(wait[0], "failed") not in FINISHED]
                asleep = [run for run, status in statuses.items() if status == "suspended"]
                woken = self._answer(connection, event, result, open_waits, asleep, due_in) if open_waits else []
                if over:
                    self._do(connection, self.statements.drop_these_waits, _named(over))
                return woken

        return link.run(answer)

    def _answer(
        self,
        connection: Connection,
        event: StoredEvent,
        result: str,
        waits: Sequence[tuple[str, str]],
        asleep: Sequence[str],
        due_in: int,
    ) -> list[str]:
        """The same behind the lock of the runs, whose waits these are; those that sleep are woken."""
        at_once = self.statements.answer_at_once
        if at_once is not None:
            values = {"of_event": event.seq, "given_result": result, "ids": list(asleep), "due_in": due_in}
            return sorted(self._do(connection, at_once, _named(waits) | values).scalars())
        taking = self._taking(connection, event, waits)
        if not taking:
            return []
        self._do(connection, self.statements.take_all, _named(taking) | {"event": event.seq})
        self._do(connection, self.statements.answer_steps, _named(taking) | {"result": result})
        self._do(connection, self.statements.drop_these_waits, _named(taking))
        woken = [run for run, _ in taking if run in asleep]
        if woken:
            self._do(connection, self.statements.wake_runs, {"ids": woken, "due_in": due_in})
        return woken

    def _taking(
        self, connection: Connection, event: StoredEvent, waits: Sequence[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Of these waits those that are open still, one for each run that has not had the event."""
        there = {tuple(row) for row in self._do(connection, self.statements.open_waits, _named(waits)).rows}
        values = {"event": event.seq, "ids": sorted({run for run, _ in waits})}
        had = set(self._do(connection, self.statements.takers, values).scalars())
        taking = []
        for run, step in waits:
            if (run, step) in there and run not in had:
                had.add(run)
                taking.append((run, step))
        return taking

    def to_send(self, link: Link, run_ids: list[str]) -> list[Due]:
        """Those of these runs that nobody has taken yet, with what is needed to send them."""
        found = self._read_due(link, self.statements.to_send, {"ids": run_ids}, self.statements.to_send_at_once)
        return [due for due in found if due.status in ("pending", "suspended", "cancelled") and due.due_at is not None]

    def dispatching(self, link: Link, event_id: str, due_in: int) -> None:
        """The event is being dispatched: it need not be sent again for that long."""
        self._changed(link, self.statements.dispatching, {"at_id": event_id, "due_in": due_in})

    def postponed(self, link: Link, event_id: str, error: str, due_in: int) -> None:
        """Something that the event has to do could not be done: the dispatch is to be tried again."""
        self._changed(link, self.statements.postponed, {"at_id": event_id, "error": error, "due_in": due_in})

    def dispatched(self, link: Link, event_id: str, error: str | None) -> None:
        """All that the event has to do is done."""
        self._changed(link, self.statements.dispatched, {"at_id": event_id, "error": error})

    def due_events(self, link: Link, limit: int) -> list[tuple[str, int]]:
        """The events whose dispatch is missing, with how often it was sent."""
        rows = self._rows(link, self.statements.due_events, {"limit": limit})
        return [(row.id, row.sends) for row in rows]

    def mark_events_sent(self, link: Link, marks: Iterable[tuple[str, int]]) -> None:
        """Events whose dispatch is on its way, each with the time until it is looked at again."""
        alike: defaultdict[int, list[str]] = defaultdict(list)
        for event_id, due_in in marks:
            alike[due_in].append(event_id)
        for due_in, ids in alike.items():
            self._changed(link, self.statements.mark_events_sent, {"ids": sorted(ids), "due_in": due_in})


def _fits(wanted: Any, event: StoredEvent) -> bool:
    """Whether an event has what is wanted; one that can't be read has nothing."""
    try:
        return not wanted or matches(wanted, decode(event.payload))
    except DamagedRecord:
        return False


def _named(waits: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {"waits": list(waits), "runs": [run for run, _ in waits]}
