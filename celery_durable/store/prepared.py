"""Statements that are made ready once, for what a pass does again and again.

SQLAlchemy makes at each execution what it needs to know of a statement: the key by which it finds the text, the
parameters with those that stand in the statement itself, what becomes of each on its way to the driver and back. For a
new step that takes longer than the database does, and none of it changes after the first time: the text goes to the
driver with the values. Errors are SQLAlchemy's all the same, and where somebody listens to what it executes, or logs
it, the same text goes by way of it.
"""

from __future__ import annotations

import logging
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["Answer", "Make", "Prepared", "do_text"]

_MOST_LISTED = 20
"""Values in the lists of a statement up to which its text is kept, as it is another one for each number of them."""

Make = Callable[[Iterable[Any]], Any]
_log = logging.getLogger("sqlalchemy.engine.Engine")


class Answer:
    """What came of a statement: the rows that it gave, each by its names, or how many it has changed."""

    __slots__ = ("rowcount", "rows")

    def __init__(self, rowcount: int, rows: Sequence[Any] = ()) -> None:
        self.rowcount = rowcount
        self.rows = rows

    def first(self) -> Any:
        """The first row, if there is one."""
        return self.rows[0] if self.rows else None

    def scalar(self) -> Any:
        """The first value of the first row, if there is one."""
        return self.rows[0][0] if self.rows else None

    def mappings(self) -> list[dict[str, Any]]:
        """The rows, each by the names of its columns."""
        return [row._asdict() for row in self.rows]

    def scalars(self) -> list[Any]:
        """The first value of each row."""
        return [row[0] for row in self.rows]


class _Form(NamedTuple):
    """A statement's text, with lists of some lengths in it."""

    text: str
    own: Mapping[str, Any]
    """Values that stand in the statement itself."""
    lists: Sequence[tuple[str, Sequence[str]]]
    """Names of lists that are given, each with the names of its parts in the text."""
    order: Sequence[str] | None


class Prepared:
    """One statement, as a database's driver takes it."""

    def __init__(self, statement: Executable, engine: Engine) -> None:
        self._statement = statement
        self._engine = engine
        self._compiled: SQLCompiler = statement.compile(dialect=engine.dialect)  # type: ignore[attr-defined]
        asked = {name: bind for bind, name in self._compiled.bind_names.items() if bind.required}
        self._asked = frozenset(asked)
        self._lists = tuple(name for name, bind in asked.items() if bind.expanding)
        self._forms: dict[tuple[int, ...], _Form] = {}
        self._writers = _processors(engine, {name: bind.type for name, bind in asked.items()}, "bind_processor")
        # What is given and becomes part of the text is not for this; nor are lists whose values are made into others.
        self._is_ordinary = any(bind.required for bind in self._compiled.literal_execute_params) or any(
            name in self._lists for name, _ in self._writers
        )
        columns = self._compiled._result_columns
        self._readers = _processors(engine, dict(enumerate(each.type for each in columns)), "result_processor", None)
        self._row = _row_of([column.keyname for column in columns]) if columns else None

    def execute(self, connection: Connection, values: Mapping[str, Any], make: Make | None = None) -> Answer:
        """Execute it once, with these values; ``make`` is what each row is made into."""
        lengths = tuple([len(values[name]) for name in self._lists])
        if self._is_ordinary or sum(lengths) > _MOST_LISTED:
            result = connection.execute(self._statement, values)
            rows: Sequence[Any] = result.all() if result.returns_rows else ()
            return Answer(result.rowcount, rows if make is None else list(map(make, rows)))
        form = self._forms.get(lengths)
        if form is None:
            form = self._forms[lengths] = self._formed({name: values[name] for name in self._lists})
        rowcount, found = _execute(connection, form.text, self._filled(form, values), self._row is not None)
        return Answer(rowcount) if self._row is None else self._read(make or self._row, rowcount, found)

    def _formed(self, lists: Mapping[str, Sequence[Any]]) -> _Form:
        state = self._compiled.construct_expanded_state(dict.fromkeys(self._asked) | dict(lists), escape_names=False)
        parts = {name: tuple(state.parameter_expansion.get(name, ())) for name in lists}
        given = self._asked.union(*parts.values())
        own = {name: value for name, value in state.parameters.items() if name not in given}
        types = {name: self._compiled.binds[name].type for name in own if name in self._compiled.binds}
        for name, write in _processors(self._engine, types, "bind_processor"):
            own[name] = write(own[name])
        return _Form(state.statement, own, tuple(parts.items()), state.positiontup)

    def _filled(self, form: _Form, values: Mapping[str, Any]) -> Any:
        """The values as the driver takes them with this text."""
        given = {**form.own, **values}
        for name, write in self._writers:
            given[name] = write(given[name])
        for name, parts in form.lists:
            given.update(zip(parts, _flat(given.pop(name)), strict=True))
        return given if form.order is None else tuple([given[name] for name in form.order])

    def _read(self, make: Make, rowcount: int, rows: Sequence[Any]) -> Answer:
        if self._readers:
            rows = [list(row) for row in rows]
            for place, read in self._readers:
                for row in rows:
                    row[place] = read(row[place])
        return Answer(rowcount, list(map(make, rows)))


def _row_of(names: Sequence[str]) -> Make:
    kind: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]
    make: Make = kind._make
    return make


def _processors(engine: Engine, types: Mapping[Any, Any], name: str, *more: Any) -> list[tuple[Any, Any]]:
    """What becomes of the values of these types on their way to the driver, or back, where something does."""
    dialect = engine.dialect
    made = {key: getattr(kind.dialect_impl(dialect), name)(dialect, *more) for key, kind in types.items()}
    return [(key, processor) for key, processor in made.items() if processor is not None]


def _flat(values: Sequence[Any]) -> list[Any]:
    """The values of a list, of pairs also."""
    if values and isinstance(values[0], tuple):
        return [value for several in values for value in several]
    return list(values)


def _is_heard(connection: Connection) -> bool:
    """Whether somebody is told of each statement: a listener of SQLAlchemy's events, such as tracing, or its log."""
    heard = connection.engine.dispatch
    return bool(
        heard.before_cursor_execute
        or heard.after_cursor_execute
        or connection.dialect.dispatch.do_execute
        or _log.isEnabledFor(logging.INFO)
    )


def do_text(connection: Connection, text: str) -> None:
    """Execute a text that has no values in it."""
    _execute(connection, text, None, False)


def _execute(connection: Connection, text: str, parameters: Any, gives_rows: bool) -> tuple[int, Sequence[Any]]:
    """Hand a text to the driver: the number of rows changed, and the rows given."""
    if _is_heard(connection):
        result = connection.exec_driver_sql(text, parameters)
        return result.rowcount, result.all() if gives_rows else ()
    dialect = connection.dialect
    cursor = connection.connection.cursor()
    try:
        if parameters is None:
            dialect.do_execute_no_params(cursor, text)
        else:
            dialect.do_execute(cursor, text, parameters)
        found = cursor.rowcount, cursor.fetchall() if gives_rows else ()
    except dialect.loaded_dbapi.Error as error:
        connection._handle_dbapi_exception(error, text, parameters, cursor, None)
    cursor.close()  # else whoever holds the connection drops it
    return found
