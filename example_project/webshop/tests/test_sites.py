"""The views by Django's and Flask's test clients, in memory as the workflows are."""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client

from celery_durable import Durable
from celery_durable.testing import DurableEnv
from example_project.webshop.celery import app
from example_project.webshop.mails import link
from example_project.webshop.models import Customer

pytestmark = pytest.mark.django_db


def text(answer: Any) -> str:
    page: str = answer.content.decode()
    return page


def sign_up(env: DurableEnv, client: Client, run: str, name: str = "Ada") -> Any:
    answer = client.post("/", {"name": name, "email": "ada@example.com", "run": run})
    env.advance(0)  # what the view has started goes as far as it gets without time passing
    return answer


def test_a_sign_up_is_confirmed_by_its_mail(
    client: Client, durable_env: DurableEnv, mailoutbox: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    run = str(uuid.uuid4())
    assert sign_up(durable_env, client, run).status_code == 302
    (link,) = re.findall(r"http://[^/]+(/verify/\S+)", mailoutbox[0].body)
    assert "Is this you, Ada?" in text(client.get(link))
    durable_env.run(run).assert_status("suspended")  # a mail program that opens the link is not the customer

    with django_capture_on_commit_callbacks(execute=True):
        client.post(link)
        client.post(link)
    durable_env.run(run).assert_completed("unlocked")
    assert "your account is open" in text(client.get(link))
    assert len(durable_env.durable.events(name="email.verified")) == 1


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_a_click_commits_with_its_event_and_counts_once(client: Client) -> None:
    """An event that commits with Django's rows is in Django's database: here that of the tests, and no env's."""
    ada = Customer.objects.create(email="ada@example.com", name="Ada")
    path = urlsplit(link(ada.pk)).path
    assert client.post(path).status_code == 302
    assert client.post(path).status_code == 302
    assert "Thank you, Ada" in text(client.get(path))
    (event,) = Durable(app).events(name="email.verified")
    assert event.key == f"customer:{ada.pk}"


def test_a_form_that_is_sent_twice_starts_one_run(
    client: Client, durable_env: DurableEnv, mailoutbox: list[Any]
) -> None:
    run = str(uuid.uuid4())
    assert sign_up(durable_env, client, run).status_code == 302
    assert sign_up(durable_env, client, run).status_code == 302
    assert "was sent before" in text(sign_up(durable_env, client, run, name="Eve"))
    assert len(mailoutbox) == 1


def test_a_link_that_is_not_ours_is_refused(client: Client) -> None:
    Customer.objects.create(email="ada@example.com", name="Ada")
    assert client.post("/verify/MQ:1xXOsY:forged/").status_code == 400


def test_reports_and_the_console_are_for_the_staff(
    client: Client, admin_client: Client, durable_env: DurableEnv
) -> None:
    for path in ("/reports/", "/operate/"):
        assert client.get(path).status_code == 302
        assert admin_client.get(path).status_code == 200


def test_a_report_is_made_and_shown(admin_client: Client, durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    admin_client.post("/reports/new/")
    durable_env.advance(0)
    assert "celeriac" in text(admin_client.get("/reports/"))
