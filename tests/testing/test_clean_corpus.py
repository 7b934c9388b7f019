"""The shapes that are killed elsewhere for real come to the same under ``check_replay``, all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import text

from celery_durable import DurableTask
from celery_durable.testing import DurableEnv, EnvRun
from celery_durable.worker import running
from tests.kill import corpus, corpus_composition, corpus_control
from tests.kill.corpus import Notes, Shape

LOOKS_AT_THE_CLOCK = "sleeps"
"""A shape that does what a body should not, for a reason."""
NOT_OF_CELERY = {"run_retry"}
"""Shapes that ask for what only the engine can be asked for."""


def insert(session: Any, name: str) -> int:
    session.execute(text("SELECT 1"))
    Notes.write(name)
    return len(name)


@pytest.fixture(autouse=True)
def _as_celery_does_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The shapes name what they call, write to a table of their own, and take time: not here."""
    real = running.target_of

    def target_of(app: Celery, signature: Any, queue: Any, *, eager: bool) -> Any:
        if isinstance(signature, tuple):
            signature = app.signature(signature[0], signature[1:])
        return real(app, signature, queue, eager=eager)

    monkeypatch.setattr(running, "target_of", target_of)
    for module in (corpus, corpus_composition):
        monkeypatch.setattr(module, "insert", insert)
    monkeypatch.setattr(corpus_composition, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(Notes, "folder", tmp_path)


def act(shape: Shape) -> Any:
    def script(env: DurableEnv, run: EnvRun) -> None:
        if shape.cancelled:
            env.advance("1m")
            env.durable.cancel(run.id)
        for _ in range(3):
            env.emit("outside", {"from": "outside"}, key=run.id)
            env.advance("10m")

    return script


def declare(app: Celery, shape: Shape) -> Any:
    for name, body in shape.children.items():
        app.task(body, shared=False, base=DurableTask, name=name)
    app.task(lambda_named("plain_report", lambda number: number + 1), shared=False, name="plain_report")
    app.task(lambda_named("plain_never", lambda: None), shared=False, name="plain_never")
    return app.task(shape.body, shared=False, base=DurableTask, name=shape.name)


def lambda_named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


def shapes() -> list[Shape]:
    return [shape for shape in corpus_control.CORPUS if shape.name not in {*NOT_OF_CELERY, LOOKS_AT_THE_CLOCK}]


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.name)
def test_a_clean_shape_passes(app: Any, shape: Shape) -> None:
    task = declare(app, shape)
    with DurableEnv(app) as env:
        run = env.check_replay(task, script=act(shape))
    assert run.status in ("completed", "failed", "cancelled")
    assert run.steps


def test_one_that_looks_at_the_clock_is_found(app: Any) -> None:
    shape = next(shape for shape in corpus_control.CORPUS if shape.name == LOOKS_AT_THE_CLOCK)
    with DurableEnv(app) as env, pytest.raises(AssertionError, match=r"datetime\.now.*corpus\.py"):
        env.check_replay(declare(app, shape))
