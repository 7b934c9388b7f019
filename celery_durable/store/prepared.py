"""Statements that are made ready once, for what a pass does again and again.

SQLAlchemy makes at each execution what it needs to know of a statement: the key by which it finds the text, the
parameters with those that stand in the statement itself, what becomes of each on its way to the driver and back. For a
new step that takes longer than the database does, and none of it changes after the first time: the text goes to the
driver with the values. Errors are SQLAlchemy's all the same, and where somebody listens to what it executes, or logs
it, the same text goes by way of it.
"""

from __future__ import annotations

import logging
import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.sql.compiler import SQLCompiler

from .direct import Direct, channel_of, directly

__all__ = ["Answer", "Make", "Prepared", "do_text", "take_back"]

_MOST_LISTED = 20
"""Values in the lists of a statement up to which its text is kept, as it is another one for each number of them."""

_IS_PLAIN = re.compile(r"[A-Za-z_ ]*").fullmatch

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
    direct: Direct | None
    """The same where it can go beneath the driver's cursor."""
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
        make = make or self._row
        rowcount, rows = _execute(connection, form, self._given(form, values), list if self._readers else make)
        return Answer(rowcount, self._read(make, rows) if self._readers else rows)

    def _formed(self, lists: Mapping[str, Sequence[Any]]) -> _Form:
        state = self._compiled.construct_expanded_state(dict.fromkeys(self._asked) | dict(lists), escape_names=False)
        parts = {name: tuple(state.parameter_expansion.get(name, ())) for name in lists}
        given = self._asked.union(*parts.values())
        own = {name: value for name, value in state.parameters.items() if name not in given}
        types = {name: self._compiled.binds[name].type for name in own if name in self._compiled.binds}
        for name, write in _processors(self._engine, types, "bind_processor"):
            own[name] = write(own[name])
        text = state.statement if state.positiontup is not None else _with_constants(state.statement, own)
        direct = directly(self._engine.dialect.driver, text)
        return _Form(text, direct, own, tuple(parts.items()), state.positiontup)

    def _given(self, form: _Form, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values by their names in this text, as they are written."""
        if not (form.own or form.lists or self._writers):
            return values
        given = {**form.own, **values}
        for name, write in self._writers:
            given[name] = write(given[name])
        for name, parts in form.lists:
            given.update(zip(parts, _flat(given.pop(name)), strict=True))
        return given

    def _read(self, make: Make | None, rows: Sequence[Any]) -> Sequence[Any]:
        for place, read in self._readers:
            for row in rows:
                row[place] = read(row[place])
        return rows if make is None else list(map(make, rows))


def _with_constants(text: str, own: dict[str, Any]) -> str:
    """The text with the plain ones of its own values written out, which are none any more: a driver would do that each
    time."""
    for name, value in list(own.items()):
        if value is None:
            written = "NULL"
        elif type(value) is int:
            written = str(value)
        elif type(value) is str and _IS_PLAIN(value):
            written = f"'{value}'"
        else:
            continue
        text = text.replace(f"%({name})s", written)
        del own[name]
    return text


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
    _execute(connection, _form_of(connection.dialect.driver, text), {}, None)


def take_back(connection: Connection) -> None:
    """End a transaction without an effect. Where SQLAlchemy has done it after an error, nothing happens."""
    channel = channel_of(connection)
    if channel is None:
        connection.connection.rollback()
    else:
        channel.roll_back()


@cache
def _form_of(driver: str, text: str) -> _Form:
    return _Form(text, directly(driver, text), {}, (), None)


def _execute(
    connection: Connection, form: _Form, given: Mapping[str, Any], make: Make | None
) -> tuple[int, Sequence[Any]]:
    """Hand a text to the driver: the number of rows changed, and the rows given, each as ``make`` makes it."""
    parameters: Any = given if form.order is None else tuple([given[name] for name in form.order])
    if _is_heard(connection):
        result = connection.exec_driver_sql(form.text, parameters)
        return result.rowcount, [] if make is None else list(map(make, result.all()))
    dialect = connection.dialect
    cursor = None
    try:
        if form.direct is not None:
            channel = channel_of(connection)
            answer = None if channel is None else channel.execute(form.direct, given, make)
            if answer is not None:
                return answer
        cursor = connection.connection.cursor()
        dialect.do_execute(cursor, form.text, parameters)
        found = cursor.rowcount, [] if make is None else list(map(make, cursor.fetchall()))
    except dialect.loaded_dbapi.Error as error:
        connection._handle_dbapi_exception(error, form.text, parameters, cursor, None)
    cursor.close()  # else whoever holds the connection drops it
    return found
