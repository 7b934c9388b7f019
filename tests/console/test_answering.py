"""Answering a wait: by its form, or with any payload."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable, DurableTask, step

from .acting import send, text_of


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    app = make(task_always_eager=True)

    @app.task(shared=False, name="shop.ask", base=DurableTask)
    def ask(number: int) -> list:
        if number == 2:
            with step.parallel() as p:
                some = [p.wait_for_event(name, key="both") for name in ("left", "right")]
            return [future.result().payload for future in some]
        said = step.wait_for_event("said", "anything.said")
        return [said and said.payload]

    return app


def test_the_form_of_the_wait_is_asked_with_its_prompt(client: Client) -> None:
    page = client.get("/run/order-36/answer?step=approve")
    assert "<h1>Ship order o-36 for 360.0 EUR?</h1>" in page.text
    assert "The event 'order.approved' with the key 'o-36' is emitted" in text_of(page)
    assert 'type="radio" name="f/approved" value="true"' in page.text
    assert '<option value="&#34;courier&#34;">courier</option>' in page.text
    assert 'maxlength="200"' in page.text


def test_the_answer_is_what_the_body_gets(client: Client, durable: Durable) -> None:
    fields = {"f/approved": "true", "f/carrier": '"courier"', "f/note": "gift wrap", "reason": "seen the stock"}
    answer = send(client, "/run/order-36/answer", **fields)
    assert (answer.status_code, answer.location) == (303, "/run/order-36")
    run = durable.get("order-36")
    assert run.status == "completed"
    taken = next(each for each in run.steps if each.id == "approve").result
    assert taken.payload == {"approved": True, "carrier": "courier", "note": "gift wrap"}
    assert [(deed.action, deed.actor, deed.reason) for deed in run.audit] == [("answer", "ada", "seen the stock")]


def test_what_does_not_fit_the_form_is_told_at_its_field_and_nothing_is_sent(client: Client, durable: Durable) -> None:
    answer = send(
        client, "/run/order-36/answer", **{"f/note": "x" * 201, "f/carrier": '"pigeon"', "f/approved": "true"}
    )
    assert answer.status_code == 400
    assert "It may have 200 characters at most." in text_of(answer)
    assert "'pigeon' is not one of ['post', 'courier']" in text_of(answer)
    assert "x" * 201 in answer.text
    missing = send(client, "/run/order-36/answer", **{"f/note": "hello"})
    assert 'id="f.2f.approved-error"' in missing.text
    assert 'value="hello"' in missing.text
    assert durable.get("order-36").status == "suspended"


def test_a_wait_without_a_form_takes_any_json(client: Client, durable: Durable, app: Celery) -> None:
    app.tasks["shop.ask"].apply_async((1,), task_id="ask-1")
    app.tasks["shop.ask"].apply_async((1,), task_id="ask-2")
    page = client.get("/run/ask-1/answer")
    assert "1 other run waits for it, too, and would take the same answer." in text_of(page)
    assert send(client, "/run/ask-1/answer", f="no json").status_code == 400
    assert send(client, "/run/ask-1/answer", f='{"a": [1]}').status_code == 303
    assert durable.get("ask-1").result == durable.get("ask-2").result == [{"a": [1]}]


def test_of_several_waits_one_is_chosen(client: Client, durable: Durable, app: Celery) -> None:
    app.tasks["shop.ask"].apply_async((2,), task_id="ask-both")
    page = client.get("/run/ask-both/answer")
    assert "Answer which wait?" in text_of(page)
    assert 'href="/run/ask-both/answer?step=left"' in page.text
    assert send(client, "/run/ask-both/answer?step=left", f="1").status_code == 303
    assert send(client, "/run/ask-both/answer?step=right", f="2").status_code == 303
    assert durable.get("ask-both").result == [1, 2]


def test_a_wait_that_is_over_is_told(client: Client) -> None:
    page = client.get("/run/order-4/answer?step=approve")
    assert page.status_code == 409
    assert "Its step 'approve' does not wait any more: it is completed." in text_of(page)


def test_a_step_that_is_no_wait_has_no_answer(client: Client) -> None:
    assert client.get("/run/order-36/answer?step=charge").status_code == 404
