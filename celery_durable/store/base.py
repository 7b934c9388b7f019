"""What all operations of the store share: the engine, the statements, the schema's state."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable, Row, RowMapping

from .dialects import dialect_of, make_engine
from .link import Link
from .records import Fence
from .schema import check_schema, migrate
from .sealing import Sealer
from .statements import Statements
from .tables import Tables

__all__ = ["Execute", "StoreBase", "new_token"]

Execute = Callable[[Any, Any], Any]
"""Executes a statement with its values: of a connection of ours, or in a transaction of the caller's."""


def new_token() -> int:
    """A token that no other holder of a run has ever had."""
    return secrets.randbits(62)


class StoreBase:
    """The durable record of one application."""

    def __init__(
        self, url: str, *, prefix: str = "durable_", auto_migrate: bool = False, sealer: Sealer | None = None
    ) -> None:
        self.engine = make_engine(url)
        self.dialect = dialect_of(self.engine)
        self.prefix = prefix
        self.tables = Tables.build(prefix, sealer)
        self.statements = Statements(self.tables, self.dialect)
        self._auto_migrate = auto_migrate
        self._ready = not auto_migrate
        self._preparing = threading.Lock()

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
        return Link(self.engine, self.dialect)

    def migrate(self) -> bool:
        """Bring the schema to this code's version; whether there was anything to do."""
        return migrate(self.engine, self.prefix)

    def check_schema(self) -> None:
        """Raise ``ConfigurationError`` unless the schema is the one that this code needs."""
        with self.link() as link:
            link.run(lambda connection: check_schema(connection, self.prefix))

    def set_aside(self, link: Link, fence: Fence, waiting_on: str) -> bool:
        """Park a run for a person, whatever it was doing."""
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": new_token(),
            "waiting_on": waiting_on[:500],
        }
        return self._changed(link, self.statements.set_aside, values)

    def _has_token(self, connection: Connection, run_id: str, token: int) -> bool:
        row = self._row(connection, self.statements.outcome, at_id=run_id)
        return row is not None and row["token"] == token

    @staticmethod
    def _row(connection: Connection, statement: Executable, **values: Any) -> RowMapping | None:
        return connection.execute(statement, values).mappings().first()

    @staticmethod
    def _rows(link: Link, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        return link.run(lambda connection: connection.execute(statement, values).all())

    @staticmethod
    def _changed(link: Link, statement: Executable, values: Mapping[str, Any]) -> bool:
        return link.run(lambda connection: connection.execute(statement, values).rowcount > 0)
