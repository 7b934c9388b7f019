"""Scenes: what there is in the store for one case, apart from all others, and how it looks afterwards."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Connection, Table

from celery_durable.core.codec import encode
from celery_durable.engine.events import event_of, new_event
from celery_durable.store.records import Aftermath, Claim, Deed, Fence, NewRun, NewWait, StoredEvent
from celery_durable.store.store import Store
from tests.store.making import LEASE, new_run

_numbers = itertools.count(1)
_UNTOLD = {"token", "seq", "event", "version", "value", "content_hash"}
"""Columns that are another value each time, or that are told apart from the rest."""
DEED = Deed("test", "tests")


class Scene:
    """Runs and events whose names begin with the scene's."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.name = f"scene{next(_numbers)}-"
        self.link = store.link()
        self.given: Any = None

    def run(self, name: str = "r", **values: Any) -> NewRun:
        return new_run(self.name + name, **values)

    def started(self, name: str = "r", **values: Any) -> None:
        assert self.store.start(self.link, self.run(name, **values))

    def taken(self, name: str = "r", **values: Any) -> Claim:
        self.started(name, **values)
        return self.claim(name)

    def claim(self, name: str = "r") -> Claim:
        claim = self.store.claim(self.link, self.name + name, worker="w/1", lease=LEASE)
        assert isinstance(claim, Claim), claim
        return claim

    def claim_woken(self, name: str = "r") -> Claim:
        """Take a run that was suspended, whatever it waits for."""
        self.store.skip_wait(self.link, self.name + name)
        return self.claim(name)

    def having(self, given: Any) -> Scene:
        self.given = given
        return self

    def wait(self, claim: Claim) -> NewWait:
        return NewWait(self.name + "paid", "k", None, claim.created_at)

    def emitted(self) -> StoredEvent:
        """The event that such a wait is for."""
        event = new_event(self.name + "e", self.name + "paid", 7, "k", max_payload=1000)
        self.store.emit(self.link, event, 0)
        stored = self.store.event(self.link, event.id)
        assert stored is not None
        return stored

    def message(self, event: StoredEvent) -> str:
        return encode(event_of(event))

    def fence(self, name: str = "r") -> Fence:
        found = self.store.get(self.link, self.name + name)
        assert found is not None
        return Fence(self.name + name, found[0]["token"])

    def look(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of the scene, without what is another value each time."""
        tables = self.store.tables
        found = {}
        for table in (tables.run, tables.input, tables.step, tables.event, tables.wait, tables.taken, tables.state,
                      tables.turn, tables.audit, tables.lease, tables.log):  # fmt: skip
            rows = self.link.run(partial(self._rows, table))
            mine = [row for row in rows if any(self._is_mine(value) for value in row.values())]
            found[table.name] = sorted((self._told(table, row) for row in mine), key=repr)
        return found

    @staticmethod
    def _rows(table: Table, connection: Connection) -> list[Any]:
        return list(connection.execute(table.select()).mappings())

    def _is_mine(self, value: Any) -> bool:
        return isinstance(value, str) and value.startswith(self.name)

    def _told(self, table: Any, row: Any) -> dict[str, Any]:
        told = {}
        for name, value in row.items():
            if isinstance(table.c[name].type, BigInteger) or name in _UNTOLD:
                told[name] = value if name in ("value", "recoveries") else value is not None
            else:
                told[name] = "an event" if isinstance(value, str) and "emitted_at" in value else self.plain(value)
        return told

    def plain(self, answer: Any) -> Any:
        """An answer of the store, without what is another value each time."""
        if isinstance(answer, str):
            return answer.replace(self.name, "")
        if isinstance(answer, Aftermath):
            return ("aftermath", *(tuple(map(self.plain, part)) for part in (answer.wake, answer.revoke)))
        if isinstance(answer, Claim):
            return ("claim", self.plain(answer.fence.run_id), sorted(answer.history), answer.passes)
        if isinstance(answer, (list, tuple)):
            return [self.plain(one) for one in answer]
        return answer if isinstance(answer, (bool, int, type(None))) else type(answer).__name__
