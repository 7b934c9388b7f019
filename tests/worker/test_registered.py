"""Which durable tasks there are, and starting one by its name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab

from celery_durable import (
    Concurrency,
    Durable,
    DurableTask,
    Event,
    NotSerializable,
    Retry,
    StartConflict,
    TaskNotFound,
    on_event,
    on_schedule,
    step,
)
from tests.worker.conftest import Desk

pytestmark = pytest.mark.usefixtures("no_shared_tasks")


@pytest.fixture
def declared(app: Celery) -> Celery:
    @app.task(
        shared=False,
        base=DurableTask,
        bind=True,
        name="shop.order",
        queue="orders",
        run_timeout="2h",
        retention="52w",
        concurrency=Concurrency(3, key="user"),
        step_retry=Retry(max_attempts=2, delay="5s", on=(OSError,), never=(LookupError,)),
        triggers=[
            on_event("customer.*", when={"plan": "pro"}),
            on_schedule(crontab(minute="0", hour="3")),
            on_schedule(timedelta(minutes=5)),
        ],
    )
    def order(self: Any, user: str, amount: int = 1) -> str:
        """Take an order.

        And ship it.
        """
        return f"{user} {amount}"

    @app.task(shared=False, base=DurableTask, name="shop.plain")
    def plain(anything):
        return anything

    @app.task(shared=False, base=DurableTask, name="shop.greet", triggers=[on_event("customer.created")])
    async def greet(event: Event) -> None: ...

    @app.task(shared=False, name="shop.ordinary")
    def ordinary() -> None: ...

    return app


def test_every_durable_task_of_the_user_is_told_by_name(declared: Celery) -> None:
    assert [task.name for task in Durable(declared).tasks()] == ["shop.greet", "shop.order", "shop.plain"]


def test_what_is_told_of_a_task(declared: Celery) -> None:
    order = Durable(declared).task("shop.order")
    assert order.doc == "Take an order.\n\nAnd ship it."
    assert order.parameters["properties"] == {"user": {"type": "string"}, "amount": {"type": "integer", "default": 1}}
    assert order.parameters["required"] == ["user"]
    assert order.triggers == (
        'on event "customer.*" when {"plan": "pro"}',
        "on schedule <crontab: 0 3 * * * (m/h/dM/MY/d)>",
        "on schedule every 5m",
    )
    assert order.step_retry == "2 attempts, 5s apart, on OSError, not on LookupError"
    assert (order.run_timeout, order.retention, order.queue) == ("2h", "52w", "orders")
    assert order.concurrency == "3 at once for each user"


def test_what_is_told_of_a_task_that_says_nothing(declared: Celery) -> None:
    declared.conf.task_routes = {"shop.greet": {"queue": "greetings"}}
    plain, greet = (Durable(declared).task(name) for name in ("shop.plain", "shop.greet"))
    assert (plain.doc, plain.triggers, plain.run_timeout, plain.concurrency) == (None, (), None, None)
    assert plain.parameters["properties"] == {"anything": {}}
    assert (plain.step_retry, plain.retention) == ("4 attempts, 1s, doubling up to 10m", "4w2d")
    assert (plain.queue, greet.queue) == (None, "greetings")


def test_a_route_that_fails_names_no_queue(declared: Celery) -> None:
    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        return {"queue": args[0]}

    declared.conf.task_routes = (route,)
    assert Durable(declared).task("shop.plain").queue is None


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Retry(max_attempts=1), "1 attempt"),
        (Retry(max_attempts=3, delay=0), "3 attempts, at once"),
        (Retry(max_attempts=3, backoff=1), "3 attempts, 1s apart"),
        (Retry(max_attempts=5, backoff=1.5, max_delay="1h"), "5 attempts, 1s, times 1.5 up to 1h"),
        (Retry(max_attempts=5, delay="1h"), "5 attempts, 10m apart"),
    ],
)
def test_a_retry_policy_in_words(declared: Celery, policy: Retry, says: str) -> None:
    declared.conf.durable_step_retry = policy
    assert Durable(declared).task("shop.plain").step_retry == says


def test_a_task_that_is_not_there_is_told_with_those_that_are(declared: Celery) -> None:
    durable = Durable(declared)
    with pytest.raises(TaskNotFound, match=r"'shop.ordr'.*shop\.greet, shop\.order, shop\.plain"):
        durable.task("shop.ordr")
    with pytest.raises(TaskNotFound, match=r"'shop\.ordinary' is registered in this app, and is not durable"):
        durable.task("shop.ordinary")
    with pytest.raises(TaskNotFound, match="there are: none"):
        Durable(Celery("empty", set_as_current=False)).start("shop.order")


def test_the_tasks_that_an_event_may_start(declared: Celery) -> None:
    durable = Durable(declared)
    assert durable.triggered_by("customer.created") == ("shop.greet", "shop.order")
    assert durable.triggered_by("customer.left") == ("shop.order",)
    assert durable.triggered_by("order.paid") == ()


# ------------------------------------------------------------------------ start


def test_a_run_is_started_by_name_with_who_and_why(declared: Celery, desk: Desk) -> None:
    run = desk.durable.start(
        "shop.order", args=["ann"], kwargs={"amount": 2}, task_id="o-1", queue="elsewhere", reason="by phone", by="bob"
    )
    assert (run.id, run.task, run.status, run.args, run.kwargs) == (
        "o-1",
        "shop.order",
        "pending",
        ["ann"],
        {"amount": 2},
    )
    assert [(deed.action, deed.actor, deed.reason, deed.run_id) for deed in run.audit] == [
        ("start", "bob", "by phone", "o-1")
    ]
    (message,) = desk.messages("elsewhere")
    assert message.headers["id"] == "o-1"


def test_a_run_is_started_where_its_task_is_routed_to(declared: Celery, desk: Desk) -> None:
    first, later = (
        desk.durable.start("shop.order", args=["ann"]),
        desk.durable.start("shop.plain", args=[1], countdown=3600),
    )
    assert [message.headers["id"] for message in desk.messages("orders")] == [first.id]
    assert later.wake_at is not None
    assert (later.wake_at - later.created_at).total_seconds() == pytest.approx(3600, abs=1)
    assert "@" in later.audit[0].actor


def test_the_same_start_twice_is_one_run_and_one_deed(declared: Celery, desk: Desk) -> None:
    for _ in range(2):
        run = desk.durable.start("shop.plain", args=[1], task_id="p-1", by="ann")
    assert [deed.action for deed in run.audit] == ["start"]
    assert len(desk.messages()) == 1
    with pytest.raises(StartConflict):
        desk.durable.start("shop.plain", args=[2], task_id="p-1")
    assert len(desk.durable.audit()) == 1


def test_arguments_that_don_t_fit_start_nothing(declared: Celery, desk: Desk) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'user'"):
        desk.durable.start("shop.order")
    with pytest.raises(NotSerializable, match="argument 'amount'"):
        desk.durable.start("shop.order", args=["ann"], kwargs={"amount": "many"})
    assert desk.durable.runs() == ()
    assert desk.durable.audit() == ()


def test_an_override_of_apply_async_is_passed(app: Celery, desk: Desk) -> None:
    seen = []

    class Watched(DurableTask):
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> Any:
            seen.append(self.name)
            return super().apply_async(*args, **options)

    @app.task(shared=False, base=Watched, name="watched")
    def watched() -> None: ...

    assert desk.durable.start("watched").status == "pending"
    assert seen == ["watched"]


def test_an_eager_start_goes_through(declared: Celery) -> None:
    declared.conf.task_always_eager = True

    @declared.task(shared=False, base=DurableTask, name="shop.eager")
    def eager() -> int:
        return int(step.run("one", int, "1"))

    run = Durable(declared).start("shop.eager", by="ann")
    assert (run.status, run.result, [deed.action for deed in run.audit]) == ("completed", 1, ["start"])
