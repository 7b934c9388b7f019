"""What is done to many: shown before, bounded, and told for each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable
from celery_durable.console.pages import bulk

from .acting import hidden_of, send, text_of


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    return make(task_always_eager=True)


def test_the_preview_says_how_many_which_and_what_comes_of_it(client: Client, durable: Durable) -> None:
    before = durable.counts()
    page = client.get("/runs/cancel?task=shop.trial")
    text = text_of(page)
    assert "Cancel 8 runs?" in text
    assert "suspended 8" in text
    assert "What they have registered with step.on_rollback is undone." in text
    assert page.text.count('<a class="mono" href="/run/trial-') == 8
    assert "That is every run there is" not in text
    assert durable.counts() == before


def test_a_filter_that_leaves_nothing_out_is_warned_of(client: Client) -> None:
    text = text_of(client.get("/runs/cancel?until=0s"))
    assert "That is every run there is that one can cancel" in text


def test_what_was_done_to_each_is_told(client: Client, durable: Durable) -> None:
    answer = send(client, "/runs/cancel?task=shop.trial", reason="no more trials")
    assert answer.status_code == 200
    assert "Cancelled 8 runs" in text_of(answer)
    assert 'href="/run/trial-35"' in answer.text
    assert durable.counts(task="shop.trial")["cancelled"] == 8
    assert durable.counts(task="shop.order")["suspended"] == 8
    assert {(deed.actor, deed.reason) for deed in durable.get("trial-5").audit} == {("ada", "no more trials")}


def test_retry_of_many(client: Client, durable: Durable) -> None:
    assert "Retry 3 runs?" in text_of(client.get("/runs/retry?status=failed"))
    assert "Retried 3 runs" in text_of(send(client, "/runs/retry?status=failed"))
    assert all(run.restarts == 1 for run in durable.runs(status="failed"))


def test_resume_of_many(client: Client, durable: Durable) -> None:
    assert "Resumed 1 run" in text_of(send(client, "/runs/resume?task=shop.order"))
    assert durable.get("order-16").status != "paused"


def test_those_that_can_not_be_done_are_told_with_why(client: Client, app: Celery) -> None:
    # Rolled back, so there is nothing left to go on from.
    from celery_durable import DurableTask, Retry, step

    @app.task(shared=False, name="shop.undone", base=DurableTask)
    def undone() -> None:
        step.on_rollback("undo", lambda: None)
        step.options(retry=Retry(max_attempts=1)).run("fail", lambda: 1 / 0)

    undone.apply_async(task_id="undone-1")
    text = text_of(send(client, "/runs/retry?status=failed"))
    assert "Retried 3 runs, 1 not" in text
    assert "was rolled back" in text


def test_it_goes_on_with_the_rest(client: Client, durable: Durable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 5)
    first = send(client, "/runs/cancel?task=shop.trial", reason="no more", force="yes")
    assert "Cancelled 5 runs" in text_of(first)
    form = hidden_of(first)
    assert (form["reason"], form["force"]) == ("no more", "yes")
    rest = client.post("/runs/cancel?task=shop.trial", data=form)
    assert "Cancelled 3 runs" in text_of(rest)
    assert "Go on with the rest" not in text_of(rest)
    assert durable.counts(task="shop.trial")["cancelled"] == 8


def test_what_was_started_since_it_was_shown_is_left_alone(client: Client, durable: Durable) -> None:
    form = hidden_of(client.get("/runs/cancel?task=shop.trial"))
    durable.start("shop.trial", args=["late"], task_id="trial-late")
    client.post("/runs/cancel?task=shop.trial", data=form)
    assert durable.get("trial-late").status != "cancelled"
    assert durable.get("trial-35").status == "cancelled"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/runs/cancel", "Which runs?"),
        ("/runs/cancel?search=+", "Which runs?"),
        ("/runs/cancel?status=completed", "There is nothing to cancel among runs that are completed"),
        ("/runs/cancel?status=odd", "There is no status 'odd'"),
        ("/runs/cancel?since=someday", "is no point in time"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(client: Client, durable: Durable, path: str, said: str) -> None:
    before = durable.counts()
    page = client.get(path)
    assert page.status_code == 400
    assert said in text_of(page)
    form = hidden_of(client.get("/runs/cancel?task=shop.trial"))
    assert client.post(path, data=form).status_code == 400
    assert durable.counts() == before


@pytest.mark.parametrize("action", ["pause", "fork", "replay", "explode"])
def test_there_is_no_more_that_can_be_done_to_many(client: Client, action: str) -> None:
    assert client.get(f"/runs/{action}?task=shop.trial").status_code == 404


def test_a_filter_that_nothing_holds_for_says_so(client: Client) -> None:
    page = client.get("/runs/cancel?task=shop.nix")
    assert "Nothing to cancel" in text_of(page)
    assert 'id="do"' not in page.text
