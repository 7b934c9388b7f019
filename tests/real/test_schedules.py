"""Two beats, each with its own schedule file, as when one is started while the other still runs: one run per tick."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import build
from tests.real.effects import effects
from tests.real.stage import Process, Stage
from tests.services import Services
from tests.waiting import wait_until

TASK = "tests.real.beat_app.ticking"
SECONDS = 2  # the interval of that task
TICKS = 6
SENDING = re.compile(rf"^\[([-\d]+ [:\d]+),\d+: .*Sending due task {re.escape(TASK)} \[0\]", re.MULTILINE)


class Beat(Process):
    """A beat process."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder, {})
        self._command = [sys.executable, "-m", "celery", "-A", "tests.real.beat_app", "beat", "--loglevel", "INFO"]
        self._command += ["--schedule", str(folder / f"{name}.schedule"), "--pidfile", str(folder / f"{name}.pid")]

    def sent(self) -> list[str]:
        """The runs' ids for the ticks that it has sent, by its log."""
        times = [int(datetime.fromisoformat(time).timestamp()) for time in SENDING.findall(self.logs())]  # local time
        ticks = [datetime.fromtimestamp(time // SECONDS * SECONDS, timezone.utc) for time in times]
        return [f"{TASK}@{tick.replace(tzinfo=None).isoformat()}Z" for tick in ticks]


@pytest.fixture
def stage(services: Services, tmp_path: Path) -> Iterator[Stage]:
    yield from build(services, tmp_path, "redis", "postgresql")


@pytest.fixture
def beats(stage: Stage, tmp_path: Path) -> Iterator[list[Beat]]:
    started = [Beat(name, tmp_path) for name in ("beat-one", "beat-two")]
    for beat in started:
        beat.start()
    yield started
    for beat in started:
        beat.teardown()


def runs(stage: Stage) -> dict[str, Any]:
    """Each run's status."""
    run = stage.store.tables.run
    statement = run.select().where(run.c.task == TASK).with_only_columns(run.c.id, run.c.status)
    with stage.store.link() as link:
        rows = link.run(lambda connection: connection.execute(statement).all())
    assert len({row.id for row in rows}) == len(rows)
    return {row.id: row.status for row in rows}


@pytest.mark.slow
def test_two_beats_start_one_run_per_tick(stage: Stage, beats: list[Beat]) -> None:
    stage.start_workers("one", options=("--include", "tests.real.beat_app"))

    def both_sent() -> set[str]:
        for beat in beats:
            assert beat.status == "running", f"{beat.name} ended by itself:\n{beat.logs()[-3000:]}"
        sent = [set(beat.sent()) for beat in beats]
        enough = len(sent[0] & sent[1]) >= TICKS and set.union(*sent) <= set(runs(stage))
        return set.union(*sent) if enough else set()

    sent = wait_until(both_sent, 60, f"{TICKS} ticks are sent by both beats, and each has its run")
    for beat in beats:
        beat.stop()
    wait_until(lambda: set(runs(stage).values()) == {"completed"}, 30, "every run has ended")

    # A beat that is stopped may have announced one more tick than it has sent.
    assert sent <= set(runs(stage)) <= {run_id for beat in beats for run_id in beat.sent()}
    for beat in beats:
        assert len(set(beat.sent())) == len(beat.sent()), "a beat sends each tick once"
    assert Counter(effect.run for effect in effects(name="beat")) == dict.fromkeys(runs(stage), 1)
    assert {stage.run(run_id).result for run_id in runs(stage)} == {"beat"}
    for beat in beats:
        assert "Message Error" not in beat.logs()
