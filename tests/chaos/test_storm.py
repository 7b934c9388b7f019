"""Two short storms. What is checked is the audit: nothing is timed, and any order of what happens is as good.

Then what the first one left is damaged in one way after the other, so that we know that the audit would tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.chaos.audit import Audit
from tests.chaos.servers import BROKERS, DATABASES, Backend, missing
from tests.chaos.stage import Stage, libfaketime
from tests.chaos.storm import Storm, results_of, weather
from tests.services import give_up

SECONDS = 30
SEED = 20

DAMAGES = {
    "a run is gone": ("ended", "DELETE FROM durable_run WHERE id LIKE '%-steps'"),
    "a run goes on": ("ended", "UPDATE durable_run SET status = 'running' WHERE id LIKE '%-naps'"),
    "a run failed": ("ended", "UPDATE durable_run SET status = 'failed' WHERE id LIKE '%-pays'"),
    "another result": ("ended", "UPDATE durable_run SET result = '3' WHERE id LIKE '%-anew'"),
    "a record is gone": ("ended", "DELETE FROM durable_step WHERE id = 'two'"),
    "a record is changed": ("steps", "UPDATE durable_step SET result = '\"other\"' WHERE id = 'three'"),
    "an undo was not done": ("steps", "DELETE FROM durable_step WHERE id = 'undo-book'"),
    "an effect is doubled": ("transactions", "INSERT INTO chaos_payment SELECT * FROM chaos_payment"),
    "an effect is gone": ("transactions", "DELETE FROM chaos_payment WHERE name = 'second'"),
    "an effect of nothing": ("transactions", "INSERT INTO chaos_payment VALUES ('nobody', 'pay', 'x')"),
    "an event is lost": ("events", "DELETE FROM durable_event WHERE name = 'approved'"),
    "an event was not dispatched": ("events", "UPDATE durable_event SET dispatched_at = NULL"),
    "an event was not taken": ("events", "DELETE FROM durable_taken"),
    "an event started two": (
        "events",
        "INSERT INTO durable_taken SELECT 'another', event, step_id, taken_at FROM durable_taken WHERE step_id IS NULL",
    ),
    "a callback did not fire": ("callbacks", "DELETE FROM durable_run WHERE id LIKE '%callback'"),
    "a chord did not fire": ("callbacks", "DELETE FROM durable_run WHERE id LIKE '%body'"),
    "an addition is lost": ("shared", "UPDATE chaos_account SET amount = amount - 1 WHERE id = 0"),
    "a count is lost": ("shared", "DELETE FROM durable_state"),
    "a wait is left": (
        "left behind",
        "INSERT INTO durable_wait (run_id, step_id, name, since) VALUES ('r', 's', 'n', 0)",
    ),
    "a lock is left": (
        "left behind",
        "INSERT INTO durable_turn (run_id, step_id, name, asked_at) VALUES ('r', 's', 'n', 0)",
    ),
    "a place in a line is left": ("left behind", "UPDATE durable_run SET queued_at = 1 WHERE id LIKE '%-limited'"),
    "a lease is left": ("left behind", "INSERT INTO durable_lease VALUES ('other', 'nobody', 0)"),
    "a result is undelivered": ("left behind", "UPDATE durable_run SET delivered_at = NULL WHERE id LIKE '%-maps'"),
    "rows of no run": ("left behind", "INSERT INTO durable_input VALUES ('nobody', '[]', '{}')"),
}


@pytest.mark.slow
def test_all_is_well_after_a_storm_and_every_damage_would_be_told(tmp_path: Path) -> None:
    storm = stormy("redis", "postgresql", tmp_path)
    assert not storm.violations, "\n".join(storm.report)


@pytest.mark.slow
def test_all_is_well_after_another_storm() -> None:
    storm = stormy("rabbitmq", "mysql")
    assert not storm.violations, "\n".join(storm.report)


def stormy(broker: str, database: str, folder: Path | None = None) -> Storm:
    lacking = missing(BROKERS[broker], Backend, DATABASES[database])
    lacking += [] if libfaketime() else ["faketime"]
    if lacking:
        give_up(f"not installed here: {', '.join(lacking)}")
    then = None if folder is None else lambda stage, audit: damage(stage, audit, folder)
    storm = weather(broker, database, seconds=SECONDS, seed=SEED, rate=2, then=then)
    assert storm.figures["runs"] >= storm.figures["plans"] > 0
    assert storm.figures["deeds"] > 0
    return storm


def damage(stage: Stage, audit: Audit, folder: Path) -> None:
    """One damage after the other, each taken back."""
    for name, (claim, statement) in DAMAGES.items():
        with stage.engine.connect() as connection:
            assert connection.execute(text(statement)).rowcount, f"{name}: there is nothing to damage"
            assert claim in claims(audit, connection), name
            connection.rollback()
    with stage.engine.connect() as connection:
        assert not claims(audit, connection), "all is taken back"
        for name, claim, broken in beyond_the_database(stage, audit, folder):
            assert claim in claims(broken, connection), name


def claims(audit: Audit, connection: Connection) -> set[str]:
    again = replace(audit, violations=[], at_risk=0)
    return {violation.claim for violation in again.run(connection)}


def beyond_the_database(stage: Stage, audit: Audit, folder: Path) -> list[tuple[str, str, Audit]]:
    """The audit with other effects, another journal, and with results that are gone."""
    effects = [json.loads(line) for line in stage.effects.read_text().splitlines()]
    journal = stage.journal.read_text().splitlines()
    unseen = written(folder / "unseen", (json.dumps(one) for one in effects if one[1] != "four"))
    repeated = written(folder / "repeated", (json.dumps(one) for one in effects for _ in range(100)))
    untold = written(folder / "untold", (json.dumps(one) for one in effects if one[1] != "errback"))
    unemitted = written(folder / "unemitted", (line for line in journal if json.loads(line)["what"] != "emitted"))
    return [
        ("a recorded value that no function returned", "steps", replace(audit, effects_file=unseen)),
        ("a step that was done in no pass", "steps", replace(audit, effects_file=repeated)),
        ("a callback that was not executed", "callbacks", replace(audit, effects_file=untold, forgotten=[])),
        ("an event that could not be emitted", "started", replace(audit, journal=unemitted)),
        ("a result that Celery does not have", "results", replace(audit, results=results_of(stage, number=1))),
    ]


def written(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path
