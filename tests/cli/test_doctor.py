"""``doctor``: each check where all is well, where something is wrong, and what it says to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_durable import Durable
from celery_durable.cli import examining
from celery_durable.cli.tables import Screen
from celery_durable.core.duration import SECOND
from celery_durable.model import Health, LateRun
from celery_durable.store.store import Store
from celery_durable.worker.runtime import runtime_of
from tests.store.making import new_run, put

from .conftest import command_line

NAMES = [
    "broker", "database", "visibility", "schema", "clock", "sweeper", "stuck", "unsent", "untaken", "events", "paused",
]  # fmt: skip


@pytest.fixture
def patient(sqlite_url: str) -> Iterator[Celery]:
    """An app that is to be examined."""
    made = Celery("patient", broker="memory://", set_as_current=False)
    made.conf.update(durable_database_url=sqlite_url, broker_connection_timeout=2)
    yield made
    made.close()


def examined(app: Celery, exit_code: int) -> dict[str, Any]:
    told = json.loads(command_line(app, args=("doctor", "--json"), exit_code=exit_code).stdout)
    assert told["state"] == ("broken" if exit_code else told["state"])
    for finding in told["checks"]:
        assert (finding["advice"] is None) == (finding["state"] == "ok"), finding
    return {finding["check"]: finding for finding in told["checks"]}


def store_of(app: Celery, sweeps: bool = True) -> Store:
    store = runtime_of(app).store
    store.migrate()
    if sweeps:
        with store.link() as link:
            store.take_lease(link, "sweeper", "worker-1", 600 * SECOND)
    return store


# ------------------------------------------------------------------- servers


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_all_is_well(patient: Celery, request: pytest.FixtureRequest, broker: str, database_url: str) -> None:
    patient.conf.update(broker_url=request.getfixturevalue(f"{broker}_url"), durable_database_url=database_url)
    store_of(patient)
    result = command_line(patient, args=("doctor",))
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-2]] == [["ok", name] for name in NAMES]
    assert lines[-1] == "All is well."
    found = examined(patient, 0)
    assert ("visibility timeout is 1h" in found["visibility"]["found"]) == (broker == "redis")
    runtime_of(patient).store.engine.dispose()


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:1/0", "amqp://guest:secret@127.0.0.1:1//"])
def test_a_broker_that_is_away(patient: Celery, url: str) -> None:
    patient.conf.broker_url = url
    store_of(patient)
    result = command_line(patient, args=("doctor",), exit_code=1)
    assert result.stdout.startswith("broken   broker      ")
    assert "do: start it, or correct broker_url" in result.stdout
    assert "secret" not in result.stdout
    assert result.stdout.endswith("\n1 broken, 0 warnings.\n")
    assert examined(patient, 1)["database"]["state"] == "ok"


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me:secret@127.0.0.1:1/none", "mysql+pymysql://me:secret@127.0.0.1:1/none", "none://"]
)
def test_a_database_that_is_away(patient: Celery, url: str) -> None:
    patient.conf.durable_database_url = url
    found = examined(patient, 1)
    assert list(found) == ["broker", "database", "visibility"]
    assert found["database"]["state"] == "broken"
    assert "secret" not in found["database"]["found"]


def test_a_server_that_swallows_what_it_is_asked() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        examining._within(0.05, threading.Event().wait)


def test_a_broker_whose_driver_is_not_installed(patient: Celery) -> None:
    patient.conf.broker_url = "nothing://127.0.0.1"
    store_of(patient)
    found = examined(patient, 1)
    assert (found["broker"]["state"], found["visibility"]["state"]) == ("broken", "ok")


def test_tables_that_are_missing(patient: Celery, database_url: str) -> None:
    patient.conf.update(durable_database_url=database_url, durable_auto_migrate=False)
    found = examined(patient, 1)
    assert list(found)[-1] == "schema"
    assert found["schema"]["advice"] == "make them with:  celery -A proj durable migrate"
    assert Durable(patient).schema() == "missing", "it is not made by being looked at"


@pytest.mark.parametrize(("version", "says"), [("0001", "of an older version"), ("9999", "a newer celery-durable")])
def test_tables_of_another_version(patient: Celery, version: str, says: str) -> None:
    with store_of(patient).engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE durable_alembic_version SET version_num = '{version}'")
    assert says in examined(patient, 1)["schema"]["found"]


def test_a_wrong_setting(patient: Celery) -> None:
    patient.conf.durable_lease = "long"
    assert "durable_lease" in examined(patient, 1)["settings"]["found"]


@pytest.mark.parametrize(
    ("url", "conf", "state"),
    [
        ("redis://127.0.0.1:1", {}, "ok"),
        ("redis://127.0.0.1:1", {"durable_eta_horizon": "29m"}, "ok"),
        ("redis://127.0.0.1:1", {"durable_eta_horizon": "31m"}, "warning"),
        ("redis://127.0.0.1:1", {"broker_transport_options": {"visibility_timeout": 15}}, "warning"),
        ("redis://127.0.0.1:1", {"broker_transport_options": {"visibility_timeout": 20}}, "ok"),
        ("sqs://", {"durable_eta_horizon": "16m"}, "warning"),
        ("amqp://127.0.0.1:1", {}, "ok"),
        ("amqp://127.0.0.1:1", {"durable_eta_horizon": "29m"}, "warning"),
    ],
)
def test_the_visibility_timeout(patient: Celery, url: str, conf: dict[str, Any], state: str) -> None:
    patient.conf.update(broker_url=url, **conf)
    assert examining._visibility(patient, examining.settings_of(patient.conf.get)).state == state


# ------------------------------------------------------------------- runs


def test_nobody_sweeps(patient: Celery) -> None:
    store_of(patient, sweeps=False)
    finding = examined(patient, 1)["sweeper"]
    assert finding["state"] == "broken"
    assert "celery -A proj worker" in finding["advice"]


def test_runs_that_do_not_go_on(patient: Celery, database_url: str) -> None:
    patient.conf.durable_database_url = database_url
    store = store_of(patient)
    with store.link() as link:
        now = store.now(link)
        for run_id in ("well", "stuck", "unsent", "untaken", "paused"):
            store.start(link, new_run(run_id, task="shop.order"))
        put(store, link, "stuck", status="running", due_at=now - 3600 * SECOND, worker="w/1")
        put(store, link, "unsent", due_at=now - 120 * SECOND)
        put(store, link, "untaken", due_at=now + 40 * SECOND, sends=5)
        put(store, link, "paused", status="paused", due_at=None)
    found = examined(patient, 1)
    assert {name for name, finding in found.items() if finding["state"] != "ok"} == {
        "stuck", "unsent", "untaken", "paused",
    }  # fmt: skip
    assert found["stuck"]["found"].startswith(
        "1 run whose worker is gone, and that no other has taken over, the first for 1h: stuck (shop.order)"
    )
    assert found["unsent"]["found"].startswith("1 run due for more than a minute, and not sent, the first for 2m")
    assert found["untaken"]["found"] == "1 run sent 4 times or more, and taken by no worker: untaken (shop.order)"
    assert (found["untaken"]["state"], found["paused"]["state"]) == ("warning", "warning")
    store.engine.dispose()


def test_an_event_that_is_not_dispatched(patient: Celery) -> None:
    store = store_of(patient)
    Durable(patient).emit("ping")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE durable_event SET due_at = due_at - 600000000")
    assert "since 9m" in examined(patient, 1)["events"]["found"]


@pytest.mark.parametrize(("skew", "state"), [(0, "ok"), (1.5, "ok"), (-5, "warning"), (3600, "broken")])
def test_clocks_that_differ(skew: float, state: str) -> None:
    health = Health(clock=examining.now() + timedelta(seconds=skew))
    assert examining._clock(health, examining.now().timestamp()).state == state


def test_of_many_runs_some_are_named() -> None:
    late = tuple(LateRun(id=f"r{n}", task="t", status="pending", late=90.0 + n) for n in range(5))
    findings = {one.check: one for one in examining._runs(Health(clock=examining.now(), late=late))}
    assert findings["unsent"].found == (
        "5 runs due for more than a minute, and not sent, the first for 1m34s: r0 (t), r1 (t), r2 (t) and 2 more"
    )


def test_on_a_narrow_terminal_lines_end_between_words() -> None:
    """The terminal itself ends them anywhere, and begins the next one below the name of the check."""
    finding = examining._sweeper(Health(clock=examining.now()))
    lines = examining._told(finding, Screen(width=60))
    assert max(map(len, lines)) <= 60
    assert [line[:15].strip() for line in lines if line[:15].strip()] == ["✗  sweeper"]
    assert " ".join(" ".join(lines).split()).endswith("(one that starts sweeps within 10 s)")
    assert len(examining._told(finding, Screen())) == 2
