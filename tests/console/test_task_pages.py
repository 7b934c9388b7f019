"""The tasks, one of them over time, and starting a run by a form of its annotations."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal

import pytest
from celery import Celery
from pydantic import BaseModel
from werkzeug.test import Client

from celery_durable import Durable, DurableTask
from celery_durable.console import Console
from celery_durable.console.pages.tasks import Chart
from celery_durable.model import Activity, Period

from .acting import hidden_of, send, text_of


class Parcel(BaseModel):
    weight: float
    fragile: bool = False


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    app = make(task_always_eager=True)

    @app.task(shared=False, name="shop.everything", base=DurableTask)
    def everything(
        name: str,
        day: date,
        at: datetime,
        price: Decimal,
        parcel: Parcel,
        size: Literal["s", "m"] = "m",
        note: str | None = None,
        tags: list[str] = [],  # noqa: B006
    ) -> list:
        """Takes all kinds of things.

        And gives them back.
        """
        return [name, day.isoformat(), at.isoformat(), str(price), parcel.model_dump(), size, note, tags]

    return app


GIVEN = {
    "f/name": "ann", "f/day": "2026-11-21", "f/at": "2026-11-21T09:30", "f/price": "10.50", "f/parcel/weight": "2.5",
}  # fmt: skip
RESULT: list[Any] = [
    "ann", "2026-11-21", "2026-11-21T09:30:00+00:00", "10.50", {"weight": 2.5, "fragile": False}, "m", None, [],
]  # fmt: skip


def test_the_tasks_with_their_runs(client: Client) -> None:
    page = client.get("/tasks")
    text = text_of(page)
    assert (
        "shop.onboard Create an account, and unlock it once its mail address is confirmed. 37 completed 3 failed"
        in text
    )
    assert 'on event "customer.created"' in text
    assert 'href="/?task=shop.onboard&amp;status=failed"' in page.text
    assert 'href="/task/shop.trial/start"' in page.text


def test_a_task_with_all_that_is_to_be_known_of_it(client: Client) -> None:
    text = text_of(client.get("/task/shop.everything"))
    assert "Takes all kinds of things. And gives them back." in text
    assert "4 attempts, 1s, doubling up to 10m" in text
    assert "size s or m m" in text
    assert "parcel {weight, fragile}" in text
    assert "note text, or nothing nothing" in text
    assert "No run was made in the last 24 hours." in text
    assert "5 at once" in text_of(client.get("/task/shop.trial"))


def test_the_chart_counts_what_the_table_counts(client: Client, durable: Durable) -> None:
    page = client.get("/task/shop.order?span=7d")
    assert page.text.count('<rect class="ground"') == 2 * 28
    total = sum(durable.counts(task="shop.order").values())
    cells = re.findall(r'<tr><td class="nowrap">[^<]*</td><td class="right">(\d+)</td>', page.text)
    assert sum(map(int, cells)) == total
    assert client.get("/task/shop.order?span=1y").status_code == 400


def test_the_chart_is_drawn_to_scale() -> None:
    now = datetime(2026, 11, 21, tzinfo=timezone.utc)

    def period(place: int, p50: float | None = None, p95: float | None = None, **statuses: int) -> Period:
        begin = now + timedelta(hours=place)
        return Period(since=begin, until=begin + timedelta(hours=1), statuses=statuses, p50=p50, p95=p95)

    periods = (period(0, 1.0, 4.0, completed=3, failed=1), period(1), period(2, 2.0, 2.0, completed=2))
    chart = Chart.of(Activity(periods=periods))
    assert (chart.total, chart.most, chart.width, chart.longest) == (6, 4, 30, 4.0)
    assert chart.bars[0].parts == (("completed", 25.0, 75.0), ("failed", 0.0, 25.0))
    assert chart.bars[2].parts == (("completed", 50.0, 50.0),)
    assert chart.path("p50") == "M5 74.0M25 50.0"  # broken where nothing completed
    assert chart.dots("p95") == "M5 2.0h0M25 50.0h0"
    assert "3 completed, 1 failed, p50 1.0s, p95 4.0s" in chart.bars[0].title


def test_a_task_that_this_process_does_not_know_has_its_runs(client: Client, make: Callable[..., Celery]) -> None:
    send(client, "/task/shop.everything/start", **GIVEN, task_id="all-1")
    elsewhere = Client(Console(make(), identify=lambda request: "ada"))
    page = elsewhere.get("/task/shop.everything")
    assert "This process does not know the task" in text_of(page)
    assert 'href="/run/all-1"' in page.text
    assert "/start" not in page.text
    assert elsewhere.get("/task/shop.everything/start").status_code == 404
    missing = elsewhere.get("/task/shop.nix")
    assert missing.status_code == 404
    assert "there are: shop.fraud_check" in text_of(missing)


def test_a_start_gives_the_function_what_its_annotations_say(client: Client, durable: Durable) -> None:
    fields = {"task_id": "all-1", "reason": "to try it"}
    answer = send(client, "/task/shop.everything/start", **GIVEN, **fields)
    assert (answer.status_code, answer.location) == (303, "/run/all-1")
    run = durable.get("all-1")
    assert run.result == RESULT
    assert [(deed.action, deed.actor, deed.reason) for deed in run.audit] == [("start", "ada", "to try it")]


def test_a_start_is_one_run_however_often_it_is_sent(client: Client, durable: Durable) -> None:
    form = hidden_of(client.get("/task/shop.everything/start")) | GIVEN
    first, again = (client.post("/task/shop.everything/start", data=form) for _ in range(2))
    assert first.location == again.location
    assert len(durable.runs(task="shop.everything")) == 1
    assert send(client, "/task/shop.everything/start", **GIVEN).location != first.location


def test_errors_stand_at_their_fields_and_start_nothing(client: Client, durable: Durable) -> None:
    wrong = GIVEN | {"f/price": "dear", "f/day": "2026-02-30", "countdown": "soon", "f/tags": "a, b"}
    answer = send(client, "/task/shop.everything/start", **wrong)
    assert answer.status_code == 400
    assert 'id="f.2f.day-error">A date is expected' in answer.text
    assert 'id="countdown-error">&#39;soon&#39; is no duration' in answer.text
    assert 'id="f.2f.tags-error">This is no JSON' in answer.text
    assert 'value="ann"' in answer.text
    refused = send(client, "/task/shop.everything/start", **GIVEN | {"f/price": "dear"})
    assert refused.status_code == 400
    assert 'id="f.2f.price-error">an argument of shop.everything' in refused.text  # by the task itself
    assert len(durable.runs(task="shop.everything")) == 0


def test_an_id_that_is_taken_by_another_start_is_told_at_its_field(client: Client) -> None:
    assert send(client, "/task/shop.everything/start", **GIVEN, task_id="all-1").status_code == 303
    assert send(client, "/task/shop.everything/start", **GIVEN, task_id="all-1").status_code == 303
    answer = send(client, "/task/shop.everything/start", **GIVEN | {"f/name": "bob"}, task_id="all-1")
    assert answer.status_code == 409
    assert 'id="task_id-error"' in answer.text


def test_arguments_may_be_written_as_json(client: Client, durable: Durable) -> None:
    path = "/task/shop.trial/start?as=json"
    assert send(client, path, args='["u99"]', task_id="trial-99").status_code == 303
    assert durable.get("trial-99").args == ["u99"]
    assert send(client, path, args='{"user": 1}').status_code == 400
    missing = send(client, path, args="[]")
    assert missing.status_code == 400
    assert "missing 1 required positional argument: 'user'" in text_of(missing)


def test_a_countdown_keeps_the_run_back(make: Callable[..., Celery]) -> None:
    app = make()
    client = Client(Console(app, identify=lambda request: "ada"))
    for countdown in ("2h", "7200"):
        answer = send(client, "/task/shop.trial/start", **{"f/user": "u1"}, countdown=countdown)
        run = Durable(app).get(answer.location.removeprefix("/run/"))
        assert run.status == "pending"
        assert run.wake_at is not None
        assert timedelta(minutes=110) < run.wake_at - run.created_at < timedelta(minutes=130)


def fields_shown(page: Any) -> list[str]:
    return re.findall(r'<(?:input|select|textarea) id="[^"]*" name="(f/[^"]*)"', page.text)


def test_the_form_has_a_labelled_field_for_each_parameter(client: Client) -> None:
    page = client.get("/task/shop.everything/start")
    shown = fields_shown(page)
    assert shown == ["f/name", "f/day", "f/at", "f/price", "f/parcel/weight", "f/size", "f/note", "f/tags"]
    for element in re.findall(r'<(?:input|select|textarea) id="([^"]*)"', page.text):
        assert f'<label for="{element}">' in page.text
    assert 'type="date"' in page.text
    assert 'type="datetime-local"' in page.text
