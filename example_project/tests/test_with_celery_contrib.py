"""A durable task in ``celery.contrib.pytest``'s worker, which is a thread of this process on an in-memory broker."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_durable import Durable, DurableTask, step


@pytest.fixture
def celery_app(celery_app: Celery) -> Celery:
    """Celery's fixture, with the task: its worker looks after durable runs if it finds a durable task at its start."""

    @celery_app.task(base=DurableTask, name="invite")
    def invite(customer: str) -> dict[str, Any]:
        mailed = step.run("mail", "to {}".format, customer)
        step.sleep("a-moment", "1s")
        answer = step.wait_for_event("invitation.answered", key=customer, timeout="1h")
        return {"mailed": mailed, "answer": answer and answer.payload}

    return celery_app


def test_an_invitation_is_answered(celery_app: Celery, celery_worker: Any) -> None:
    durable = Durable(celery_app)
    result = celery_app.tasks["invite"].delay("ada")

    durable.emit("invitation.answered", "yes", key="ada")  # before the run asks for it, and not lost

    assert result.get(timeout=15) == {"mailed": "to ada", "answer": "yes"}
    run = durable.get(result.id)
    assert run.status == "completed"
    assert run.passes >= 2, "parked while it slept"
