"""The page of a run, of its steps, and its history as a file, on the shop's runs and on some that are odd."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable, DurableTask, Retry, aio, get_logger, step
from celery_durable.console import Console
from celery_durable.console.segments import to_segment
from celery_durable.testing import DurableEnv
from tests.alone import alone

logger = get_logger(__name__)

VIEWS = ("list", "flow", "timeline")
ODD_RUN = """a/b "c" 'd' <script>alert(1)</script> ü→☃ ?&#%"""
ODD_STEP = """x/y <img src=q onerror=alert(2)> "z" 'ü☃' %2F"""


def failed_run(durable: Durable) -> str:
    return durable.runs(status="failed", limit=1)[0].id


def lines_of(text: str) -> str:
    """What is to be read on a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text.partition("<main")[2]))


def links(text: str) -> list[str]:
    return re.findall(r'href="([^"]*)"', text)


class TestHowItStands:
    def test_what_it_waits_for_until_when_and_who_is_asked(self, client: Client, durable: Durable) -> None:
        text = client.get("/run/order-36").text
        until = durable.get("order-36").wake_at
        assert until is not None
        said = lines_of(text)
        assert "Waits for the event &#39;order.approved&#39; with the key &#39;o-36&#39;" in said
        assert f"until {until:%Y-%m-%d %H:%M:%SZ}" in said
        assert "Ship order o-36 for 360.0 EUR?" in said
        assert 'data-time="until"' in text
        assert "/run/order-36/answer?step=approve" in links(text)

    def test_the_step_that_it_failed_of_with_its_error(self, client: Client, durable: Durable) -> None:
        run_id = failed_run(durable)
        text = client.get(f"/run/{run_id}").text
        assert "Failed at step unlock" in lines_of(text)
        assert "NoSuchCustomer" in text
        assert "no account of" in text
        assert "Traceback (most recent call last)" in text
        assert "in unlock" in text
        assert f"/run/{run_id}/step/unlock" in links(text)
        assert "<script>alert" not in text

    def test_why_it_is_paused(self, client: Client) -> None:
        assert "Paused: by ada: to be looked at first" in lines_of(client.get("/run/order-16").text)

    def test_why_it_was_cancelled_and_what_was_undone(self, client: Client) -> None:
        said = lines_of(client.get("/run/order-12").text)
        assert "Cancelled: the customer asked for it" in said
        assert "refund undo" in said

    def test_what_was_done_to_it_by_whom_and_why(self, client: Client) -> None:
        said = lines_of(client.get("/run/order-12").text)
        assert "cancel by ada" in said

    def test_its_input_its_result_and_whom_it_comes_from(self, client: Client) -> None:
        text = client.get("/run/order-0").text
        assert "&#34;o-0&#34;" in text
        assert "tracking" in text
        assert "/run/order-0-again" in links(text)
        assert "/run/order-0" in links(client.get("/run/order-0-again").text)
        assert "/run/order-4" in links(client.get("/run/order-4-fork").text)

    def test_the_event_that_started_it(self, client: Client, durable: Durable) -> None:
        assert "/event/customer-37" in links(client.get(f"/run/{durable.event('customer-37').started[0]}").text)

    def test_a_child_and_its_parent_lead_to_each_other(self, client: Client, durable: Durable) -> None:
        (child,) = durable.get("order-0").children
        assert f"/run/{child}" in links(client.get("/run/order-0").text)
        assert {"/run/order-0", "/run/order-0/step/fraud"} <= set(links(client.get(f"/run/{child}").text))


class TestWhatCanBeDone:
    def actions(self, client: Client, run_id: str) -> set[str]:
        text = client.get(f"/run/{run_id}").text
        prefix = f"/run/{run_id}/"
        return (
            {link.removeprefix(prefix).partition("?")[0] for link in links(text) if link.startswith(prefix)}
            - {"history.json"}
            - {link.removeprefix(prefix) for link in links(text) if link.startswith(f"{prefix}step/")}
        )

    @pytest.mark.parametrize(
        ("run_id", "actions"),
        [
            ("order-36", {"pause", "fork", "replay", "cancel", "answer"}),
            ("order-16", {"resume", "fork", "replay", "cancel", "answer"}),
            ("order-0", {"fork", "replay"}),
            ("order-12", {"replay"}),  # rolled back
        ],
    )
    def test_what_its_status_allows(self, client: Client, run_id: str, actions: set[str]) -> None:
        assert self.actions(client, run_id) == actions

    def test_a_failed_run_is_retried_forked_or_replayed(self, client: Client, durable: Durable) -> None:
        assert self.actions(client, failed_run(durable)) == {"retry", "fork", "replay"}

    def test_what_this_person_may_do(self, make: Callable[..., Celery]) -> None:
        allowed = Client(Console(make(durable_console_allow={"eve": ["pause"]}), identify=lambda request: "eve"))
        assert self.actions(allowed, "order-36") == {"pause"}

    def test_nothing_where_the_console_is_read_only(self, make: Callable[..., Celery]) -> None:
        reader = Client(Console(make(durable_console_read_only=True), identify=lambda request: "ada"))
        assert self.actions(reader, "order-36") == set()


class TestViews:
    @pytest.mark.parametrize("view", VIEWS)
    @pytest.mark.parametrize("run_id", ["order-0", "order-12", "order-16", "order-36", "order-new", "order-4-fork"])
    def test_each_view_has_all_steps(self, client: Client, durable: Durable, run_id: str, view: str) -> None:
        text = client.get(f"/run/{run_id}?view={view}").text
        found = links(text.partition('id="run-view"')[2].partition("<aside")[0])
        for record in durable.get(run_id).steps:
            assert f"/run/{run_id}/step/{to_segment(record.id)}" in found

    @pytest.mark.parametrize("view", VIEWS)
    def test_the_tab_of_the_view_is_marked(self, client: Client, view: str) -> None:
        text = client.get(f"/run/order-0?view={view}").text
        assert re.findall(r'aria-current="page">([^<]*)</a>', text) == ["Runs", view.capitalize()]

    @pytest.mark.parametrize("view", VIEWS)
    def test_where_it_is_now_is_marked(self, client: Client, view: str) -> None:
        assert client.get(f"/run/order-36?view={view}").text.count('aria-current="step"') == 1
        assert 'aria-current="step"' not in client.get(f"/run/order-0?view={view}").text

    def test_the_list_says_in_a_line_what_became_of_each(self, client: Client) -> None:
        said = lines_of(client.get("/run/order-0").text)
        assert "{&#34;transaction&#34;: &#34;tx-o-0&#34;, &#34;amount&#34;: 0.0}" in said
        assert "sleep · parallel \u203a race" in said

    def test_the_graph_has_its_blocks_and_the_run_that_was_called_within(self, client: Client) -> None:
        text = client.get("/run/order-0?view=flow").text
        assert text.index('aria-label="parallel"') < text.index('aria-label="race"') < text.index('aria-label="map"')
        assert "step/history" not in text
        assert "/run/order-0?view=flow&amp;open=fraud" in links(text)
        opened = client.get("/run/order-0?view=flow&open=fraud&open=nothing&open=ship").text
        assert "step/history" in opened

    def test_the_timeline_folds_the_time_in_which_nothing_was_done(self, client: Client) -> None:
        text = client.get("/run/order-0?view=timeline").text
        assert 'class="gap' in text
        unfolded = client.get("/run/order-0?view=timeline&unfold=1").text
        assert 'class="gap' not in unfolded
        assert "/run/order-0?view=timeline" in links(unfolded)

    def test_the_timeline_has_each_attempt_and_the_time_between(self, client: Client) -> None:
        row = client.get("/run/order-0?view=timeline").text.partition('id="time-charge"')[2].partition("</li>")[0]
        assert re.findall(r"bar sort-(\w+)", row) == ["failed", "backoff", "failed", "backoff", "work"]

    def test_places_and_widths_are_classes(self, client: Client) -> None:
        for view in VIEWS:
            assert not re.search(r"<[^>]* style=", client.get(f"/run/order-0?view={view}").text)

    def test_no_other_view(self, client: Client) -> None:
        assert client.get("/run/order-0?view=pie").status_code == 400
        assert client.get("/run/order-0?from=-1").status_code == 400


class TestLive:
    def test_a_run_that_goes_on_is_asked_for_again_and_one_that_has_ended_is_not(self, client: Client) -> None:
        assert "data-live-every" in client.get("/run/order-36").text
        assert "data-live-every" in client.get("/run/order-36/step/approve").text
        assert "data-live-every" not in client.get("/run/order-0").text
        assert "data-live-every" not in client.get("/run/order-0/step/charge").text

    @pytest.mark.parametrize("view", VIEWS)
    def test_nothing_is_sent_again_while_nothing_changes(self, client: Client, view: str) -> None:
        first = client.get(f"/run/order-36?view={view}")
        again = client.get(f"/run/order-36?view={view}", headers={"If-None-Match": first.headers["ETag"]})
        assert again.status_code == 304

    @pytest.mark.parametrize("path", ["order-36?view=list", "order-0?view=flow", "order-36/step/approve"])
    def test_what_changes_has_ids_of_its_own(self, client: Client, path: str) -> None:
        text = client.get(f"/run/{path}").text
        ids = re.findall(r' id="([^"]*)"', text)
        assert len(ids) == len(set(ids))
        assert all(' id="' in tag for tag in re.findall(r"<[^>]* data-live(?:>| )[^>]*", text))


class TestStep:
    def test_input_result_attempts(self, client: Client) -> None:
        said = lines_of(client.get("/run/order-0/step/charge").text)
        assert "step 7 of 12" in said
        assert "3 attempts" in said
        assert said.count("ConnectionError: payment service: 503 Service Unavailable") == 2
        assert "&#34;transaction&#34;: &#34;tx-o-0&#34;" in said

    def test_its_error_with_traceback(self, client: Client, durable: Durable) -> None:
        text = client.get(f"/run/{failed_run(durable)}/step/unlock").text
        assert "Traceback (most recent call last)" in text
        assert "&lt;script&gt;alert" in text
        assert "<script>alert" not in text

    def test_the_event_that_it_took(self, client: Client) -> None:
        text = client.get("/run/order-0/step/approve").text
        assert "/event/approved-0" in links(text)
        assert "&#34;approved&#34;: true" in text

    def test_the_run_that_it_called(self, client: Client, durable: Durable) -> None:
        assert f"/run/{durable.get('order-0').children[0]}" in links(client.get("/run/order-0/step/fraud").text)

    def test_the_one_before_and_the_one_after(self, client: Client) -> None:
        first, last = client.get("/run/order-0/step/validate").text, client.get("/run/order-0/step/ship").text
        assert 'rel="prev"' not in first
        assert "/run/order-0/step/reserve-stock" in links(first)
        assert 'rel="next"' not in last

    def test_what_can_be_done_from_here(self, client: Client) -> None:
        assert "/run/order-36/answer?step=approve" in links(client.get("/run/order-36/step/approve").text)
        assert "/run/order-0/fork?step=ship" in links(client.get("/run/order-0/step/ship").text)
        assert not any("/fork" in link for link in links(client.get("/run/order-12/step/charge").text))

    def test_one_that_was_not_recorded(self, client: Client) -> None:
        answer = client.get("/run/order-0/step/nothing")
        assert answer.status_code == 404
        assert "no step" in answer.text


class TestHistory:
    def test_it_is_a_file(self, client: Client) -> None:
        answer = client.get("/run/order-0/history.json")
        assert answer.headers["Content-Disposition"] == "attachment; filename=order-0.history.json"
        told = json.loads(answer.text)
        assert told["run"]["id"] == "order-0"
        assert len(told["steps"]) == 12

    def test_of_no_run(self, client: Client) -> None:
        assert client.get("/run/nothing/history.json").status_code == 404


@pytest.mark.parametrize("view", VIEWS)
def test_a_run_that_is_gone(client: Client, view: str) -> None:
    answer = client.get(f"/run/gone?view={view}")
    assert answer.status_code == 404
    assert "there is no run" in lines_of(answer.text)
    assert client.get("/run/gone/step/a").status_code == 404


# -- Runs that are odd


def say() -> None:
    logger.warning("a step says")


@pytest.fixture(scope="module")
def odd_app() -> Celery:
    """Tasks whose runs are odd in one way or another."""
    app = alone("odd")
    app.conf.update(durable_database_url="sqlite://", durable_auto_migrate=True, durable_store_logs=True)

    @app.task(name="odd.named", shared=False, base=DurableTask)
    def named(text: str, password: str = "hunter2hunter2") -> str:
        with step.parallel() as p:
            p.run(ODD_STEP, lambda: text)
            p.wait_for_event("<b>event</b>", key="<i>key</i>", prompt="<u>prompt</u>")
        return text

    @app.task(name="odd.long", shared=False, base=DurableTask)
    def long() -> None:
        for number in range(450):
            step.run(f"s{number}", int)
        step.wait_for_event("go")

    @app.task(name="odd.bare", shared=False, base=DurableTask)
    def bare() -> None:
        pass

    @app.task(name="odd.body", shared=False, base=DurableTask)
    def body() -> None:
        step.run("fine", int)
        raise ValueError("<em>not of a step</em>")

    @app.task(name="odd.survivor", shared=False, base=DurableTask)
    def survivor() -> str:
        with suppress(ZeroDivisionError):
            step.options(retry=Retry(max_attempts=2)).run("broken", lambda: 1 // 0)
        step.run("talks", say)
        logger.error("<s>the body</s> says")
        step.emit("tell", "told", {"a": 1})
        return "went on"

    @app.task(name="odd.together", shared=False, base=DurableTask)
    async def together() -> None:
        await asyncio.gather(aio.step.sleep("short", "1m"), aio.step.sleep("long", "2m"))

    @app.task(name="odd.plain", shared=False)
    def plain() -> int:
        return 1

    @app.task(name="odd.caller", shared=False, base=DurableTask)
    def caller() -> int:
        return int(step.call("ordinary", plain.s()))

    return app


@pytest.fixture
def odd(odd_app: Celery) -> Iterator[tuple[Client, DurableEnv]]:
    """A console over an environment in which their runs can be made."""
    with DurableEnv(odd_app) as env:
        yield Client(Console(odd_app, identify=lambda request: "ada")), env


def pages_of(client: Client, run_id: str) -> dict[str, str]:
    found = {}
    for view in VIEWS:
        answer = client.get(f"/run/{to_segment(run_id)}?view={view}")
        assert answer.status_code == 200, answer.text
        found[view] = answer.text
    return found


def test_whatever_a_run_or_a_step_is_called_nothing_of_it_is_markup(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.named"].s("</script><script>alert(3)</script>").set(task_id=ODD_RUN))
    pages = pages_of(client, ODD_RUN)
    pages["step"] = client.get(f"/run/{to_segment(ODD_RUN)}/step/{to_segment(ODD_STEP)}").text
    for text in pages.values():
        assert "alert(" in text
        assert not re.search(r"<(script|img|b|i|u)\b", text.partition("<main")[2])
        for link in links(text):
            assert link.startswith(("/", "#"))
    assert "&lt;u&gt;prompt&lt;/u&gt;" in pages["list"]
    history = client.get(f"/run/{to_segment(ODD_RUN)}/history.json")
    assert json.loads(history.text)["run"]["id"] == ODD_RUN
    assert "hunter2" not in history.text


def test_a_run_without_steps(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.bare"].s().set(task_id="bare"))
    for text in pages_of(client, "bare").values():
        assert "The body ended without a step." in text
        assert "/run/bare/fork" not in links(text)


def test_a_run_that_has_not_begun(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.bare"].s().set(task_id="later", countdown=3600))
    for text in pages_of(client, "later").values():
        assert "Waits for a worker to begin at" in lines_of(text)
        assert 'class="status is-pending"' in text
        assert "A step shows up here" in text


def test_an_error_of_the_body_is_no_step_s(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.body"].s().set(task_id="body"))
    text = client.get("/run/body").text
    assert "Failed, in the body after step fine" in lines_of(text)
    assert "&lt;em&gt;not of a step" in text


def test_an_error_that_the_body_has_caught_is_told_and_is_not_the_run_s(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.survivor"].s().set(task_id="survivor"))
    env.run_until_idle()
    text = client.get("/run/survivor").text
    assert "1 step failed and the body went on: broken" in lines_of(text)
    assert "Failed at" not in text
    event = env.durable.events(name="told")[0].id
    assert f"/event/{to_segment(event)}" in links(client.get("/run/survivor/step/tell").text)


def test_what_overlaps_in_an_async_body_is_side_by_side(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.together"].s().set(task_id="together"))
    assert 'aria-label="side by side"' in client.get("/run/together?view=flow").text


def test_an_ordinary_task_that_is_called_has_no_graph(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.caller"].s().set(task_id="caller"))
    for text in pages_of(client, "caller").values():
        child = env.durable.get("caller").children[0]
        assert child in text or "its run" in text
    assert "It has recorded no step." in client.get("/run/caller?view=flow&open=ordinary").text
    text = client.get(f"/run/{env.durable.get('caller').children[0]}").text
    assert "an ordinary task that a run has called" in text
    assert "/replay" not in text


def test_of_a_long_run_some_steps_are_shown_and_the_way_to_the_others(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.long"].s().set(task_id="long"))
    for view in ("list", "timeline"):
        last = client.get(f"/run/long?view={view}").text
        assert "Steps 252\u2013451 of 451" in lines_of(last)
        assert last.count(" data-row") == 200
        assert f"/run/long?view={view}&amp;from=51" in links(last)
        early = client.get(f"/run/long?view={view}&from=0").text
        assert "Steps 1\u2013200 of 451" in lines_of(early)
        assert "/run/long/step/go" in links(early), "what it waits for is shown wherever it is"
    graph = client.get("/run/long?view=flow").text
    assert "… 427 steps" in lines_of(graph)
    assert "/run/long?from=8" in links(graph)


def test_what_it_and_its_steps_said(odd: tuple[Client, DurableEnv]) -> None:
    client, env = odd
    env.start(env.app.tasks["odd.survivor"].s().set(task_id="survivor"))
    env.run_until_idle()
    said = lines_of(client.get("/run/survivor").text)
    assert "WARNING talks a step says" in said
    assert "ERROR &lt;s&gt;the body&lt;/s&gt; says" in said
    of_step = lines_of(client.get("/run/survivor/step/talks").text)
    assert "a step says" in of_step
    assert "the body" not in of_step
