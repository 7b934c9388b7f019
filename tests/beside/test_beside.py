"""Durable tasks beside the packages that Celery's users have most: each for real, in processes of its own."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from celery import Signature, chain, chord
from celery.schedules import schedule

from tests.beside.conftest import LIMIT, Beside, Flower
from tests.waiting import wait_until

for _package in ("django_celery_beat", "django_celery_results", "flower", "redbeat"):
    if find_spec(_package) is None:
        pytest.skip(f"{_package} is not installed; the extra dev has it", allow_module_level=True)

TICKS = 2


def results(beside: Beside, task: str) -> list[object]:
    """What the completed runs of a task have come to."""
    return [beside.durable.get(run.id).result for run in beside.durable.runs(task=task, status="completed")]


def of(beside: Beside, task: str, run_id: str, *args: str) -> Signature:
    return beside.app.signature(f"beside.{task}", args=args, task_id=run_id)


# -- Beats


def test_a_periodic_task_of_django_celery_beat_starts_runs(beside: Beside) -> None:
    beside.app.send_task("beside.plan", ("by django", "django"))
    wait_until(lambda: results(beside, "beside.planned").count("django") >= TICKS, LIMIT, "its runs have ended")
    named = "SELECT DISTINCT status FROM django_celery_results_taskresult WHERE periodic_task_name = 'by django'"
    wait_until(lambda: ("SUCCESS",) in beside.rows(named), LIMIT, "the results name the periodic task")


def test_an_entry_of_redbeat_starts_runs(beside: Beside) -> None:
    from redbeat import RedBeatSchedulerEntry

    RedBeatSchedulerEntry("by redbeat", "beside.planned", schedule(1), args=["redbeat"], app=beside.app).save()
    wait_until(lambda: results(beside, "beside.planned").count("redbeat") >= TICKS, LIMIT, "its runs have ended")


def test_a_schedule_of_the_task_starts_one_run_per_tick_with_both_beats(beside: Beside) -> None:
    def sent(beat: str) -> int:
        return beside.log(beat).count("Sending due task beside.ticking [0]")

    wait_until(lambda: min(sent("django-beat"), sent("redbeat")) >= TICKS, LIMIT, "both beats have sent it")
    wait_until(lambda: len(results(beside, "beside.ticking")) >= TICKS, LIMIT, "its runs have ended")
    ids = [run.id for run in beside.durable.runs(task="beside.ticking")]
    assert len(ids) < sent("django-beat") + sent("redbeat")
    assert all(int(run_id[-3:-1]) % 2 == 0 for run_id in ids)  # every two seconds, by the clock


# -- Results, and Flower


def test_a_parked_run_is_one_task_that_has_started(beside: Beside, flower: Flower) -> None:
    beside.start_order("o-1")
    beside.wait_for_result("o-1", "STARTED")
    parked = beside.result("o-1")
    assert parked["task_name"] == "beside.order"
    assert "order.paid" in json.loads(parked["result"])["waiting_on"]
    flower.wait_for("o-1", "WAITING")

    beside.durable.emit("order.paid", key="o-1")
    beside.wait_for_result("o-1", "SUCCESS")
    assert json.loads(beside.result("o-1")["result"]) == "shipped o-1"
    flower.wait_for("o-1", "SUCCESS")
    seen = flower.task("o-1")
    assert (seen["name"], seen["retries"], seen["failed"], seen["result"]) == ("beside.order", 0, None, "'shipped o-1'")
    assert (seen["root_id"], seen["parent_id"], seen["children"]) == ("o-1", None, [])


def test_a_run_that_fails_is_a_failure(beside: Beside, flower: Flower) -> None:
    beside.start_order("o-2")
    beside.durable.emit("order.paid", "refused", key="o-2")
    beside.wait_for_result("o-2", "FAILURE")
    assert "the payment of o-2 was refused" in beside.result("o-2")["result"]
    flower.wait_for("o-2", "FAILURE")


def test_flower_starts_runs_and_revokes_them(beside: Beside, flower: Flower) -> None:
    run_id = flower.post("task/async-apply/beside.order", args=["o-3"])["task-id"]
    beside.wait_for_order(run_id)
    flower.post(f"task/revoke/{run_id}")
    beside.wait_for_result(run_id, "REVOKED")
    assert beside.durable.get(run_id).status == "cancelled"
    flower.wait_for(run_id, "REVOKED")


def test_chain_and_chord_wait_for_parked_members(beside: Beside) -> None:
    # The parts of a chord are counted in Django's database, by the process that starts it.
    members = [of(beside, "order", run_id, run_id) for run_id in ("o-5", "o-6")]
    for canvas in (
        chain(of(beside, "order", "o-4", "o-4"), of(beside, "planned", "p-4")),
        chord(members, of(beside, "total", "t-5")),
    ):
        beside.app.send_task("beside.start_canvas", (canvas,))
    for run_id in ("o-4", "o-5", "o-6"):
        beside.wait_for_order(run_id)
    assert (beside.result("p-4"), beside.result("t-5")) == ({}, {})
    for run_id in ("o-4", "o-5", "o-6"):
        beside.durable.emit("order.paid", key=run_id)
    for task_id, came in (("p-4", "shipped o-4"), ("t-5", "shipped o-5, shipped o-6")):
        beside.wait_for_result(task_id, "SUCCESS")
        assert json.loads(beside.result(task_id)["result"]) == came


def test_a_result_can_be_waited_for(beside: Beside) -> None:
    beside.start_order("o-7")
    beside.app.send_task("beside.get", ("o-7",), task_id="get-o-7")
    wait_until(lambda: "o-7 is STARTED" in beside.log("worker"), LIMIT, "somebody waits for the result")
    beside.durable.emit("order.paid", key="o-7")
    beside.wait_for_result("get-o-7", "SUCCESS")
    assert json.loads(beside.result("get-o-7")["result"]) == "shipped o-7"
