"""``check_history``: would today's code have gone the way that a run went, in production perhaps?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..client.histories import read_history
from ..errors import DurableError
from ..worker.checking import check_run
from .apps import check_durable
from .env import DurableEnv

__all__ = ["HistoryError", "check_history"]


class HistoryError(AssertionError):
    """The code does not fit a recorded history: runs that are like it would be paused after a deploy."""


def check_history(task: Any, path: str | os.PathLike[str]) -> None:
    """Replay a history that ``Durable(app).export(run_id)`` or ``env.export(run)`` has made, without calling a function
    or writing anything, and fail where the code of ``task`` does not fit it. ``path`` names the file."""
    check_durable(task, task, "check_history")
    text = Path(path).read_text(encoding="utf-8")
    try:
        run, steps = read_history(text)
    except DurableError as error:
        raise DurableError(f"{os.fspath(path)}: {error}") from error
    recorded = run["task"]
    env = DurableEnv(task.app, now=run["finished_at"] / 1_000_000 if run["finished_at"] else None)
    try:
        with env.store.link() as link:
            env.store.load(link, run | {"task": task.name, "status": "suspended"}, steps)
            misfit = check_run(env.app, link, run["id"], ended=run["status"])
    finally:
        env.close()
    if misfit is not None:
        of = f"run {run['id']}" if recorded == task.name else f"run {run['id']} of {recorded}"
        raise HistoryError(f"{task.name} does not fit the history {os.fspath(path)} of {of}: {misfit.why}")
