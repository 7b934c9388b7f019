"""What all operations of the store share: the engine, the statements, the schema's state."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable, Row

from ..statuses import SchemaState
from .dialects import Dialect, dialect_of, make_engine
from .link import Link
from .prepared import Answer, Make, Prepared
from .records import Deed, Fence
from .schema import check_schema, migrate, schema_state
from .sealing import Sealer
from .statements import Statements
from .steady import Steady
from .tables import Tables
from .transacting import SessionTransactions, Transactions

__all__ = ["ANSWER_WITHIN", "RETENTION", "SOON", "Execute", "StoreBase", "new_token"]

RETENTION = 30 * 86_400_000_000
"""Microseconds for which a finished run is kept where nothing is said."""
ANSWER_WITHIN = 15.0
"""Seconds after which a connection that does not answer is given up, where nothing is said."""
SOON = 3_000_000
"""Microseconds that whoever lets a run go on has for sending its message, before the sweeper does."""
Execute = Callable[[Any, Any], Any]
"""Executes a statement with its values: of a connection of ours, or in a transaction of the caller's."""


def new_token() -> int:
    """A token that no other holder of a run has ever had."""
    return secrets.randbits(62)


class Own:
    """Executes statements on a connection of ours."""

    def __init__(self, connection: Connection, do: Callable[[Connection, Any, Any], Answer]) -> None:
        self._connection = connection
        self._do = do

    def execute(self, statement: Any, values: Any, /) -> Answer:
        """Do a statement with its values; with a list of them, once for each."""
        return self._do(self._connection, statement, values)


class StoreBase:
    """The durable record of one application."""

    steady = Steady()
    stands_in = False
    """Whether it takes the place of the app's own database, in a test: then no transaction of the app's is on it."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "durable_",
        auto_migrate: bool = False,
        sealer: Sealer | None = None,
        retention: int = RETENTION,
        answer_within: float = ANSWER_WITHIN,
        pooled: bool = True,
    ) -> None:
        self.engine = make_engine(url, pooled=pooled)
        self.pooled = pooled
        """Whether a connection may be held while nothing is done with it."""
        self.dialect = self.choose_dialect()
        self.prefix = prefix
        self.tables = Tables.build(prefix, sealer)
        self.statements = Statements(self.tables, self.dialect)
        self._prepared: dict[Executable, Prepared] = {}
        self._auto_migrate = auto_migrate
        self._ready = not auto_migrate
        self.retention = retention
        self._answer_within = None if self.dialect.one_writer else answer_within
        self.sealed = sealer is not None
        self.transactions: Transactions = SessionTransactions()
        self._preparing = threading.Lock()

    def choose_dialect(self) -> Dialect:
        """How this database is spoken to."""
        return dialect_of(self.engine)

    def prepare(self) -> None:
        """Make the tables at the first use, where that is asked for."""
        if not self._ready:
            with self._preparing:
                if not self._ready:
                    migrate(self.engine, self.prefix)
                    self._ready = True

    def link(self) -> Link:
        """A connection to hold for a while."""
        self.prepare()
        return self._open_link()

    def _open_link(self) -> Link:
        return Link(self.engine, self.dialect, self._answer_within)

    def migrate(self) -> bool:
        """Bring the schema to this code's version; whether there was anything to do."""
        return migrate(self.engine, self.prefix)

    def check_schema(self) -> None:
        """Raise ``ConfigurationError`` unless the schema is the one that this code needs."""
        with self.link() as link:
            link.run(lambda connection: check_schema(connection, self.prefix))

    def schema_state(self) -> SchemaState:
        """Where the schema stands; it is not made or upgraded for that."""
        with self._open_link() as link:
            return link.run(lambda connection: schema_state(connection, self.prefix))

    def set_aside(self, link: Link, fence: Fence, waiting_on: str) -> bool:
        """Park a run for a person, whatever it was doing."""
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": new_token(),
            "waiting_on": waiting_on[:500],
        }
        return self._handed_on(link, self.statements.set_aside, values)

    def _note(self, execute: Execute, run_id: str | None, deed: Deed | None) -> None:
        """Keep who did what to a run, in the transaction in which it is done."""
        if deed is not None:
            values = {"of_run": run_id, "actor": deed.actor[:255], "reason": deed.reason and deed.reason[:500]}
            values |= {"action": deed.action, "details": deed.details}
            execute(self.statements.note, values)

    def _has_token(self, connection: Connection, run_id: str, token: int) -> bool:
        row = self._row(connection, self.statements.outcome, at_id=run_id)
        return row is not None and row["token"] == token

    def _handed_on(self, link: Link, statement: Executable, values: Mapping[str, Any]) -> bool:
        """Give a run a new token with what becomes of it; whether this did, or an earlier try whose answer was lost."""

        tries = 0

        def hand_on(connection: Connection) -> bool:
            nonlocal tries
            tries += 1
            # First, as what was done may be counted: a run that is set aside, say.
            if tries > 1 and self._has_token(connection, values["at_id"], values["token"]):
                return True
            return self._count(connection, statement, values) > 0

        return link.run(hand_on)

    def _do(
        self,
        connection: Connection,
        statement: Executable,
        values: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        make: Make | None = None,
    ) -> Answer:
        """Execute a statement of ours; with a list of values, once for each. ``make`` is what each row is made into."""
        if isinstance(values, Sequence):
            if len(values) != 1:
                return Answer(connection.execute(statement, values).rowcount)
            values = values[0]
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = Prepared(statement, self.engine)
        return prepared.execute(connection, values, make)

    def _on(self, connection: Connection) -> Own:
        """For what is written so that it can be done in a transaction of the caller's."""
        return Own(connection, self._do)

    def _row(self, connection: Connection, statement: Executable, **values: Any) -> dict[str, Any] | None:
        row = self._do(connection, statement, values).first()
        return None if row is None else row._asdict()

    def _rows(self, link: Link, statement: Executable, values: Mapping[str, Any]) -> Sequence[Any]:
        return link.run(lambda connection: self._do(connection, statement, values).rows)

    @staticmethod
    def _found(link: Link, statement: Executable) -> Sequence[Row[Any]]:
        """What a statement finds that was built for this once."""
        return link.run(lambda connection: connection.execute(statement).all())

    def _count(self, connection: Connection, statement: Executable, values: Mapping[str, Any]) -> int:
        """Execute a statement that changes rows; how many."""
        return self._do(connection, statement, values).rowcount

    def _changed(self, link: Link, statement: Executable, values: Mapping[str, Any]) -> bool:
        return link.run(lambda connection: self._count(connection, statement, values) > 0)
