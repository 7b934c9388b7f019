"""Cancel, pause, resume, retry and fork: asked with their consequence, done by POST, refused where they don't fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable, StepRecord
from celery_durable.console import Console
from celery_durable.model import StepStatus

from .acting import hidden_of, send, text_of


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    """What is done goes on at once, in this process."""
    return make(task_always_eager=True)


def failed_run(durable: Durable) -> str:
    return durable.runs(status="failed", limit=1)[0].id


def test_asking_changes_nothing(client: Client, durable: Durable) -> None:
    before = durable.get("order-36")
    for action in ("cancel", "pause", "fork?from=charge", "replay", "answer"):
        assert client.get(f"/run/order-36/{action}").status_code == 200
    assert durable.get("order-36") == before


def test_cancel_says_what_it_comes_to(client: Client) -> None:
    text = text_of(client.get("/run/order-36/cancel"))
    assert "It waits for the event 'order.approved' with the key 'o-36' now, and will not any more." in text
    assert "registered with step.on_rollback is undone" in text
    assert "By force It ends at once where it stands" in text


def test_cancel_undoes_and_tells_who_and_why(client: Client, durable: Durable) -> None:
    answer = send(client, "/run/order-36/cancel", reason="ordered twice")
    assert (answer.status_code, answer.location) == (303, "/run/order-36")
    run = durable.get("order-36")
    assert run.status == "cancelled"
    assert [step.id for step in run.steps if step.kind == "undo"] == ["refund"]
    assert [(deed.action, deed.actor, deed.reason) for deed in run.audit] == [("cancel", "ada", "ordered twice")]


def test_cancel_by_force_undoes_nothing(client: Client, durable: Durable) -> None:
    assert send(client, "/run/order-36/cancel", force="yes").status_code == 303
    run = durable.get("order-36")
    assert run.status == "cancelled"
    assert not [step for step in run.steps if step.kind == "undo"]
    assert run.audit[0].details == {"force": True}


_CALLS: tuple[StepStatus, ...] = ("waiting", "completed", "waiting")


def test_a_run_that_has_not_begun_ends_at_once(make: Callable[..., Celery]) -> None:
    app = make()  # nobody executes what is started
    Durable(app).start("shop.trial", args=["u1"], task_id="trial-x")
    text = text_of(Client(Console(app, identify=lambda request: "ada")).get("/run/trial-x/cancel"))
    assert "It ends at once: nothing of its code is executed." in text


def test_cancel_names_what_is_called_and_who_has_called_it(
    client: Client, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [
        StepRecord(id=f"call-{number}", position=number, kind="call", status=status, child=f"child-{number}")
        for number, status in enumerate(_CALLS)
    ]
    run = durable.get("order-36").model_copy(update={"steps": tuple(calls), "parent": "above", "parent_step": "ask"})
    monkeypatch.setattr(Durable, "get", lambda self, run_id, values=True: run)
    text = text_of(client.get("/run/order-36/cancel"))
    assert "2 runs that it has called and that go on are cancelled, too: child-0, child-2." in text
    assert "Run above has called it, and gets CallFailed from its step 'ask'." in text


def test_pause_and_resume(client: Client, durable: Durable) -> None:
    assert "When that comes, it stays where it is until it is resumed." in text_of(client.get("/run/order-36/pause"))
    assert send(client, "/run/order-36/pause", reason="to look at it").status_code == 303
    assert durable.get("order-36").status == "paused"
    page = client.get("/run/order-36/resume")
    assert "It is paused: by ada: to look at it." in text_of(page)
    assert "finished steps are kept" in text_of(page)
    assert send(client, "/run/order-36/resume").status_code == 303
    assert durable.get("order-36").status == "completed"  # where nobody waits, all time passes at once


def test_retry_names_the_step_that_failed(client: Client, durable: Durable) -> None:
    run_id = failed_run(durable)
    text = text_of(client.get(f"/run/{run_id}/retry"))
    assert "The step 'unlock', which it failed of, is done anew, with all its attempts." in text
    assert "its 3 finished steps are kept" in text
    assert send(client, f"/run/{run_id}/retry", reason="fixed").status_code == 303
    run = durable.get(run_id)
    assert (run.restarts, run.audit[-1].reason) == (1, "fixed")


def test_fork_asks_for_a_step_where_none_is_given(client: Client) -> None:
    page = client.get("/run/order-4/fork")
    assert "Start anew from which step?" in text_of(page)
    assert '<a class="mono" href="/run/order-4/fork?from=charge">charge</a>' in page.text
    found = client.get("/run/order-4/fork?from=parc")
    assert "parcels[2]" in text_of(found)
    assert "charge" not in text_of(found)
    assert "No step is called so" in text_of(client.get("/run/order-4/fork?from=nix"))


def test_fork_says_what_is_reused_and_starts_one_run_however_often_it_is_sent(client: Client, durable: Durable) -> None:
    page = client.get("/run/order-4/fork?from=charge")
    assert "The 6 steps before this one are reused and not executed again." in text_of(page)
    assert "Done anew, with all their effects: charge, approve, parcels[0]" in text_of(page)
    form = hidden_of(page) | {"reason": "once more"}
    first, again = (client.post("/run/order-4/fork?from=charge", data=form) for _ in range(2))
    assert first.status_code == again.status_code == 303
    assert first.location == again.location
    run = durable.get(first.location.removeprefix("/run/"))
    assert (run.forked_from, run.forked_at) == ("order-4", "charge")
    assert [(deed.action, deed.actor, deed.reason) for deed in durable.get("order-4").audit][-1] == (
        "fork",
        "ada",
        "once more",
    )


def test_fork_takes_the_id_that_is_typed(client: Client, durable: Durable) -> None:
    answer = send(client, "/run/order-4/fork?from=ship", task_id="order-4-shipped-again")
    assert answer.location == "/run/order-4-shipped-again"
    assert durable.get("order-4-shipped-again").status == "completed"
    taken = send(client, "/run/order-4/fork?from=ship", task_id="order-8")
    assert taken.status_code == 400
    assert "Nothing was done." in text_of(taken)
    assert 'value="order-8"' in taken.text


@pytest.mark.parametrize(
    ("run_id", "action", "said", "instead"),
    [
        (
            "order-4",
            "cancel",
            "It is completed: it has ended, and there is nothing left to cancel.",
            ["fork", "replay"],
        ),
        ("order-4", "pause", "It is completed: only what has not ended can be paused.", ["fork", "replay"]),
        ("order-4", "resume", "It is completed: only a paused run can be resumed.", ["fork", "replay"]),
        ("order-4", "retry", "It is completed: only a failed run can be retried.", ["fork", "replay"]),
        ("order-4", "answer", "It waits for no event now.", ["fork", "replay"]),
        ("order-36", "resume", "It is suspended: only a paused run can be resumed.", ["cancel", "pause", "fork"]),
        ("order-12", "fork", "It was rolled back: what its steps did has been undone", ["replay"]),
    ],
)
def test_what_does_not_fit_is_told_with_what_can_be_done(
    client: Client, run_id: str, action: str, said: str, instead: list[str]
) -> None:
    page = client.get(f"/run/{run_id}/{action}")
    assert page.status_code == 409
    assert said in text_of(page)
    for other in instead:
        assert f'href="/run/{run_id}/{other}"' in page.text
    assert f'href="/run/{run_id}/{action}"' not in page.text


def test_a_run_that_has_ended_while_somebody_was_asked_is_told(client: Client, durable: Durable) -> None:
    form = hidden_of(client.get("/run/order-36/cancel"))
    durable.emit("order.approved", {"approved": True}, key="o-36")
    assert durable.get("order-36").status == "completed"
    late = client.post("/run/order-36/cancel", data=form)
    assert late.status_code == 409
    assert "is completed: it has ended and can't be cancelled any more" in text_of(late)
    assert 'href="/run/order-36/replay"' in late.text


@pytest.mark.parametrize("path", ["/run/nix/cancel", "/run/order-4/explode", "/run/order-36/answer?step=nix"])
def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_fork_from_a_step_that_is_not_there_is_refused(client: Client) -> None:
    answer = send(client, "/run/order-4/fork?from=charge", **{"from": "nix"})
    assert answer.status_code == 404
    assert "has recorded no step 'nix'" in text_of(answer)
