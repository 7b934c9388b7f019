"""Every version replays the histories that earlier ones have recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from celery_durable.testing import DurableEnv, HistoryError, check_history

from .workflows import RECORDED, app, onboard

KEPT = sorted(Path(__file__).parent.glob("*/*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_history_is_replayed(path: Path) -> None:
    check_history(app.tasks[json.loads(path.read_text(encoding="utf-8"))["run"]["task"]], path)


@pytest.mark.parametrize("name", RECORDED)
def test_each_has_been_kept(name: str) -> None:
    assert name in {path.stem for path in KEPT}


@pytest.mark.parametrize("name", RECORDED)
def test_it_comes_about_as_it_was_recorded(name: str) -> None:
    """Statuses and steps are as they were in the last version that kept them."""
    path = next(path for path in reversed(KEPT) if path.stem == name)
    kept = json.loads(path.read_text(encoding="utf-8"))
    with DurableEnv(now="2026-11-21T12:00:00Z") as env:
        now = json.loads(env.export(RECORDED[name](env)))
    assert now["run"]["status"] == kept["run"]["status"]
    told = [[(step["id"], step["kind"], step["status"], step["input"]) for step in of["steps"]] for of in (now, kept)]
    assert told[0] == told[1]


def test_a_change_that_breaks_is_found(tmp_path: Path) -> None:
    path = next(path for path in KEPT if path.stem == "onboard_waiting")
    history = json.loads(path.read_text(encoding="utf-8"))
    history["steps"][0]["id"] = "make-user"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(history), encoding="utf-8")
    with pytest.raises(HistoryError, match="'make-user'"):
        check_history(onboard, other)
