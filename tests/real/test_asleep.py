"""Runs that sleep are rows: no memory in the worker, no message in the broker, nearly no work."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from tests.real import tasks
from tests.real.stage import Stage, Worker
from tests.waiting import wait_until

SLEEPERS = int(os.environ.get("DURABLE_SLEEPERS", "2000"))
DAY = 86_400.0


@pytest.mark.slow
def test_sleepers_cost_rows(stage: Stage) -> None:
    """DURABLE_SLEEPERS=50000 makes it a long one."""
    (worker,) = stage.start_workers("one", concurrency=2)
    # What a worker grows by when it first works is not the sleepers' doing.
    assert [tasks.twice_parked.delay(1).get(timeout=20) for _ in range(20)] == [2] * 20
    before = memory(worker)

    for _ in range(SLEEPERS):
        tasks.asleep.apply_async((DAY,), ignore_result=True)
    wait_until(lambda: stage.count("suspended") == SLEEPERS, 120, "all of them sleep")

    assert memory(worker) - before < 20 * 2**20
    # The last of them are acknowledged after they sleep, and their marks written a while after that.
    wait_until(lambda: messages_out(stage) == 0, 20, "no message is out")
    wait_until(lambda: idle_share(worker, seconds=8) < 0.01, 60, "the worker is idle")


def processes(worker: Worker) -> list[psutil.Process]:
    return [worker.process, *worker.process.children(recursive=True)]


def memory(worker: Worker) -> int:
    return sum(process.memory_info().rss for process in processes(worker))


def messages_out(stage: Stage) -> int:
    """Messages in the queue, and those that the worker holds without having acknowledged them."""
    with stage.celery.connection_for_read() as connection:
        channel = connection.default_channel
        if connection.transport.driver_type == "redis":
            client = channel.client
            return int(client.llen(stage.celery.conf.task_default_queue) + client.hlen(channel.unacked_key))
        return int(channel.queue_declare(stage.celery.conf.task_default_queue, passive=True).message_count)


def idle_share(worker: Worker, seconds: float) -> float:
    """The part of one core that the worker uses while nothing happens."""

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes(worker))

    began = used()
    time.sleep(seconds)  # the length of the measurement
    return (used() - began) / seconds
