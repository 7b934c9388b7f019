"""What our Django migrations do: the package's own migrations, where the durable tables are."""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations.base import Operation

from ...store.dialects import make_engine
from ...store.schema import migrate
from ...worker.django_databases import url_of
from .project import durable_alias, table_prefix

__all__ = ["MakeDurableTables"]


class MakeDurableTables(Operation):
    """Bring the durable tables to a version of their schema, or to a later one that this package knows.

    On another database than the durable one it does nothing, and what is done already is not done again.
    """

    reversible = False
    reduces_to_sql = False

    def __init__(self, version: str) -> None:
        self.version = version

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Nothing that Django has to know of."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        connection = schema_editor.connection
        if connection.alias != durable_alias():
            return
        engine = make_engine(url_of(connection))
        try:
            migrate(engine, table_prefix())
        finally:
            engine.dispose()

    def describe(self) -> str:
        return f"Bring the durable tables to version {self.version}"
