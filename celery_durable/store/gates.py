"""Gates: locks for a name, held until the transaction ends. What they are for is told in ``statements/events.py``."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Executable

from ..core.ids import gate_of
from ..errors import ConfigurationError
from .base import StoreBase
from .tables import GATES

__all__ = ["Gated"]


class Gated(StoreBase):
    """Passing and closing gates. The order of locks is always: gate, then run."""

    def _pass_gates(self, connection: Connection, gates: Iterable[int]) -> None:
        """Hold these gates together with others who pass them, until the transaction ends."""
        ordered = sorted(set(gates))
        if not ordered or self.dialect.one_writer:
            return
        if not self.dialect.advisory_locks:
            self._at_gates(connection, self.statements.hold_gate, ordered)
            return
        for gate in ordered:
            self._do(connection, self.statements.hold_gate, {"gate": gate})

    def _shut(self, connection: Connection, *parts: str) -> None:
        """Be alone behind the gate of a name until the transaction ends."""
        gate, statement = gate_of(self.prefix, *parts), self.statements.close_gates
        if statement is None:
            return
        if self.dialect.advisory_locks:
            self._do(connection, statement, {"name_gate": gate, "key_gate": gate})
        else:
            self._at_gates(connection, statement, [gate])

    def _at_gates(self, connection: Connection, statement: Executable, gates: Iterable[int]) -> None:
        """Lock the rows that stand for gates."""
        names = sorted({GATES[gate % len(GATES)] for gate in gates})
        if len(self._do(connection, statement, {"gates": names}).rows) < len(names):
            raise ConfigurationError(
                f"rows named gate-... are missing in the table {self.tables.lease.name}, so an event and a wait could "
                f"miss each other. The migration makes {len(GATES)} of them: put them back"
            )
