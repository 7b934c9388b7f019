"""The pages of the console over a million runs, and over a run of thousands of steps: all that the console does for
each, from the request to the page as text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from celery import Celery
from sqlalchemy import insert
from werkzeug.test import Client

from bench.harness import stores
from bench.seeding import COMMON_TASK, RARE_TASK, TASKS, seed
from celery_durable import DurableTask
from celery_durable.console import Console
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.store.store import Store

RUNS = 1_000_000
STEPS = 5_000
TURNS = 7
LONG_RUN = "a-run-of-many-steps"

PAGES = {
    "runs": "/",
    "runs, the 40th page": "",  # its address is on the page before it
    "runs, suspended": "/?status=suspended",
    "runs, failed or cancelled": "/?status=failed&status=cancelled",
    "runs of a rare task": f"/?task={RARE_TASK}",
    "runs of a common task, failed": f"/?task={COMMON_TASK}&status=failed",
    "runs of the last hour": "/?since=1h",
    "search: in the newest": "/?search=example.com",
    "search: an id": f"/?search={LONG_RUN}",
    "search: nowhere": "/?search=not-to-be-found",
    "waiting on an event": "/?waiting_on=order.paid",
    "a run of 5,000 steps: list": f"/run/{LONG_RUN}",
    "a run of 5,000 steps: flow": f"/run/{LONG_RUN}?view=flow",
    "a run of 5,000 steps: timeline": f"/run/{LONG_RUN}?view=timeline",
    "one step of it": f"/run/{LONG_RUN}/step/work-2500",
    "cancel it: the question": f"/run/{LONG_RUN}/cancel",
    "retry all: the question": "/runs/retry?status=failed",
    "events": "/events",
    "tasks": "/tasks",
    "a task": f"/task/{COMMON_TASK}",
    "workers": "/workers",
    "deeds": "/deeds",
}


def main() -> None:
    print(f"\nconsole: pages over {RUNS:,} runs; milliseconds, medians of {TURNS} turns (and the slowest of them)")
    figures = {}
    with stores() as made:
        for name, store in made.items():
            seed(store, RUNS)
            with_many_steps(store)
            figures[name] = dict(measured(store))
    print(f"  {'':<32}" + "".join(f"{name:>20}" for name in figures))
    for page in PAGES:
        cells = (figures[name][page] for name in figures)
        print(f"  {page:<32}" + "".join(f"{f'{median:,.0f} ({slowest:,.0f})':>20}" for median, slowest in cells))


def measured(store: Store) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each page's median and maximum."""
    client = Client(Console(shop(store), identify=lambda request: "ada"))
    addresses = PAGES | {"runs, the 40th page": address_of_page(client, 40)}
    for name, address in addresses.items():
        times = [timed(client, address) for _ in range(TURNS)]
        yield name, (statistics.median(times), max(times))


def timed(client: Client, address: str) -> float:
    began = time.perf_counter()
    answer = client.get(address)
    took = time.perf_counter() - began
    assert answer.status_code == 200, f"{address}: {answer.status}"
    return took * 1000


def address_of_page(client: Client, number: int) -> str:
    """As somebody finds it who goes on to older runs again and again."""
    address = "/"
    for _ in range(number - 1):
        text = client.get(address).text
        address = text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
        assert address, "there is no further page"
    return address


def shop(store: Store) -> Celery:
    """An app with the tasks that the runs are of."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(
        durable_database_url=store.engine.url.render_as_string(hide_password=False),
        durable_table_prefix=store.prefix,
    )
    for name in (*TASKS, RARE_TASK):
        app.task(name=name, base=DurableTask, shared=False)(worked)
    return app


def worked(user_id: str, email: str, note: str = "") -> dict[str, Any]:
    """What the tasks would do."""
    raise AssertionError("nobody executes these runs")


def with_many_steps(store: Store) -> None:
    """A run in the midst of its work: steps one after the other, blocks of ten, a map, some tried twice."""
    run, step, run_input = store.tables.run, store.tables.step, store.tables.input
    with store.link() as link:
        now = store.now(link)
        began = now - STEPS * SECOND
        made = {
            "id": LONG_RUN, "task": COMMON_TASK, "status": "suspended", "waiting_on": "the event 'approval'",
            "token": 1, "sends": 0, "passes": 3, "retries": 0, "recoveries": 0, "progress": 0,
            "input_hash": "0" * 24, "created_at": began, "started_at": began,
        }  # fmt: skip
        given = {"run_id": LONG_RUN, "arguments": encode([[], {"user_id": "u-1"}]), "message": "{}"}
        rows = [_a_step(position, began) for position in range(STEPS)]
        link.run(lambda connection: connection.execute(insert(run), made))
        link.run(lambda connection: connection.execute(insert(run_input), given))
        link.run(lambda connection: connection.execute(insert(step), rows))


def _a_step(position: int, began: int) -> dict[str, Any]:
    last = position == STEPS - 1
    block = None
    if position % 100 >= 90:
        block = f"parallel:{position - position % 10}"
    elif 1000 <= position < 1500:
        block = "map:1000"
    return {
        "run_id": LONG_RUN, "id": "approval" if last else f"work-{position}", "position": position,
        "kind": "wait" if last else "run", "function": None if last else "shop.tasks.work",
        "status": "waiting" if last else "completed", "input_hash": "0" * 24,
        "input": encode({"event": "approval", "key": None} if last else [[position], {"note": "z" * 80}]),
        "result": None if last else encode({"number": position, "note": "z" * 80}),
        "attempts": 2 if position % 50 == 7 else 1, "seen": None if last else position, "block": block,
        "started_at": began + position * SECOND,
        "finished_at": None if last else began + position * SECOND + SECOND // 2,
    }  # fmt: skip
