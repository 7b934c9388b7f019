"""One run of many tiny steps, against the bare driver doing the same fenced writes."""

from __future__ import annotations

import time
import uuid
from typing import Any

from bench.harness import alternate, one_pass, stores
from celery_durable import step
from celery_durable.store.records import Claim, NewRun
from celery_durable.store.statements import STEP_COLUMNS
from celery_durable.store.store import Store

STEPS = 1_000


def nothing() -> None: ...


def many_steps() -> None:
    for index in range(STEPS):
        step.run(f"step-{index}", nothing)


def ours(store: Store) -> float:
    began = time.perf_counter()
    one_pass(store, many_steps)
    return (time.perf_counter() - began) / STEPS


def bare(store: Store) -> float:
    """The statement of a new step, compiled once and executed on the driver's own cursor."""
    run_id = uuid.uuid4().hex
    with store.link() as link:
        store.start(link, NewRun(run_id, "bench", "[[],{}]", "", "{}"))
        claim = store.claim(link, run_id, worker="bench", lease=30_000_000)
    assert isinstance(claim, Claim)
    statement: Any = store.statements.record_new
    compiled = statement.compile(dialect=store.engine.dialect)
    text = str(compiled)
    values: dict[str, Any] = {f"step_{name}": None for name in STEP_COLUMNS} | {
        "step_kind": "run",
        "step_status": "completed",
        "step_input": "[[],{}]",
        "step_input_hash": "0" * 24,
        "step_result": "null",
        "step_function": "bench.steps.nothing",
        "step_attempts": 1,
        "step_started_at": claim.now,
        "step_finished_at": claim.now,
        "at_id": run_id,
        "at_token": claim.fence.token,
        "lease_until": claim.now + 30_000_000,
    }
    with store.engine.connect() as connection:
        cursor = connection.connection.cursor()
        began = time.perf_counter()
        for index in range(STEPS):
            values |= {"step_id": f"step-{index}", "step_position": index}
            parameters: Any = compiled.construct_params(values)
            if compiled.positional:
                parameters = tuple(parameters[name] for name in compiled.positiontup)
            cursor.execute(text, parameters)
        took = (time.perf_counter() - began) / STEPS
        cursor.close()
    return took


def main() -> None:
    print(f"\nsteps: one run of {STEPS} tiny steps; microseconds per step, medians of 5 alternating turns")
    with stores() as made:
        for name, store in made.items():
            one_pass(store, many_steps)  # warm
            own, other, ratio = alternate(5, lambda store=store: ours(store), lambda store=store: bare(store))  # type: ignore[misc]
            print(f"  {name:<11} ours {own * 1e6:7.0f}   bare driver {other * 1e6:7.0f}   ratio {ratio:.2f}")
