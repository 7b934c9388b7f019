"""``revoke`` of a durable run cancels it, durably, whoever asks and however.

Celery's revoke is a note in the memory of each worker: the next message of the task is refused. Of a run that is parked
there is no message, and a worker that is restarted has forgotten. So a run that is to be revoked is cancelled in the
database: by whoever calls ``revoke``, in a process that has the app (:class:`DurableControl`); and by the workers that
get the command, from another one or from the command line (:func:`hear_revokes`). What is no durable run is left to
Celery.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from celery import Celery
from celery.app.control import Control
from celery.worker.control import Panel
from sqlalchemy.exc import DBAPIError

from ..errors import ConfigurationError, DurableError
from ..statuses import FINISHED
from .runtime import runtime_of

__all__ = ["DurableControl", "hear_revokes"]

logger = logging.getLogger("celery_durable")

_REASON = "revoked"


def _cancel_runs(app: Celery, task_ids: Iterable[str], *, force: bool) -> list[str]:
    """Cancel those that are durable runs; the others are returned, for Celery to revoke, and with force those that may
    be executed. One that has ended is not revoked: it may be retried."""
    from .durable import Durable

    ids = list(task_ids)
    store = runtime_of(app).store
    try:
        with store.link() as link:
            runs = store.durable_among(link, ids)
    except (DBAPIError, ConfigurationError) as error:
        logger.error("whether %s are durable runs, to be cancelled, could not be found out: %s", ids, error)
        return ids
    durable = Durable(app)
    for run_id in (run_id for run_id, status in runs.items() if status not in FINISHED):
        try:
            if force:
                durable.end(run_id, _REASON)
            else:
                durable.cancel(run_id, reason=_REASON)
        except DurableError as ended:  # it has ended meanwhile
            logger.info("run %s could not be cancelled: %s", run_id, ended)
    to_stop = {run_id for run_id, status in runs.items() if force and status not in ("completed", "failed")}
    return [task_id for task_id in ids if task_id not in runs or task_id in to_stop]


class DurableControl(Control):
    """Celery's remote control, for an app with durable tasks."""

    def revoke(self, task_id: Any, destination: Any = None, terminate: bool = False, **options: Any) -> Any:
        """Revoke tasks; of these the durable runs are cancelled, with ``terminate`` by force."""
        ids = list(task_id) if isinstance(task_id, (list, tuple, set)) else [task_id]
        told = _cancel_runs(self.app, ids, force=terminate)
        return super().revoke(told, destination, terminate, **options) if told else None


def hear_revokes() -> None:
    """Have the workers of this process cancel the durable runs that they are told to revoke."""
    plain = Panel.data["revoke"]
    if not hasattr(plain, "hears_of_runs"):
        Panel.data["revoke"] = revoke = _hearing(plain)

        @wraps(Panel.data["terminate"])
        def terminate(state: Any, signal: Any, task_id: Any, **options: Any) -> Any:
            return revoke(state, task_id, terminate=True, signal=signal, **options)

        Panel.data["terminate"] = terminate


def _hearing(plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **options: Any) -> Any:
        from .install import is_installed

        ids = list(task_id) if isinstance(task_id, (list, tuple, set)) else [task_id]
        if not is_installed(state.app):
            return plain(state, task_id, terminate, signal, **options)
        told = _cancel_runs(state.app, ids, force=terminate)
        if not told:
            return {"ok": f"tasks {', '.join(ids)} are durable runs, and are cancelled"}
        return plain(state, told, terminate, signal, **options)

    revoke.hears_of_runs = True  # type: ignore[attr-defined]
    return revoke
