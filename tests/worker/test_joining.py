"""``session=``: what is emitted or started in a transaction of the caller's, which commits or does not."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from celery_durable import ConfigurationError, DurableTask, EventConflict
from celery_durable.worker.dispatch import DISPATCH
from celery_durable.worker.same_database import same_database
from tests.proxy import Proxy
from tests.services import Services
from tests.waiting import wait_until
from tests.worker.conftest import Desk

thing = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(9)))
PORTS = {"postgresql": 5432, "mysql": 3306}


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    made = Celery("desk", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(durable_database_url=database_url, task_default_queue=f"desk-{uuid.uuid4().hex[:8]}")
    Desk(made).durable.migrate()
    Desk(made).store.prepare()
    yield made
    Desk(made).store.engine.dispose()
    made.close()


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """The caller's engine, made as anyone makes one."""
    made = sa.create_engine(database_url)
    thing.create(made)
    yield made
    made.dispose()


@pytest.fixture(params=["session", "scoped_session", "connection"])
def caller(request: pytest.FixtureRequest, engine: sa.Engine) -> Iterator[Any]:
    """What has the transaction."""
    if request.param == "session":
        with Session(engine) as session:
            yield session
    elif request.param == "connection":
        with engine.connect() as connection:
            yield connection
    else:
        scoped = scoped_session(sessionmaker(engine))
        yield scoped
        scoped.remove()


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(shared=False, base=DurableTask, name="ship")
    def ship(order: str) -> None: ...

    return ship


def sent(desk: Desk) -> list[str]:
    """The events whose dispatch was sent since the last call, and the runs whose message was."""
    wait_until(
        lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()),
        message="what a connection's commit has put off is done",
    )
    return sorted(
        message.decode()[0][0] if message.headers["task"] == DISPATCH else message.headers["id"]
        for message in desk.messages()
    )


def events(desk: Desk) -> list[str]:
    return sorted(event.id for event in desk.durable.events())


def things(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(thing)).scalar_one())


def write(caller: Any) -> None:
    caller.execute(thing.insert().values(name="x"))


def test_an_event_is_sent_once_it_is_committed(desk: Desk, engine: sa.Engine, caller: Any) -> None:
    # When
    write(caller)
    receipt = desk.durable.emit("thing.saved", {"a": 1}, key="x", event_id="e-1", session=caller)
    # Then
    assert (receipt.id, receipt.duplicate) == ("e-1", False)
    assert sent(desk) == []
    # When
    caller.commit()
    # Then
    assert (events(desk), things(engine)) == (["e-1"], 1)
    assert sent(desk) == ["e-1"]


def test_an_event_that_is_rolled_back_is_none(desk: Desk, engine: sa.Engine, caller: Any) -> None:
    # When
    write(caller)
    desk.durable.emit("thing.saved", event_id="e-1", session=caller)
    caller.rollback()
    # Then
    assert (events(desk), things(engine), sent(desk)) == ([], 0, [])
    # When it goes on
    desk.durable.emit("thing.saved", event_id="e-2", session=caller)
    caller.commit()
    # Then
    assert (events(desk), things(engine), sent(desk)) == (["e-2"], 0, ["e-2"])


def test_a_start_is_sent_once_it_is_committed(desk: Desk, task: Any, engine: sa.Engine, caller: Any) -> None:
    # When
    task.apply_async(("o-1",), task_id="r-1", session=caller)
    caller.rollback()
    # Then
    assert (desk.row("r-1"), sent(desk)) == (None, [])
    # When it is made twice
    for _ in range(2):
        assert task.apply_async(("o-2",), task_id="r-2", session=caller).id == "r-2"
    # Then
    assert sent(desk) == []
    # When
    caller.commit()
    # Then
    assert desk.durable.get("r-2").args == ["o-2"]
    assert sent(desk) == ["r-2"]


def test_a_session_that_is_closed_and_used_again(desk: Desk, engine: sa.Engine, task: Any) -> None:
    # Given
    session = Session(engine)
    task.apply_async(("o-1",), task_id="r-1", session=session)
    session.close()
    # When
    write(session)
    session.commit()
    session.close()
    # Then
    assert (desk.row("r-1"), things(engine), sent(desk)) == (None, 1, [])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_eager_run_may_use_the_session_that_started_it(app: Celery, engine: sa.Engine) -> None:
    # Given
    scoped = scoped_session(sessionmaker(engine))
    app.conf.task_always_eager = app.conf.task_eager_propagates = True

    @app.task(shared=False, base=DurableTask)
    def eager() -> None:
        write(scoped)
        scoped.commit()

    # When
    eager.apply_async(session=scoped)
    scoped.commit()
    # Then
    assert things(engine) == 1


# ---------------------------------------------------------------------------- savepoints


def test_a_savepoint_that_is_released_waits_for_the_commit(desk: Desk, engine: sa.Engine, caller: Any) -> None:
    # When
    write(caller)
    with caller.begin_nested():
        desk.durable.emit("thing.saved", event_id="e-1", session=caller)
    # Then
    assert sent(desk) == []
    # When
    caller.commit()
    # Then
    assert sent(desk) == ["e-1"]
    # When
    write(caller)
    with caller.begin_nested():
        desk.durable.emit("thing.saved", event_id="e-2", session=caller)
    caller.rollback()
    # Then
    assert (events(desk), things(engine), sent(desk)) == (["e-1"], 1, [])


def test_a_savepoint_that_is_rolled_back_has_recorded_nothing(desk: Desk, engine: sa.Engine, caller: Any) -> None:
    # When
    desk.durable.emit("thing.saved", event_id="outer", session=caller)
    with caller.begin_nested() as savepoint:
        write(caller)
        desk.durable.emit("thing.saved", event_id="inner", session=caller)
        savepoint.rollback()
    caller.commit()
    # Then
    assert (events(desk), things(engine)) == (["outer"], 0)
    assert "outer" in sent(desk)


def test_a_savepoint_that_is_rolled_back_sends_nothing(desk: Desk, task: Any, engine: sa.Engine, caller: Any) -> None:
    # When
    task.apply_async(("o-1",), task_id="outer", session=caller)
    with caller.begin_nested() as savepoint:
        task.apply_async(("o-1",), task_id="inner", session=caller)
        savepoint.rollback()
    caller.commit()
    # Then
    assert desk.row("inner") is None
    assert sent(desk) == ["outer"]


def test_an_event_that_is_there_is_a_duplicate(desk: Desk, engine: sa.Engine, caller: Any) -> None:
    # Given a transaction that has begun to read before the event comes
    caller.execute(sa.select(thing)).all()
    desk.durable.emit("thing.saved", {"a": 1}, event_id="e-1")
    assert sent(desk) == ["e-1"]
    # When
    assert desk.durable.emit("thing.saved", {"a": 1}, event_id="e-1", session=caller).duplicate
    caller.commit()
    # Then
    assert sent(desk) == []


def test_an_event_of_other_content_is_refused_and_the_transaction_goes_on(
    desk: Desk, engine: sa.Engine, caller: Any
) -> None:
    # Given
    desk.durable.emit("thing.saved", {"a": 1}, event_id="e-1")
    # When
    with pytest.raises(EventConflict, match="e-1"):
        desk.durable.emit("thing.saved", {"a": 2}, event_id="e-1", session=caller)
    write(caller)
    caller.commit()
    # Then
    assert (events(desk), things(engine)) == (["e-1"], 1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_first_use_may_be_in_a_transaction_that_has_written(desk: Desk, engine: sa.Engine, caller: Any) -> None:
    # Given
    desk.store._ready = False  # as in a process that begins
    sa.event.listen(desk.store.engine, "connect", lambda dbapi, _: dbapi.execute("PRAGMA busy_timeout = 200"))
    desk.store.engine.dispose()
    write(caller)
    # When
    desk.durable.emit("thing.saved", event_id="e-1", session=caller)
    caller.commit()
    # Then
    assert (events(desk), things(engine)) == (["e-1"], 1)


# ---------------------------------------------------------------------------- what is no session of this database


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (AsyncSession(), r"await session\.run_sync\(lambda session: emit\(\.\.\., session=session\)\)"),
        ("default", "a SQLAlchemy Session or Connection, or a Django connection, is expected"),
    ],
)
def test_what_is_no_session_is_refused_with_the_cure(desk: Desk, given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        desk.durable.emit("thing.saved", session=given)


def test_another_database_in_memory_is_refused(desk: Desk, task: Any) -> None:
    with Session(sa.create_engine("sqlite://")) as session:
        for attempt in (
            lambda: desk.durable.emit("thing.saved", session=session),
            lambda: task.apply_async(("o-1",), session=session),
        ):
            # When
            with pytest.raises(ConfigurationError) as refused:
                attempt()
            # Then
            assert "the session is on sqlite://, " in str(refused.value)
            assert desk.store.engine.url.render_as_string() in str(refused.value)
    assert events(desk) == sent(desk) == []


def test_another_database_of_the_same_kind_is_refused(
    desk: Desk, database_url: str, services: Services, tmp_path: Path
) -> None:
    kind = sa.make_url(database_url).get_backend_name()
    sqlite = contextlib.nullcontext(f"sqlite:///{tmp_path / 'another.db'}")
    with sqlite if kind == "sqlite" else getattr(services, kind).fresh() as url:
        # Given one with durable tables
        theirs = Desk(Celery("theirs", set_as_current=False))
        theirs.app.conf.durable_database_url = url
        theirs.durable.migrate()
        # When
        with Session(theirs.store.engine) as session, pytest.raises(ConfigurationError, match="the session is on"):
            desk.durable.emit("thing.saved", session=session)
        # Then
        assert events(theirs) == events(desk) == []
        theirs.store.engine.dispose()


# ---------------------------------------------------------------------------- other names of this database


def emits_in(desk: Desk, url: sa.URL) -> bool:
    engine = sa.create_engine(url)
    with Session(engine) as session:
        desk.durable.emit("thing.saved", event_id="e-1", session=session)
        session.commit()
    engine.dispose()
    return events(desk) == sent(desk) == ["e-1"]


def test_by_another_name(desk: Desk, database_url: str, tmp_path: Path) -> None:
    url = sa.make_url(database_url)
    if url.get_backend_name() == "sqlite":
        (tmp_path / "link.db").symlink_to(str(url.database))
        assert emits_in(desk, url.set(database=str(tmp_path / "link.db")))
    else:
        others = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}
        assert emits_in(desk, url.set(host=others.get(str(url.host), url.host)))


@pytest.mark.parametrize("database_url", ["postgresql", "mysql"], indirect=True)
def test_behind_a_proxy_the_mark_in_the_database_tells(desk: Desk, database_url: str) -> None:
    url = sa.make_url(database_url)
    proxy = Proxy(str(url.host), url.port or PORTS[url.get_backend_name()])
    try:
        assert emits_in(desk, url.set(host="127.0.0.1", port=proxy.port))
    finally:
        proxy.cut()


@pytest.mark.parametrize(
    ("database_url", "name", "socket"),
    [("postgresql", "host", "/var/run/postgresql"), ("mysql", "unix_socket", "/var/run/mysqld/mysqld.sock")],
    indirect=["database_url"],
)
def test_at_a_unix_socket_the_mark_in_the_database_tells(desk: Desk, database_url: str, name: str, socket: str) -> None:
    url = sa.make_url(database_url)
    if url.host not in ("127.0.0.1", "localhost") or not Path(socket).exists():
        pytest.skip(f"there is no socket of it at {socket}")
    assert emits_in(desk, url.set(host=None, port=None).update_query_dict({name: socket}))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql+psycopg://u@db/a", "postgresql+asyncpg://other:secret@db:5432/a", True),
        ("postgresql://localhost/a", "postgresql://127.0.0.1:5432/a?sslmode=require", True),
        ("postgresql://[::1]/a", "postgresql:///a", True),
        ("postgresql://db/a", "postgresql://db/b", False),
        ("postgresql://db/a", "postgresql://db:5433/a", False),
        ("postgresql:///a", "postgresql:///a?options=-csearch_path%3Db", False),
        ("mysql+pymysql://db/a", "mariadb+mysqldb://db:3306/a?charset=utf8mb4", True),
        ("mysql://localhost/a", "mysql:///a?unix_socket=/run/m", False),
        ("sqlite:////tmp/x.db", "sqlite+aiosqlite:////tmp/y/../x.db", True),
        ("sqlite:////tmp/x.db", "sqlite:///file:/tmp/x.db?uri=true", True),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/y.db", False),
        ("sqlite://", "sqlite://", False),
        ("sqlite:///file:x?mode=memory&uri=true", "sqlite:///file:x?mode=memory&uri=true", False),
    ],
)
def test_same_database(one: str, other: str, same: bool) -> None:
    assert same_database(one, other) is same
    assert same_database(other, sa.make_url(one)) is same
