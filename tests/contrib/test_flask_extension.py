"""The Flask extension: what commits with rows, the app context in tasks, the command, and the prefixes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain
from flask import Flask, current_app, has_app_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, String

from celery_durable import ConfigurationError, Durable, DurableTask, Event, aio, on_event, step
from celery_durable.contrib.flask import CeleryDurable
from celery_durable.testing import DurableEnv

TOKEN = "a-token-of-the-tests"


class Shop:
    """A Flask site with all its parts, made by a factory as Flask's documentation has it."""

    def __init__(self, url: str, name: str = "shop") -> None:
        self.seen: list[Any] = []
        self.flask_app = Flask(name)
        self.flask_app.config.update(
            SQLALCHEMY_DATABASE_URI=url,
            CELERY={
                "broker_url": "memory://",
                "durable_database_url": url,
                "task_default_queue": f"flask-{uuid.uuid4().hex[:8]}",
                "task_always_eager": True,
                "durable_door_tokens": [TOKEN],
            },
        )
        self.celery_app = Celery(name, set_as_current=False)
        self.celery_app.config_from_object(self.flask_app.config["CELERY"])
        self.flask_app.extensions["celery"] = self.celery_app
        Durable(self.celery_app).migrate()
        self._declare_tasks()

    def add_database(self) -> SQLAlchemy:
        db = SQLAlchemy(self.flask_app)

        class Order(db.Model):  # type: ignore[name-defined]
            id = Column(String(40), primary_key=True)

        self.Order = Order
        with self.flask_app.app_context():
            db.create_all()
        return db

    def _declare_tasks(self) -> None:
        app, seen = self.celery_app, self.seen

        @app.task(shared=False, base=DurableTask, name="shop.ship")
        def ship(order: str) -> None:
            step.run("ship", lambda: seen.append(order))

        @app.task(shared=False, base=DurableTask, name="shop.placed", triggers=[on_event("order.placed")])
        def placed(event: Event) -> None:
            step.run("note", lambda: seen.append(event.payload))

        @app.task(shared=False, name="shop.ordinary")
        def ordinary() -> None: ...

        self.ship, self.ordinary = ship, ordinary


@pytest.fixture
def shop(sqlite_url: str) -> Iterator[Shop]:
    made = Shop(sqlite_url)
    yield made
    made.celery_app.close()


@pytest.fixture
def db(shop: Shop) -> SQLAlchemy:
    return shop.add_database()


@pytest.fixture
def durable(shop: Shop, db: SQLAlchemy) -> CeleryDurable:
    made = CeleryDurable(db=db)
    made.init_app(shop.flask_app)
    return made


def place(shop: Shop, db: SQLAlchemy, durable: CeleryDurable, order: str) -> None:
    db.session.add(shop.Order(id=order))
    durable.emit("order.placed", f"placed {order}", key=order)
    durable.start(shop.ship, order)


# -- Commits with the rows


def test_events_and_starts_commit_with_the_rows(shop: Shop, db: SQLAlchemy, durable: CeleryDurable) -> None:
    with shop.flask_app.app_context():
        place(shop, db, durable, "o-1")
        assert shop.seen == []
        db.session.commit()
        assert sorted(shop.seen) == ["o-1", "placed o-1"]
        assert db.session.get(shop.Order, "o-1") is not None


def test_a_request_that_fails_leaves_neither(shop: Shop, db: SQLAlchemy, durable: CeleryDurable) -> None:
    @shop.flask_app.post("/orders")
    def view() -> Any:
        place(shop, db, durable, "o-1")
        raise ValueError("the payment was refused")

    assert shop.flask_app.test_client().post("/orders").status_code == 500
    with shop.flask_app.app_context():
        assert db.session.get(shop.Order, "o-1") is None
        assert len(durable.durable.runs()) == len(durable.durable.events()) == 0
    assert shop.seen == []


def test_a_signature_brings_its_options(shop: Shop, db: SQLAlchemy, durable: CeleryDurable) -> None:
    with shop.flask_app.app_context():
        result = durable.start(shop.ship.s("o-1").set(task_id="ship-o-1", headers={"note": "x"}))
        assert result.id == "ship-o-1"
        db.session.commit()
        assert durable.durable.get("ship-o-1").status == "completed"


def test_without_a_database_they_are_done_at_once(shop: Shop) -> None:
    durable = CeleryDurable(shop.celery_app, shop.flask_app)
    with shop.flask_app.app_context():
        durable.emit("order.placed", "placed o-1", event_id="one")
        durable.start(shop.ship, order="o-1")
    assert shop.seen == ["placed o-1", "o-1"]


def test_what_has_no_record_is_not_started(shop: Shop, durable: CeleryDurable) -> None:
    wrong: list[Any] = [
        shop.ordinary, shop.ordinary.s(), chain(shop.ship.s("o-1"), shop.ship.si("o-2")), "shop.ship", print
    ]  # fmt: skip
    with shop.flask_app.app_context():
        for task in wrong:
            with pytest.raises(TypeError, match="a durable task of the Celery app 'shop' is expected"):
                durable.start(task)
        with pytest.raises(TypeError, match="has its arguments already"):
            durable.start(shop.ship.s("o-1"), "o-2")


# -- Which apps


def test_one_object_serves_several_apps(shop: Shop, db: SQLAlchemy, durable: CeleryDurable, tmp_path: Path) -> None:
    other = Shop(f"sqlite:///{tmp_path}/other.db", "other")
    other.flask_app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/other.db"
    db.init_app(other.flask_app)
    durable.init_app(other.flask_app)
    with other.flask_app.app_context():
        durable.start(shop.ship, "o-1")  # the other Celery app's task of this name
        db.session.commit()
    assert (shop.seen, other.seen) == ([], ["o-1"])
    other.celery_app.close()


def test_what_is_not_set_up_is_said() -> None:
    bare = Flask("bare")
    with pytest.raises(ConfigurationError, match="has no Celery app for the Flask app 'bare'"):
        CeleryDurable(flask_app=bare)
    durable = CeleryDurable(Celery("shop", set_as_current=False))
    with pytest.raises(ConfigurationError, match="'bare' knows no CeleryDurable"):
        durable.mount(bare)
    durable.init_app(bare)
    with pytest.raises(ConfigurationError, match="init_app was called twice"):
        durable.init_app(bare)


# -- The app context in tasks


def test_bodies_and_steps_have_the_app_context(shop: Shop, db: SQLAlchemy, durable: CeleryDurable) -> None:
    contexts: dict[str, Any] = {}

    def work(name: str) -> str:
        contexts[name] = (db.session(), threading.current_thread())
        return current_app.name

    def save(order: str) -> None:
        db.session.add(shop.Order(id=order))
        if order == "kept":
            db.session.commit()

    @shop.celery_app.task(shared=False, base=DurableTask, name="shop.contexts")
    def contexts_of() -> list[str]:
        names = [current_app.name, step.run("alone", work, "alone")]
        with step.parallel() as p:
            futures = [p.run("left", work, "left"), p.run("right", work, "right")]
        step.run("kept", save, "kept")
        step.run("forgotten", save, "forgotten")
        return names + [future.result() for future in futures]

    assert contexts_of.delay().get() == ["shop"] * 4
    sessions = {session for session, _ in contexts.values()}
    assert len(sessions) == 3  # no two threads have one together
    assert contexts["left"][1] is not contexts["right"][1]
    with shop.flask_app.app_context():
        assert [row.id for row in db.session.query(shop.Order)] == ["kept"]
    assert not has_app_context()


def test_so_have_async_ones(shop: Shop, durable: CeleryDurable) -> None:
    async def name() -> str:
        return current_app.name

    @shop.celery_app.task(shared=False, base=DurableTask, name="shop.awaited")
    async def awaited() -> list[str]:
        import asyncio

        both = await asyncio.gather(aio.step.run("a", name), aio.step.run("b", lambda: current_app.name))
        return [current_app.name, *both]

    assert awaited.delay().get() == ["shop"] * 3
    assert not has_app_context()


def test_so_have_runs_of_the_testing_kit(shop: Shop, durable: CeleryDurable) -> None:
    @shop.celery_app.task(shared=False, base=DurableTask, name="shop.tested")
    def tested() -> list[str]:
        step.sleep("1d")
        return [current_app.name, step.run("name", lambda: current_app.name)]

    with DurableEnv(shop.celery_app) as env:
        run = env.start(tested)
        env.advance("1d")
        assert run.result == ["shop", "shop"]


def test_a_task_of_another_celery_app_has_none(durable: CeleryDurable, tmp_path: Path) -> None:
    other = Shop(f"sqlite:///{tmp_path}/other.db", "other")

    @other.celery_app.task(shared=False, base=DurableTask, name="other.bare")
    def bare() -> bool:
        return has_app_context()

    assert bare.delay().get() is False
    other.celery_app.close()


# -- The command, and the prefixes


def test_the_command_is_that_of_celery(shop: Shop, durable: CeleryDurable) -> None:
    runner = shop.flask_app.test_cli_runner()
    assert "up to date" in runner.invoke(args=["durable", "migrate"]).output
    with shop.flask_app.app_context():
        shop.ship.apply_async(("o-1",), task_id="ship-o-1")
    assert '"ship-o-1"' in runner.invoke(args=["durable", "runs", "--json"]).output
    missing = runner.invoke(args=["durable", "show", "nothing"])
    assert (missing.exit_code, "nothing" in missing.output) == (1, True)
    assert "migrate" in runner.invoke(args=["durable", "--help"]).output


def test_both_doors_are_mounted_where_it_is_said(shop: Shop, durable: CeleryDurable) -> None:
    durable.mount(shop.flask_app, events="/hooks", console="/ops/console", guard=lambda view: view, who=lambda: "ada")
    client = shop.flask_app.test_client()
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post("/hooks/events/order.placed", json={"payload": "paid"}, headers=bearer).status_code == 202
    assert client.post("/hooks/events/order.placed", json={}).status_code == 401
    assert client.get("/ops/console/").status_code == 200
    assert shop.seen == ["paid"]


def test_one_of_them_can_be_left_out(shop: Shop, durable: CeleryDurable) -> None:
    durable.mount(shop.flask_app, console=None)
    assert [rule.rule for rule in shop.flask_app.url_map.iter_rules()][1:] == ["/durable/events/<event>"]
