"""The matrix itself: that it kills where it says, and that its page says what it does."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from celery_durable.store.store import Store

from .boundaries import Boundaries, Boundary
from .killing import in_child
from .matrix import BEGIN, DATABASES, END, PAGE, Walk, operations_of, table_of
from .operations import OPERATIONS

NAMES = [operation.name for operation in OPERATIONS]


def test_the_page_has_every_operation() -> None:
    """Whoever adds one, or takes one away, makes the page anew: ``make matrix``."""
    assert operations_of(PAGE.read_text()) == NAMES


def test_the_page_has_nothing_that_does_not_hold() -> None:
    assert str(Walk()) not in PAGE.read_text()


def test_the_page_is_made_of_what_was_found() -> None:
    found = {name: dict.fromkeys(DATABASES, Walk(7, 6)) for name in NAMES}
    found[NAMES[0]] = dict.fromkeys(DATABASES, Walk())
    table = table_of(found)
    assert operations_of(f"{BEGIN}\n\n{table}\n\n{END}") == NAMES
    assert table.count("7, 6: held") == (len(NAMES) - 1) * len(DATABASES)
    assert table.count("does not hold") == len(DATABASES)


def test_no_two_operations_have_one_name() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.fixture
def store(any_store: Store) -> Store:
    """With a table of users."""
    with any_store.engine.connect() as connection:
        connection.execute(text("CREATE TABLE kept (number INTEGER)"))
    return any_store


def write(store: Store) -> None:
    """By itself, in a transaction by hand, as a batch, and in one that SQLAlchemy manages."""
    insert = text("INSERT INTO kept VALUES (:number)")
    with store.link() as link:
        link.run(lambda connection: connection.execute(insert, {"number": 1}))

        def together(connection):
            with link.atomic(connection):
                connection.execute(insert, {"number": 2})

        link.run(together)
        link.run(lambda connection: connection.execute(insert, [{"number": 3}, {"number": 4}]))
    managed = store.engine.execution_options(isolation_level=store.dialect.transaction_isolation)
    with managed.begin() as connection:
        connection.execute(insert, {"number": 5})


def kept(store: Store) -> list[int]:
    with store.engine.connect() as connection:
        return sorted(connection.execute(text("SELECT number FROM kept")).scalars())


def test_every_statement_is_a_boundary(store: Store) -> None:
    """What is there after each death tells where it was."""
    with Boundaries(store.engine) as boundaries:
        write(store)
    assert kept(store) == [1, 2, 3, 4, 5]
    seen = {}
    for boundary in boundaries.found:
        with store.engine.connect() as connection:
            connection.execute(text("DELETE FROM kept"))

        def dies(boundary: Boundary = boundary) -> None:
            with Boundaries(store.engine, kill_at=boundary):
                write(store)

        assert in_child(dies)
        seen[boundary] = kept(store)
    begins = 1 if store.dialect.one_writer else 0  # the BEGIN of a managed transaction, which the others' drivers send
    assert list(seen.values()) == [
        [], [1],  # by itself
        [1], [1], [1], [1, 2],  # before BEGIN, INSERT and COMMIT, and after that
        [1, 2], [1, 2, 3], [1, 2, 3], [1, 2, 3, 4],  # row by row
        *[[1, 2, 3, 4]] * (2 + begins), [1, 2, 3, 4, 5],  # before INSERT and COMMIT, and after that
    ]  # fmt: skip
