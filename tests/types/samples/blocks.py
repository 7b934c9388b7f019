"""The futures of a block have the types of its branches."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from celery_durable import Event, Future, step


def score(user: str) -> int:
    return len(user)


def body(user: str) -> None:
    with step.parallel(limit=2, settle=True) as p:
        scored = p.run("score", score, user)
        waited = p.wait_for_event("paid", timeout="1h")
        paid = p.wait_for_event("sure", "paid", timeout="1h", on_timeout="fail")
        called = p.call("fraud", "shop.fraud")
        slept = p.sleep("rest", "1h")
    assert_type(scored, Future[int])
    assert_type(scored.result(), int)
    assert_type(scored.exception(), BaseException | None)
    assert_type(waited.result(), Event | None)
    assert_type(paid.result(), Event)
    assert_type(called.result(), Any)
    assert_type(slept, Future[None])

    with step.race() as r:
        first = r.run("score", score, user)
        r.sleep("late", "1m")
    assert_type(first.result(), int)
    if r.winner is not None:
        assert_type(r.winner.id, str)
    r.run("score", score, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
