"""The named statements, built once for a store and a database.

Parameters of a WHERE begin with ``at_``, those of a step's row with ``step_``. An UPDATE has to be given
exactly its own parameters: SQLAlchemy takes any other that has a column's name for one more column to
set, even in an UPDATE inside a WITH.
"""

from __future__ import annotations

from .events import EventStatements
from .finding import FindingStatements
from .handing import HandingStatements
from .lone import LoneStatements
from .operating import OperatingStatements
from .recording import SETTLING_COLUMNS, STEP_COLUMNS, RecordStatements
from .sharing import SharingStatements
from .starting import StartStatements
from .upkeep import UpkeepStatements

__all__ = ["SETTLING_COLUMNS", "STEP_COLUMNS", "Statements"]


class Statements(
    StartStatements,
    RecordStatements,
    EventStatements,
    LoneStatements,
    HandingStatements,
    SharingStatements,
    OperatingStatements,
    FindingStatements,
    UpkeepStatements,
):
    """All statements of one store."""
