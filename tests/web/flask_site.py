"""A Flask app with Flask-SQLAlchemy and our extension."""

from __future__ import annotations

from typing import Any

from blinker import Namespace
from celery import Celery
from celery.signals import task_success
from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, Integer, String
from sqlalchemy.orm import Session

from celery_durable import ConfigurationError, DurableTask, connect, emit, step
from celery_durable.contrib.flask import CeleryDurable
from tests.web.work import DATABASE, OTHER_DATABASE, celery_config, declare

celery = Celery("flask_site")
celery.conf.update(celery_config())
tasks = declare(celery)

app = Flask("flask_site")
app.config["SQLALCHEMY_DATABASE_URI"] = DATABASE
app.config["SQLALCHEMY_BINDS"] = {"other": f"sqlite:///{OTHER_DATABASE}"}
db = SQLAlchemy(app)
durable = CeleryDurable(celery, app, db)
durable.mount(app, events="/durable", console=None)

signals = Namespace()
thing_sold = signals.signal("thing-sold")
connect(thing_sold, "thing.sold", key=lambda sender, name: name, payload=lambda sender, name: {"by": sender})
connect(
    task_success,
    "ordinary.done",
    sender=tasks["ordinary"],
    key=lambda sender, result, **_: result,
    payload=lambda sender, result, **_: {"task": sender.name},
)


@celery.task(base=DurableTask, name="web.save")
def save(name: str) -> str:
    """A row by the session of the task's own app context."""
    return step.run("save", save_and_tell, name)


def save_and_tell(name: str) -> str:
    db.session.add(Thing(name=name))
    db.session.commit()
    return current_app.name


class Thing(db.Model):  # type: ignore[name-defined]
    __tablename__ = "thing"
    id = Column(Integer, primary_key=True)
    name = Column(String(100), nullable=False)


class Broken(Exception):
    """What goes wrong in a view."""


@app.post("/verify/<user>")
def verify(user: str) -> ResponseReturnValue:
    """Without a transaction."""
    return {"event": emit("email.verified", {"user": user}, key=f"user:{user}").id}


@app.post("/things/<name>")
def save_thing(name: str) -> ResponseReturnValue:
    """A row and an event in one transaction, which ``fail`` rolls back."""
    given: Any = request.get_json()
    db.session.add(Thing(name=name))
    durable.emit("thing.saved", given.get("payload"), key=name)
    if given.get("fail"):
        raise Broken("the view fails after both")
    db.session.commit()
    return {}


@app.post("/savepoints/<name>")
def save_in_savepoint(name: str) -> ResponseReturnValue:
    """The same in a savepoint that is rolled back, within a transaction that commits."""
    db.session.add(Thing(name=f"{name}-outer"))
    emit("thing.saved", "outer", key=f"{name}-outer", session=db.session)
    try:
        with db.session.begin_nested():
            db.session.add(Thing(name=f"{name}-inner"))
            emit("thing.saved", "inner", key=f"{name}-inner", session=db.session)
            raise Broken("the savepoint fails")
    except Broken:
        db.session.commit()
    return {}


@app.post("/starts/<run>")
def start(run: str) -> ResponseReturnValue:
    """A row and the start of a run in one transaction; ``savepoint`` and ``fail`` say what is rolled back."""
    given: Any = request.get_json()
    signature = tasks["wait_for"].s("thing.saved", run).set(task_id=run, queue=given.get("queue"))
    db.session.add(Thing(name=f"{run}-outer"))
    try:
        with db.session.begin_nested():
            db.session.add(Thing(name=run))
            durable.start(signature)
            if given.get("savepoint"):
                raise Broken("the savepoint fails")
    except Broken:
        pass
    if given.get("fail"):
        raise Broken("the view fails after both")
    db.session.commit()
    return {}


@app.post("/elsewhere/<name>")
def emit_elsewhere(name: str) -> ResponseReturnValue:
    """Emit in a session on another database."""
    with Session(db.engines["other"]) as session:
        try:
            emit("thing.saved", key=name, session=session)
        except ConfigurationError as error:
            return {"refused": str(error)}, 409
        session.commit()
    return {}


@app.post("/sell/<name>")
def sell(name: str) -> ResponseReturnValue:
    """Send a signal of blinker."""
    thing_sold.send("the shop", name=name)
    return {}


@app.post("/ordinary/<value>")
def do_ordinary(value: str) -> ResponseReturnValue:
    """Start an ordinary task of Celery's."""
    tasks["ordinary"].delay(value)
    return {}
