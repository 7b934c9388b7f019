"""Replaying with the same input or an edited one; what is hidden is neither shown nor sent as it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable, DurableTask
from celery_durable.console import Console

from .acting import hidden_of, send, text_of

AT = datetime(2026, 11, 21, 9, 30, tzinfo=timezone.utc)


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    app = make(task_always_eager=True)

    @app.task(shared=False, name="shop.login", base=DurableTask)
    def login(user: str, password: str, at: datetime, tries: int = 1, **more: int) -> list:
        return [user, password, at.isoformat(), tries, more]

    @app.task(shared=False, name="shop.loose", base=DurableTask)
    def loose(*values) -> list:
        return [str(value) for value in values]

    return app


@pytest.fixture
def login(app: Celery) -> str:
    app.tasks["shop.login"].apply_async(("ann",), {"password": "hunter2", "at": AT}, task_id="login-1")
    return "/run/login-1/replay"


def replayed(durable: Durable, answer: object) -> list:
    """What the new run was given."""
    assert answer.status_code == 303, text_of(answer)
    run = durable.get(answer.location.removeprefix("/run/"))
    assert run.replayed_from is not None
    assert isinstance(run.result, list)
    return run.result


def filled(client: Client, path: str, **fields: str) -> dict[str, str]:
    """The form as it comes, with these fields changed."""
    import html
    import re

    page = client.get(path)
    texts = {
        html.unescape(name): html.unescape(value)
        for name, value in re.findall(r'<input[^>]* name="(f/[^"]*)"[^>]* value="([^"]*)"', page.text)
        if 'type="radio"' not in name
    }
    areas = re.findall(r'<textarea[^>]* name="([^"]*)"[^>]*>\n(.*?)</textarea>', page.text, re.DOTALL)
    return texts | {html.unescape(name): html.unescape(text) for name, text in areas} | hidden_of(page) | fields


def test_the_input_is_shown_in_fields_without_its_secrets(client: Client, login: str) -> None:
    form = filled(client, login)
    assert (form["f/user"], form["f/password"], form["f/at"], form["f/tries"]) == (
        "ann",
        "***",
        "2026-11-21T09:30:00",
        "",
    )
    assert "hunter2" not in client.get(login).text


def test_an_input_that_nobody_has_touched_is_that_of_the_original(client: Client, durable: Durable, login: str) -> None:
    answer = client.post(login, data=filled(client, login))
    assert replayed(durable, answer) == ["ann", "hunter2", AT.isoformat(), 1, {}]


def test_an_edited_input_is_what_the_new_run_is_given(client: Client, durable: Durable, login: str) -> None:
    changed = {"f/at": "2026-11-22T10:00", "f/tries": "3", "f/*": '{"x": 1}', "f/password": "swordfish"}
    answer = client.post(login, data=filled(client, login, **changed, task_id="login-2"))
    assert replayed(durable, answer) == ["ann", "swordfish", "2026-11-22T10:00:00+00:00", 3, {"x": 1}]
    assert durable.get("login-1").audit[-1].details == {"run": "login-2"}


def test_what_is_hidden_stays_what_it_was_where_only_the_others_change(
    client: Client, durable: Durable, login: str
) -> None:
    answer = client.post(login, data=filled(client, login, **{"f/user": "bob"}))
    assert replayed(durable, answer)[:2] == ["bob", "hunter2"]


def test_a_hidden_value_that_would_be_sent_is_asked_for(client: Client, durable: Durable, login: str) -> None:
    answer = client.post(login, data=filled(client, login, **{"f/tries": "5"}))
    assert answer.status_code == 400
    assert 'id="f.2f.password-error"' in answer.text
    assert "stands for a secret that is not shown here" in text_of(answer)
    assert 'value="5"' in answer.text
    typed = filled(client, login, **{"f/tries": "5", "f/password": "swordfish"})
    assert replayed(durable, client.post(login, data=typed)) == ["ann", "swordfish", AT.isoformat(), 5, {}]


def test_what_does_not_fit_is_told_at_its_field(client: Client, login: str) -> None:
    answer = client.post(login, data=filled(client, login, **{"f/tries": "many", "f/at": "soon"}))
    assert answer.status_code == 400
    assert "A whole number is expected." in text_of(answer)
    assert "2 fields to look at again." in text_of(answer)


def test_an_input_without_fields_is_edited_as_json(client: Client, durable: Durable, app: Celery) -> None:
    app.tasks["shop.loose"].apply_async((1, AT), task_id="loose-1")
    path = "/run/loose-1/replay"
    assert "The input holds values that JSON does not have" in text_of(client.get(path))
    assert replayed(durable, client.post(path, data=filled(client, path))) == ["1", str(AT)]
    changed = filled(client, path, args=json.dumps([2, "x"]))
    assert replayed(durable, client.post(path, data=changed)) == ["2", "x"]
    for wrong in ("{}", "[1", '"x"'):
        answer = client.post(path, data=filled(client, path, args=wrong))
        assert answer.status_code == 400
        assert 'id="args-error"' in answer.text


def test_a_task_that_this_process_does_not_know_is_replayed_as_json(
    client: Client, login: str, make: Callable[..., Celery], durable: Durable
) -> None:
    elsewhere = Client(Console(make(), identify=lambda request: "ada"))
    form = filled(elsewhere, login)
    assert json.loads(form["kwargs"])["password"] == "***"
    hidden = elsewhere.post(login, data=filled(elsewhere, login, kwargs='{"password": "***"}'))
    assert hidden.status_code == 400
    assert 'id="kwargs-error"' in hidden.text
    assert elsewhere.post(login, data=form | {"task_id": "login-3"}).status_code == 303
    assert durable.get("login-3").kwargs["password"] == "***"


def test_sent_twice_it_is_one_run(client: Client, login: str) -> None:
    form = filled(client, login)
    assert client.post(login, data=form).location == client.post(login, data=form).location
    assert send(client, login).location != client.post(login, data=form).location
