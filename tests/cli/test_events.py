"""``emit`` and ``events``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_durable.model import EventRecord
from celery_durable.testing import DurableEnv

from .conftest import Cli


@pytest.fixture
def waits(env: DurableEnv, app: Celery) -> str:
    return env.start(app.tasks["shop.approval"].s("k1").set(task_id="waits-1")).id


def test_an_event_wakes_and_starts(env: DurableEnv, waits: str, cli: Cli) -> None:
    cli("emit", "order.approved", '{"by": "anna"}', "--key", "k1")
    assert env.read(waits).result == {"by": "anna"}
    cli("emit", "customer.created", '{"id": "k2"}')
    assert len(env.runs) == 3, "what was started has called another"


def test_in_a_pipe_it_says_the_id(env: DurableEnv, cli: Cli) -> None:
    event_id = cli("emit", "ping").stdout.strip()
    assert env.durable.event(event_id).payload is None


def test_to_people_it_says_what_it_has_done(env: DurableEnv, cli: Cli, terminal: Callable[[int], None]) -> None:
    terminal(80)
    assert cli("emit", "ping", "--event-id", "e-1").stdout == "Emitted ping as event e-1.\n"
    assert "had been emitted before" in cli("emit", "ping", "--event-id", "e-1").stdout


def test_one_id_is_one_event(env: DurableEnv, cli: Cli, cli_json: Any) -> None:
    assert cli_json("emit", "ping", "1", "--event-id", "e-1") == {"id": "e-1", "duplicate": False}
    assert cli_json("emit", "ping", "1", "--event-id", "e-1") == {"id": "e-1", "duplicate": True}
    assert "was emitted before" in cli("emit", "ping", "2", "--event-id", "e-1", exit_code=1).stderr


def test_a_payload_from_a_file(env: DurableEnv, cli: Cli, tmp_path: Path) -> None:
    cli("emit", "ping", "--file", "-", "--event-id", "e-1", given='{"größe": 1}')
    assert env.durable.event("e-1").payload == {"größe": 1}
    file = tmp_path / "payload.json"
    file.write_text("[1, 2]")
    cli("emit", "ping", "--file", str(file), "--event-id", "e-2")
    assert env.durable.event("e-2").payload == [1, 2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ping", "{"), "is no JSON"),
        (("ping", "1", "--file", "-"), "one of them is enough"),
        (("ping", "--file", "/no/such/file"), "No such file"),
        (("", "1"), "name"),
        ((), "Missing argument"),
    ],
)
def test_what_is_given_wrong_is_named(env: DurableEnv, cli: Cli, words: tuple[str, ...], says: str) -> None:
    assert says in cli("emit", *words, exit_code=2, given="{}").stderr


def test_the_log(env: DurableEnv, waits: str, cli: Cli, cli_json: Any) -> None:
    for number in range(3):
        env.emit("ping", number, event_id=f"ping-{number}")
    env.emit("order.approved", {"by": "日本"}, key="k1", event_id="a-1")
    lines = cli("events").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "a-1", "ping-2", "ping-1", "ping-0"]
    assert lines[1].split()[1:5] == ["order.approved", "k1", "1", "0"]
    assert [event["id"] for event in cli_json("events", "--name", "ping*")["events"]] == ["ping-2", "ping-1", "ping-0"]
    assert [event["id"] for event in cli_json("events", "--key", "k1")["events"]] == ["a-1"]
    assert cli_json("events", "--since", "2100-01-01T00:00:00Z") == {"events": [], "next": None}
    assert "There is no such event." in cli("events", "--name", "nothing").stderr


def test_a_page_says_how_to_go_on(env: DurableEnv, cli: Cli, cli_json: Any) -> None:
    for number in range(3):
        env.emit("ping", number, event_id=f"ping-{number}")
    place = cli("events", "--limit", "2").stderr.split("--after ")[1].strip()
    assert [event["id"] for event in cli_json("events", "--after", place)["events"]] == ["ping-0"]
    cli("events", "--after", "there", exit_code=2)


def test_all_of_one_event(env: DurableEnv, waits: str, cli: Cli, cli_json: Any) -> None:
    env.emit("order.approved", {"by": "anna"}, key="k1", event_id="a-1")
    text = cli("events", "a-1").stdout
    assert "  woke        1 run: waits-1\n" in text
    assert '  payload     {"by": "anna"}\n' in text
    assert EventRecord.model_validate(cli_json("events", "a-1")) == env.durable.event("a-1")
    assert "there is no event 'nope'" in cli("events", "nope", exit_code=1).stderr
    cli("events", "a-1", "--name", "x", exit_code=2)
