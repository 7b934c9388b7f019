"""What Sentry is sent of durable runs: real workers, the real SDK, a transport that keeps what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.contrib.monitoring import LIMIT, Monitored
from tests.services import Services
from tests.waiting import wait_until

START = """
import sentry_sdk
with {begin}:
    print("trace", sentry_sdk.get_traceparent().split("-")[0])
    for task in (parks, step_fails, complains, waits):
        print(task.__name__, task.delay().id)
print("fails", parks.delay(True).id)
print("ordinary", ordinary.delay().id)
sentry_sdk.flush()
"""

IN_TRANSACTION = "sentry_sdk.start_transaction(name='request', op='http.server')"
IN_SEGMENT = "sentry_sdk.traces.start_span(name='request', parent_span=None)"


@dataclass
class Reported:
    """What was sent to Sentry, and the ids of the runs."""

    told: list[dict[str, Any]]
    ids: dict[str, str]

    def _items(self, kind: str) -> list[dict[str, Any]]:
        return [item["payload"] for item in self.told if item["type"] == kind]

    def errors(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self._items("event") if event["tags"].get("celery_task_id") == self.ids[name]]

    def passes(self, name: str) -> list[dict[str, Any]]:
        found = [event for event in self._items("transaction") if event["tags"].get("durable.run_id") == self.ids[name]]
        return sorted(found, key=lambda event: event["contexts"]["durable"]["passes"])

    def spans(self) -> list[dict[str, Any]]:
        """Where spans are sent one by one."""
        return [span for payload in self._items("span") for span in payload["items"]]


def report(folder: Any, services: Services, monitors: str, pool: str, begin: str) -> Reported:
    services.redis.flush()
    site = Monitored(folder, services.redis.url, monitors, durable_eta_horizon="1ms")
    try:
        worker = site.work(pool)
        words = site.python(START.format(begin=begin))
        ids = dict(zip(words[::2], words[1::2], strict=True))
        site.wait_until_it_waits(ids["waits"], "the event 'never'")
        for run, key in ((ids["parks"], "False"), (ids["fails"], "True")):
            site.wait_until_it_waits(run, "the event 'go'")
            site.durable.emit("go", key=key)
        site.durable.cancel(ids["waits"])
        for name, status in (
            ("parks", "completed"), ("complains", "completed"), ("waits", "cancelled"), ("fails", "failed"),
            ("step_fails", "failed"),
        ):  # fmt: skip
            site.wait_for(ids[name], status)
        worker.process.terminate()  # warm: what the children have is sent before they end
        wait_until(lambda: worker.ended, LIMIT, "the worker ends")
        return Reported(site.told(), ids)
    finally:
        site.close()


@pytest.fixture(scope="module", params=["prefork", "solo"])
def reported(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Reported:
    return report(tmp_path_factory.mktemp("reported"), services, "sentry", request.param, IN_TRANSACTION)


@pytest.fixture(scope="module")
def streamed(services: Services, tmp_path_factory: Any) -> Reported:
    folder = tmp_path_factory.mktemp("streamed")
    return report(folder, services, "sentry,sentry-stream", "prefork", IN_SEGMENT)


def status(event: dict[str, Any]) -> Any:
    return event["contexts"]["trace"]["status"]


def values(event: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["type"], error["value"].partition("\n")[0]) for error in event["exception"]["values"]]


def test_a_parked_pass_is_no_failure(reported: Reported) -> None:
    passes = reported.passes("parks")
    assert [event["contexts"]["durable"]["passes"] for event in passes] == [1, 2, 3, 4]
    assert [status(event) for event in passes] == ["ok"] * 4
    for event in passes:
        assert {span.get("status") for span in event["spans"]} <= {"ok", None}
    assert reported.errors("parks") == []


def test_a_failed_run_is_reported_once(reported: Reported) -> None:
    [error] = reported.errors("fails")
    assert values(error) == [("ValueError", "it failed in the end")]
    assert [status(event) for event in reported.passes("fails")] == ["ok", "ok", "ok", "internal_error"]


def test_attempts_that_are_made_again_are_not_reported(reported: Reported) -> None:
    [error] = reported.errors("step_fails")
    assert values(error) == [("ConnectionError", "there is no line")]
    assert len(reported.passes("step_fails")) == 3


def test_what_a_body_says_at_each_replay_is_reported_once(reported: Reported) -> None:
    assert len(reported.passes("complains")) == 3
    [error] = reported.errors("complains")
    assert error["logentry"]["message"] == "it was hopeless"


def test_a_cancelled_run_is_no_failure(reported: Reported) -> None:
    assert [status(event) for event in reported.passes("waits")] == ["ok", "cancelled"]
    assert reported.errors("waits") == []


def test_tags_say_which_run_it_is(reported: Reported) -> None:
    [error] = reported.errors("fails")
    for event in (error, *reported.passes("fails")):
        assert event["tags"]["durable.run_id"] == reported.ids["fails"]
        assert event["tags"]["durable.task"] == "monitored.parks"
    assert error["contexts"]["durable"] == {"run_id": reported.ids["fails"], "passes": 4}


def test_the_steps_of_the_pass_are_breadcrumbs(reported: Reported) -> None:
    [error] = reported.errors("fails")
    crumbs = [crumb for crumb in error["breadcrumbs"]["values"] if crumb["category"] == "durable.step"]
    assert [crumb["message"] for crumb in crumbs] == ["bounded: completed"]
    [error] = reported.errors("step_fails")
    [crumb] = [crumb for crumb in error["breadcrumbs"]["values"] if crumb["category"] == "durable.step"]
    assert crumb["message"] == "hopeless: failed"
    assert crumb["data"]["attempt"] == 3
    assert crumb["data"]["error"].startswith("ConnectionError: there is no line")


def test_an_ordinary_task_is_reported_as_ever(reported: Reported) -> None:
    [error] = reported.errors("ordinary")
    assert values(error) == [("KeyError", "'ordinary'")]
    assert "durable.run_id" not in error["tags"]


def test_all_passes_are_in_the_trace_of_the_start(reported: Reported) -> None:
    for name in ("parks", "step_fails", "complains"):
        assert {event["contexts"]["trace"]["trace_id"] for event in reported.passes(name)} == {reported.ids["trace"]}


def test_a_run_that_is_started_outside_of_any_transaction_is_one_trace(reported: Reported) -> None:
    [trace] = {event["contexts"]["trace"]["trace_id"] for event in reported.passes("fails")}
    assert trace != reported.ids["trace"]


def test_spans_that_are_streamed_are_no_errors(streamed: Reported) -> None:
    """With ``trace_lifecycle="stream"`` each span is sent by itself."""

    def of_tasks(operation: str) -> list[dict[str, Any]]:
        return [span for span in streamed.spans() if span["attributes"].get("sentry.op", {}).get("value") == operation]

    runs = of_tasks("queue.task.celery")
    failed = [span for span in runs if span["status"] != "ok"]
    assert len(runs) > 12
    assert sorted(span["name"] for span in failed) == ["monitored.ordinary", "monitored.parks", "monitored.step_fails"]
    assert len([span for span in of_tasks("queue.process") if span["status"] != "ok"]) == 3
    ids = [span["attributes"].get("durable.run_id", {}).get("value") for span in runs]
    assert ids.count(streamed.ids["parks"]) == 4
    for name in ("fails", "step_fails", "complains", "ordinary"):
        assert len(streamed.errors(name)) == 1
