"""A FastAPI app with SQLAlchemy: routes that run in a thread pool, and async ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from celery import Celery
from fastapi import Body, Depends, FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from celery_durable import emit
from celery_durable.contrib.asgi import events_app
from tests.web.work import DATABASE, celery_config, declare

celery = Celery("fastapi_site")
celery.conf.update(celery_config())
tasks = declare(celery)

app = FastAPI()
app.mount("/durable", events_app(celery))
engine = create_engine(DATABASE)
async_engine = create_async_engine(DATABASE)
insert = text("INSERT INTO thing (name) VALUES (:name)")


def a_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


async def an_async_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(async_engine) as session:
        yield session


Given = Annotated[dict[str, Any], Body()]
ASession = Annotated[Session, Depends(a_session)]
AnAsyncSession = Annotated[AsyncSession, Depends(an_async_session)]


class Broken(Exception):
    """What goes wrong in a route."""


@app.post("/verify/{user}")
def verify(user: str) -> dict[str, str]:
    """In a thread of the pool, where Celery has no current app."""
    return {"event": emit("email.verified", {"user": user}, key=f"user:{user}").id}


@app.post("/async-verify/{user}")
async def async_verify(user: str) -> dict[str, str]:
    """In the thread of the event loop."""
    return {"event": emit("email.verified", {"user": user}, key=f"user:{user}").id}


@app.post("/things/{name}")
def save_thing(name: str, given: Given, session: ASession) -> dict[str, str]:
    """A row and an event in one transaction, which ``fail`` rolls back."""
    with session.begin():
        session.execute(insert, {"name": name})
        emit("thing.saved", given.get("payload"), key=name, session=session)
        if given.get("fail"):
            raise Broken("the route fails after both")
    return {}


@app.post("/savepoints/{name}")
def save_in_savepoint(name: str, session: ASession) -> dict[str, str]:
    """The same in a savepoint that is rolled back, within a transaction that commits."""
    with session.begin():
        session.execute(insert, {"name": f"{name}-outer"})
        emit("thing.saved", "outer", key=f"{name}-outer", session=session)
        with session.begin_nested() as savepoint:
            session.execute(insert, {"name": f"{name}-inner"})
            emit("thing.saved", "inner", key=f"{name}-inner", session=session)
            savepoint.rollback()
    return {}


@app.post("/connections/{name}")
def save_by_connection(name: str, given: Given) -> dict[str, str]:
    """The same by a connection, without any session."""
    with engine.begin() as connection:
        connection.execute(insert, {"name": name})
        emit("thing.saved", given.get("payload"), key=name, session=connection)
        if given.get("fail"):
            raise Broken("the route fails after both")
    return {}


@app.post("/async-things/{name}")
async def save_thing_async(name: str, given: Given, session: AnAsyncSession) -> Any:
    """The same in an async session, handed over as it is (``wrong``), or inside its ``run_sync``."""
    if given.get("wrong"):
        try:
            emit("thing.saved", key=name, session=session)
        except TypeError as error:
            return JSONResponse({"refused": str(error)}, 409)
    async with session.begin():
        await session.execute(insert, {"name": name})
        await session.run_sync(lambda session: emit("thing.saved", given.get("payload"), key=name, session=session))
        if given.get("fail"):
            raise Broken("the route fails after both")
    return {}


@app.post("/starts/{run}")
def start(run: str, given: Given, session: ASession) -> dict[str, str]:
    """A row and the start of a run in one transaction, which ``fail`` rolls back."""
    with session.begin():
        session.execute(insert, {"name": run})
        tasks["wait_for"].apply_async(("thing.saved", run), task_id=run, queue=given.get("queue"), session=session)
        if given.get("fail"):
            raise Broken("the route fails after both")
    return {}
