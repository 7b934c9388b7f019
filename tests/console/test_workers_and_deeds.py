"""Who executes runs and what waits; and who did what."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest
from werkzeug.test import Client

from celery_durable import Durable
from celery_durable.model import Health, LateRun, WorkerInfo, Workload

from .acting import send, text_of


def looked_at(client: Client, monkeypatch: pytest.MonkeyPatch, load: Workload, *late: LateRun) -> str:
    """The page of a workload that no test can bring about at will."""
    monkeypatch.setattr(Durable, "workload", lambda self: load)
    monkeypatch.setattr(Durable, "health", lambda self: Health(clock=load.clock, late=late))
    return text_of(client.get("/workers"))


def test_a_shop_whose_workers_are_all_away(client: Client) -> None:
    text = text_of(client.get("/workers"))
    assert "Sweeper broken none Nothing wakes by time" in text
    assert "Clocks agree" in text
    assert "Asleep" in text
    assert "No worker executes a run, and none sweeps" in text


def test_workers_at_work(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(timezone.utc)
    soon = now + timedelta(seconds=20)
    load = Workload(
        clock=now,
        workers=(
            WorkerInfo(name="w1@host", runs=("order-36", "order-32"), runs_total=25, lease_until=soon),
            WorkerInfo(name="w2@host", sweeps=True),
        ),
        sweeper="w2@host",
        sweeper_until=now + timedelta(seconds=9),
        asleep=10_000,
    )
    text = looked_at(client, monkeypatch, load)
    assert "Sweeper w2@host The worker that wakes what is due." in text
    assert "w1@host 25 order-36 , order-32 and 23 more" in text
    assert "w2@host sweeps 0 none at this moment" in text
    assert "Asleep 10,000+" in text
    assert "No run is late." in text
    assert "broken" not in text


def test_what_is_bad_says_so_and_what_to_do(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = datetime.now(timezone.utc) + timedelta(minutes=30)
    late = (
        LateRun(id="order-36", task="shop.order", status="running", worker="w9", late=90.0),
        LateRun(id="order-32", task="shop.order", status="suspended", sends=7, late=70.0),
        LateRun(id="order-28", task="shop.order", status="suspended", sends=1, late=12.0),
        LateRun(id="order-24", task="shop.order", status="suspended", late=2.0),
    )
    load = Workload(clock=clock, sweeper="w1", due=4, lag=90.0, undispatched_events=3, event_lag=20.0)
    text = looked_at(client, monkeypatch, load, *late)
    assert "Lag broken" in text
    assert "Undispatched events look here 3" in text
    assert re.search(r"Clocks broken \d+m\w* ahead", text)
    assert "its worker is gone, and no other has taken it over: see that one sweeps last at w9" in text
    assert "sent 7 times and taken by no worker" in text
    assert "not taken yet: a worker sends it again" in text
    assert "order-24" not in text


def test_the_page_stays_the_same_while_nothing_changes(client: Client) -> None:
    tag = client.get("/workers").headers["ETag"]
    assert client.get("/workers", headers={"If-None-Match": tag}).status_code == 304


def test_deeds_say_who_did_what_to_which_run_and_why(client: Client) -> None:
    page = client.get("/deeds")
    text = text_of(page)
    assert "ada cancel order-12 the customer asked for it" in text
    assert 'bob fork {"step": "charge"} order-4 made order-4-fork' in text
    assert 'href="/run/order-4-fork"' in page.text


def test_deeds_have_pages(client: Client, durable: Durable) -> None:
    for number in range(101):
        durable.pause("order-36", by=f"p{number}")
        durable.resume("order-36", by=f"r{number}")
    first = client.get("/deeds")
    assert first.text.count("<tr id=") == 100
    assert len(set(re.findall(r'<tr id="([^"]*)"', first.text))) == 100
    older = first.text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert "r0" not in text_of(first).split()
    assert client.get(older).text.count("<tr id=") == 100
    assert client.get("/deeds?after=x").status_code == 400


def test_what_the_console_does_is_among_the_deeds(client: Client) -> None:
    send(client, "/run/order-36/pause", reason="wait for it")
    assert "ada pause order-36 wait for it" in text_of(client.get("/deeds"))
