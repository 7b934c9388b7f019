"""An answer by the client of an app: it is dispatched like every event."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from celery_durable import DurableTask, InvalidAnswer, PayloadTooLarge, step
from celery_durable.testing import DurableEnv


class Decision(BaseModel):
    approved: bool


@pytest.fixture
def refund(app: Any) -> Any:
    @app.task(shared=False, base=DurableTask, name="refund")
    def refund(order: str) -> Any:
        event = step.wait_for_event("approve", "refund.decided", key=order, form=Decision)
        return event is not None and event.payload.approved

    return refund


def test_a_run_goes_on_with_the_answer(app: Any, refund: Any) -> None:
    with DurableEnv(app) as env:
        run = env.start(refund, "o-1")
        with pytest.raises(InvalidAnswer, match="approved: 5 is not of type 'boolean'"):
            env.durable.answer(run.id, "approve", {"approved": 5})
        env.durable.answer(run.id, "approve", {"approved": True}, by="ann")
        env.advance("1s")
        assert (run.status, run.result) == ("completed", True)
        assert [deed.action for deed in env.durable.get(run.id).audit] == ["answer"]


def test_an_answer_is_no_larger_than_a_payload_may_be(app: Any, refund: Any) -> None:
    app.conf.durable_max_payload = "1KB"
    with DurableEnv(app) as env:
        run = env.start(refund, "o-1")
        with pytest.raises(PayloadTooLarge, match="refund"):
            env.durable.answer(run.id, "approve", {"approved": True, "why": "x" * 2000})
        assert env.durable.events() == ()
        assert run.status == "suspended"
