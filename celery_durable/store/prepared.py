"""Statements that are made ready once, for what a pass does again and again.

SQLAlchemy makes at each execution what it needs to know of a statement: the key by which it finds the text, the
parameters with those that stand in the statement itself, what becomes of each on its way to the driver and back. For a
new step that takes longer than the database does. Most statements need none of it after the first time: their text goes
to the driver with the values. It is SQLAlchemy that executes it all the same, with its events, errors and transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Executable
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["Prepared"]


class Prepared:
    """One statement, as a database's driver takes it. Where its text changes with the values, or what is read has to be
    made into something, SQLAlchemy does it in its ordinary way."""

    def __init__(self, statement: Executable, engine: Engine) -> None:
        compiled: SQLCompiler = statement.compile(dialect=engine.dialect)  # type: ignore[attr-defined]
        self._statement = statement
        self._is_plain = not compiled.post_compile_params and not any(
            column.type.dialect_impl(engine.dialect).result_processor(engine.dialect, None)
            for column in compiled._result_columns
        )
        self._text = compiled.string
        self._order = compiled.positiontup
        asked = {name: bind for bind, name in compiled.bind_names.items() if bind.required}
        every = compiled.construct_params(dict.fromkeys(asked))
        self._own = {name: value for name, value in every.items() if name not in asked}
        self._writers: dict[str, Callable[[Any], Any]] = {}
        for name, bind in asked.items():
            writer = bind.type.dialect_impl(engine.dialect).bind_processor(engine.dialect)
            if writer is not None:
                self._writers[name] = writer

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it once, with these values."""
        if not self._is_plain:
            return connection.execute(self._statement, values)
        given = {**self._own, **values}
        for name, write in self._writers.items():
            given[name] = write(given[name])
        parameters: Any = given if self._order is None else tuple([given[name] for name in self._order])
        return connection.exec_driver_sql(self._text, parameters)
