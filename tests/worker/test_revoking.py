"""``revoke``: of durable runs, which are cancelled in the database, and of anything else, which is Celery's."""

from __future__ import annotations

import logging
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.control import Control
from celery.result import GroupResult
from celery.worker.control import Panel
from celery.worker.state import revoked as refused_here
from sqlalchemy.exc import DBAPIError

from celery_durable import DurableTask, step
from celery_durable.core.duration import SECOND
from celery_durable.engine.keeper import Keeper
from celery_durable.store.records import Claim, Outcome
from celery_durable.worker.revoking import DurableControl, hear_revokes
from celery_durable.worker.runtime import _runtimes
from tests.waiting import wait_until
from tests.worker.conftest import Desk

Told = list[dict[str, Any]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What is broadcast to the workers."""
    commands: Told = []

    def broadcast(self: Any, command: str, **options: Any) -> Any:
        commands.append({"command": command, **options["arguments"]})
        return ["heard"] if options.get("reply") else None

    monkeypatch.setattr(Control, "broadcast", broadcast)
    return commands


def new_tasks(app: Celery) -> tuple[Any, Any]:
    @app.task(shared=False, base=DurableTask, name="waits")
    def waits(key: str = "k") -> None:
        step.wait_for_event("never", key=key)

    @app.task(shared=False, name="plain")
    def plain() -> None: ...

    app.finalize()
    return waits, plain


@pytest.fixture
def waits(app: Celery) -> Any:
    return new_tasks(app)[0]


def parked(waits: Any, run_id: str) -> str:
    """A run that has begun, and waits: executed eagerly it gives up, and stays as it is."""
    waits.apply(task_id=run_id)
    return run_id


def started(desk: Desk, waits: Any, run_id: str) -> str:
    """A run that nobody has taken yet, its message taken away."""
    waits.apply_async(task_id=run_id)
    desk.messages()
    return run_id


def claim(desk: Desk, run_id: str) -> Claim:
    with desk.store.link() as link:
        claimed = desk.store.claim(link, run_id, worker="test", lease=60 * SECOND)
    assert isinstance(claimed, Claim)
    return claimed


def hear(app: Any, command: str = "revoke", **arguments: Any) -> Any:
    """What a worker does that is told."""
    hear_revokes()  # when it starts
    state = SimpleNamespace(app=app, consumer=SimpleNamespace(pool=None), hostname="w")
    return Panel.data[command](state, **arguments)


def fresh() -> str:
    return uuid.uuid4().hex


# ------------------------------------------------------------------- by whoever has the app


@pytest.mark.parametrize("many", [list, tuple, set, None])
def test_a_parked_run_is_cancelled_and_no_worker_is_told(desk: Desk, waits: Any, told: Told, many: Any) -> None:
    run_id = parked(waits, fresh())
    desk.app.control.revoke(run_id if many is None else many([run_id]))
    assert desk.row(run_id)["cancelling"] == "revoked"
    (message,) = desk.messages()
    assert message.headers["id"] == run_id, "its body is to be told"
    assert told == []


def test_every_way_to_ask(desk: Desk, waits: Any, told: Told) -> None:
    ids = [parked(waits, fresh()) for _ in range(4)]
    desk.app.AsyncResult(ids[0]).revoke()
    desk.app.AsyncResult(ids[1]).revoke(wait=True, timeout=1)
    GroupResult(fresh(), [desk.app.AsyncResult(run_id) for run_id in ids[2:]], app=desk.app).revoke()
    assert [desk.row(run_id)["cancelling"] for run_id in ids] == ["revoked"] * 4
    assert told == []


def test_a_run_that_has_not_begun_ends_at_once(desk: Desk, waits: Any, told: Told) -> None:
    run_id = started(desk, waits, fresh())
    desk.app.AsyncResult(run_id).revoke()
    assert desk.row(run_id)["status"] == "cancelled"
    (message,) = desk.messages()
    assert message.headers["id"] == run_id, "a worker is to tell Celery"


def test_a_run_that_is_executed_is_taken_from_its_worker_after_its_step(desk: Desk, waits: Any, told: Told) -> None:
    run_id = started(desk, waits, fresh())
    fence = claim(desk, run_id).fence
    desk.app.AsyncResult(run_id).revoke()
    row = desk.row(run_id)
    assert (row["status"], row["cancelling"], row["waiting_on"]) == (
        "suspended", "revoked", "the step that is under way",
    )  # fmt: skip
    with desk.store.link() as link:
        assert desk.store.hand_back(link, fence, [], {}) == ("suspended", "its cancelling")
    assert desk.row(run_id)["token"] != fence.token


@pytest.mark.parametrize("state", ["parked", "executed", "started"])
def test_by_force_it_ends_where_it_stands(desk: Desk, waits: Any, told: Told, state: str) -> None:
    run_id = parked(waits, fresh()) if state == "parked" else started(desk, waits, fresh())
    if state == "executed":
        claim(desk, run_id)
    desk.app.control.terminate(run_id, signal="SIGKILL")
    assert desk.row(run_id)["status"] == "cancelled"
    assert told == [{"command": "revoke", "task_id": [run_id], "terminate": True, "signal": "SIGKILL"}]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_run_that_has_ended_is_left_alone(desk: Desk, waits: Any, told: Told, status: str) -> None:
    """Nor is any worker told to refuse it: it may be retried."""
    run_id = started(desk, waits, fresh())
    fence = claim(desk, run_id).fence
    with desk.store.link() as link:
        ended = desk.store.finish(link, fence, status=status, now=1, lease=SECOND, result="7")
        desk.store.mark_delivered(link, [fence])
    assert ended is not None
    desk.app.AsyncResult(run_id).revoke()
    assert desk.row(run_id)["status"] == status
    assert desk.row(run_id)["cancelling"] is None
    assert desk.messages() == []
    assert told == []


def test_it_is_in_the_audit_log(desk: Desk, waits: Any, told: Told) -> None:
    run_id = parked(waits, fresh())
    for _ in range(2):
        desk.app.AsyncResult(run_id).revoke()
    (deed,) = desk.durable.get(run_id).audit
    assert (deed.action, deed.reason) == ("cancel", "revoked")


def test_a_process_marks_that_it_has_told_celery_of_an_end_though_it_has_executed_nothing(
    desk: Desk, waits: Any, told: Told
) -> None:
    """Else the next one tells it again when the lease ends, and so on: with all callbacks."""
    run_id = started(desk, waits, fresh())
    desk.app.AsyncResult(run_id).revoke()
    with desk.store.link() as link:
        ended = desk.store.claim(link, run_id, worker="test", lease=60 * SECOND)
    assert isinstance(ended, Outcome)
    Keeper(desk.store, SECOND).delivered(ended.fence)
    wait_until(lambda: desk.row(run_id)["delivered_at"], 3, "it is marked")


# ------------------------------------------------------------------- other tasks


def test_ordinary_tasks_are_left_to_celery(desk: Desk, told: Told) -> None:
    _, plain = new_tasks(desk.app)
    result = plain.delay()
    result.revoke()
    result.revoke(terminate=True, signal="SIGKILL")
    desk.app.control.revoke([result.id, "nobody"], destination=["w1@host"])
    plain_ones = [(one["task_id"], one["terminate"]) for one in told]
    assert plain_ones == [([result.id], False), ([result.id], True), ([result.id, "nobody"], False)]
    assert [one["signal"] for one in told] == [None, "SIGKILL", "SIGTERM"]


def test_a_mixture_goes_each_its_way(desk: Desk, told: Told) -> None:
    waits, plain = new_tasks(desk.app)
    run_id, other = parked(waits, fresh()), plain.delay().id
    replies = desk.app.control.revoke([other, run_id], reply=True)
    assert desk.row(run_id)["cancelling"] == "revoked"
    assert [one["task_id"] for one in told] == [[other]]
    assert replies == ["heard"]


def test_an_app_without_durable_tasks_has_its_own_control() -> None:
    app = Celery("plain", set_as_current=False)
    assert type(app.control) is Control


# ------------------------------------------------------------------- by a worker


def test_a_worker_that_is_told_cancels(desk: Desk, waits: Any) -> None:
    """As from the command line, or from an app that knows nothing of durable tasks."""
    ids = [parked(waits, fresh()) for _ in range(2)]
    assert hear(desk.app, task_id=ids[0])["ok"] == f"tasks {ids[0]} are durable runs, and are cancelled"
    hear(desk.app, task_id=[ids[1]])
    assert [desk.row(run_id)["cancelling"] for run_id in ids] == ["revoked"] * 2
    assert not set(ids) & set(refused_here), "its next message is to be executed"


def test_a_second_worker_that_is_told_changes_nothing(desk: Desk, waits: Any) -> None:
    """By then another one may clean up: that is not to be interrupted, and begun again."""
    run_id = parked(waits, fresh())
    hear(desk.app, task_id=[run_id])
    fence = claim(desk, run_id).fence
    hear(desk.app, task_id=[run_id])
    row = desk.row(run_id)
    assert (row["status"], row["token"]) == ("running", fence.token)
    assert len(desk.durable.get(run_id).audit) == 1


@pytest.mark.parametrize("command", ["revoke", "terminate"])
def test_a_worker_that_is_told_to_use_force(desk: Desk, waits: Any, command: str) -> None:
    """``celery control terminate KILL id`` is a command of its own."""
    run_id = parked(waits, fresh())
    more = {"terminate": True} if command == "revoke" else {}
    hear(desk.app, command, task_id=[run_id], signal="KILL", **more)
    assert desk.row(run_id)["status"] == "cancelled"


def test_a_worker_refuses_ordinary_tasks(desk: Desk) -> None:
    waits, _ = new_tasks(desk.app)
    run_id, other = parked(waits, fresh()), fresh()
    hear(desk.app, task_id=[run_id, other])
    assert other in refused_here
    assert run_id not in refused_here
    assert desk.app.AsyncResult(other).state == "REVOKED", "as Celery has it since 5.7"


def test_a_worker_without_durable_tasks_is_as_it_was() -> None:
    app = Celery("plain", backend="cache+memory://", set_as_current=False)
    task_id = fresh()
    hear(app, task_id=[task_id])
    assert task_id in refused_here
    assert app not in _runtimes, "no database was looked for"


# ------------------------------------------------------------------- controls of others


class Louder(Control):
    """A project's own control."""

    calls: list[Any] = []  # noqa: RUF012

    def revoke(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(task_id)
        return super().revoke(task_id, *args, **kwargs)


@pytest.mark.parametrize("named", [True, False])
def test_a_control_of_ones_own_is_kept(sqlite_url: str, told: Told, named: bool) -> None:
    """Then the workers do it, that hear of it."""
    control = f"{__name__}:Louder" if named else Louder
    app = Celery("own", broker="memory://", backend="cache+memory://", control=control, set_as_current=False)
    app.conf.durable_database_url = sqlite_url
    waits, _ = new_tasks(app)
    run_id = parked(waits, fresh())
    assert type(app.control).__name__ == "Louder"
    app.AsyncResult(run_id).revoke()
    assert Louder.calls[-1] == run_id
    (command,) = told
    hear(app, **{name: value for name, value in command.items() if name != "command"})
    assert Desk(app).row(run_id)["cancelling"] == "revoked"


def test_a_control_that_was_made_before_the_first_durable_task(desk: Desk, told: Told) -> None:
    early = desk.app.control
    waits, _ = new_tasks(desk.app)
    run_id = parked(waits, fresh())
    assert type(early) is Control
    assert type(desk.app.control) is DurableControl
    desk.app.AsyncResult(run_id).revoke()
    assert desk.row(run_id)["cancelling"] == "revoked"


# ------------------------------------------------------------------- the database is away


@pytest.fixture
def away(tmp_path: Any, told: Told) -> Celery:
    app = Celery("away", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.durable_database_url = f"sqlite:///{tmp_path}/no/such/folder/durable.db"
    new_tasks(app)
    return app


def test_without_the_database_it_is_celerys_revoke(away: Celery, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    """The workers refuse its next message at least, and it is said."""
    run_id = fresh()
    with caplog.at_level(logging.ERROR, "celery_durable"):
        away.AsyncResult(run_id).revoke()
        hear(away, task_id=[run_id])
    assert [one["task_id"] for one in told] == [[run_id]]
    assert run_id in refused_here
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(one.startswith(f"whether ['{run_id}'] are durable runs") for one in said)


def test_a_database_that_goes_away_in_between_is_an_error(
    desk: Desk, waits: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever revokes is not to believe that it is done."""
    run_id = parked(waits, fresh())

    def fail(*_: Any, **__: Any) -> Any:
        raise DBAPIError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(type(desk.store), "cancel", fail)
    with pytest.raises(DBAPIError):
        desk.app.AsyncResult(run_id).revoke()
    assert desk.row(run_id)["cancelling"] is None


def test_the_broker_is_away(sqlite_url: str, closed_port: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is cancelled all the same: the sweeper sends what could not be sent."""
    app = Celery("alone", broker=closed_port, backend="cache+memory://", set_as_current=False)
    app.conf.update(durable_database_url=sqlite_url, broker_transport_options={"max_retries": 0})
    waits, _ = new_tasks(app)
    run_id = parked(waits, fresh())
    with caplog.at_level(logging.WARNING, "celery_durable"):
        app.AsyncResult(run_id).revoke()
    assert "could not be told" in caplog.text
    row = Desk(app).row(run_id)
    assert row["cancelling"] == "revoked"
    assert row["due_at"] is not None
