"""A database that goes away: when a run is started, in the middle of a pass, at its end, and for good."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from celery_durable import Durable, DurableTask, Retry, step
from celery_durable.core.boundary import Boundary
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.engine.events import event_of, new_event
from celery_durable.engine.executor import Ended, Finished, Gone, Parked, execute
from celery_durable.engine.passing import Pass
from celery_durable.engine.settings import Settings
from celery_durable.store.records import Claim, NewRun, Outcome
from celery_durable.store.store import Store
from tests.proxy import Proxy
from tests.waiting import wait_until

PORTS = {"postgresql": 5432, "mysql": 3306}


class Silent:
    """A dispatcher whose messages nobody needs."""

    def may_send_ahead(self, delay: int) -> bool:
        return False

    def wake(self, delay: int) -> None: ...

    def target(self, signature: Any, queue: str | None) -> Any:
        raise AssertionError("nothing is called here")

    def task_name(self) -> str:
        return "task"

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        raise AssertionError("nothing is begun anew here")

    def tell(self, what: str, **facts: Any) -> None: ...

    def follow(self, aftermath: Any) -> None:
        raise AssertionError("nothing is called here")

    def emitted(self, event_id: str, name: str, key: str | None) -> None: ...

    def announce(self, waiting_on: str, wake_at: int | None) -> None: ...

    def stopping(self) -> bool:
        return False


class Away:
    """A store behind a proxy, and one run in it."""

    def __init__(self, url: str, lease: float) -> None:
        parsed = make_url(url)
        self.proxy = Proxy(parsed.host or "127.0.0.1", parsed.port or PORTS[parsed.get_backend_name()])
        proxied = parsed.set(host="127.0.0.1", port=self.proxy.port)
        self.url = proxied.render_as_string(hide_password=False)
        self.store = Store(self.url)
        self.store.migrate()
        self.settings = Settings(lease=int(lease * SECOND), step_retry=Retry(max_attempts=1))
        self.calls: list[str] = []

    def start(self) -> None:
        with self.store.link() as link:
            assert self.store.start(link, NewRun("run", "task", "[[],{}]", "", "{}"))

    def call(self, name: str) -> str:
        self.calls.append(name)
        return name

    def execute(self, body: Callable[[], Any]) -> Ended:
        with self.store.link() as link:
            claim = self.store.claim(link, "run", worker="test", lease=self.settings.lease, patience=5)
            assert isinstance(claim, Claim), claim
            run = Pass(
                claim,
                store=self.store,
                link=link,
                settings=self.settings,
                dispatcher=Silent(),
                step_retry=self.settings.step_retry,
            )
            return execute(run, body, Boundary())

    def cut_for(self, seconds: float) -> None:
        self.proxy.cut()
        threading.Timer(seconds, self.proxy.restore).start()


@pytest.fixture(params=["postgresql", "mysql"])
def away(request: pytest.FixtureRequest) -> Iterator[Away]:
    made = Away(request.getfixturevalue(f"{request.param}_url"), lease=5)
    yield made
    made.store.engine.dispose()
    made.proxy.cut()


def test_a_blink_in_a_step_repeats_nothing(away: Away) -> None:
    away.start()

    def body() -> list[str]:
        first = step.run("first", away.call, "first")

        def second() -> str:
            away.cut_for(0.7)
            return away.call("second")

        return [first, step.run("second", second), step.run("third", away.call, "third")]

    assert away.execute(body) == Finished(["first", "second", "third"])
    assert away.calls == ["first", "second", "third"]


def test_a_blink_at_the_end_still_finishes_the_run(away: Away) -> None:
    away.start()

    def body() -> str:
        step.run("only", away.call, "only")
        away.cut_for(0.7)
        return "done"

    assert away.execute(body) == Finished("done")
    with away.store.link() as link:
        found = away.store.get(link, "run")
    assert found is not None
    assert found[0]["status"] == "completed"


def test_a_transaction_whose_connection_breaks_takes_effect_once(away: Away) -> None:
    away.start()
    with away.store.link() as link:
        link.run(lambda connection: connection.exec_driver_sql("CREATE TABLE effect (what VARCHAR(20))"))

    attempts = []

    def write(session: Any) -> int:
        attempts.append(1)
        session.connection().exec_driver_sql("INSERT INTO effect VALUES ('paid')")
        if len(attempts) == 1:
            away.proxy.cut()
            away.proxy.restore()
        return len(attempts)

    def body() -> Any:
        return step.options(retry=Retry(max_attempts=3, delay=0)).transaction("pay", write)

    assert away.execute(body) == Finished(2)
    with away.store.link() as link:
        assert link.run(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM effect").scalar()) == 1


def test_a_pass_gives_up_after_its_lease_and_another_goes_on(request: pytest.FixtureRequest) -> None:
    away = Away(request.getfixturevalue("postgresql_url"), lease=1)
    away.start()

    def second() -> str:
        if "second" not in away.calls:
            away.proxy.cut()
        return away.call("second")

    def body() -> list[str]:
        return [step.run("first", away.call, "first"), step.run("second", second)]

    began = time.monotonic()
    assert isinstance(away.execute(body), Gone)
    assert time.monotonic() - began < 10
    away.proxy.restore()
    with away.store.link() as link:
        (due,) = wait_until(lambda: away.store.due(link, 10), 5, "the lease ends")
        assert due.status == "running"
        assert away.store.recover(link, due.fence)
    assert away.execute(body) == Finished(["first", "second"])
    assert away.calls == ["first", "second", "second"], "the recorded step is kept, the other runs again"


def test_a_start_that_can_not_be_recorded_is_an_error_and_sends_nothing(postgresql_url: str) -> None:
    away = Away(postgresql_url, lease=1)
    app = Celery("away", broker="memory://", backend="cache+memory://")
    app.conf.update(durable_database_url=away.url)

    @app.task(base=DurableTask)
    def nothing() -> None: ...

    away.proxy.cut()
    with pytest.raises(DBAPIError) as raised:
        nothing.apply_async(task_id="run")
    assert "so nothing was sent" in raised.value.__notes__[0]
    away.proxy.restore()
    nothing.apply_async(task_id="run")
    with away.store.link() as link:
        claimed = away.store.claim(link, "run", worker="test", lease=SECOND)
    assert isinstance(claimed, Claim)
    assert not isinstance(claimed, Outcome)


def test_a_blink_at_a_wait_still_registers_it(away: Away) -> None:
    away.start()

    def body() -> Any:
        step.run("first", away.call, "first")
        if len(away.calls) == 1:
            away.calls.append("cut")
            away.cut_for(0.7)
        event = step.wait_for_event("paid", key="k")
        return event and event.payload

    assert isinstance(away.execute(body), Parked)
    with away.store.link() as link:
        away.store.emit(link, new_event("e", "paid", 7, "k", max_payload=1000), SECOND)
        event = away.store.event(link, "e")
        assert event is not None
        (waits,) = away.store.waits_for(link, event, 10)
        assert waits == [("run", "paid")]
        away.proxy.cut()
        away.proxy.restore()  # between two operations of a dispatch: the next one connects again
        assert away.store.deliver(link, event, encode(event_of(event)), waits, SECOND) == ["run"]
    assert away.execute(body) == Finished(7)
    assert away.calls == ["first", "cut"]


def test_an_event_that_can_not_be_recorded_is_an_error_and_emits_nothing(postgresql_url: str) -> None:
    away = Away(postgresql_url, lease=1)
    app = Celery("away", broker="memory://", backend="cache+memory://")
    app.conf.update(durable_database_url=away.url)
    durable = Durable(app)

    away.proxy.cut()
    with pytest.raises(DBAPIError) as raised:
        durable.emit("paid", event_id="e")
    assert "so nothing was emitted" in raised.value.__notes__[0]
    away.proxy.restore()
    assert durable.emit("paid", event_id="e").duplicate is False


def test_giving_a_broken_connection_back_is_no_error(away: Away) -> None:
    """It was one of the pass, which had ended well: Celery took the run for failed."""
    with away.store.link() as link:
        assert link.run(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1
        away.proxy.cut()
    away.proxy.restore()
    with away.store.link() as link:
        assert link.run(lambda connection: connection.exec_driver_sql("SELECT 2").scalar()) == 2
