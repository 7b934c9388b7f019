"""``durable check``: would the runs that are under way go on with the code as it is here?"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

from celery import Celery
from sqlalchemy.exc import DBAPIError

from ..core.codec import decode_arguments
from ..core.replay import Record
from ..engine.calls import Target
from ..engine.rehearsal import Rehearsal, rehearse
from ..model import Misfit
from ..store.link import Link
from ..store.records import Aftermath, Claim, Fence
from .calling import target_of
from .runtime import Runtime, runtime_of

__all__ = ["check_run", "check_runs"]

_BATCH = 200


def check_runs(app: Celery) -> tuple[int, list[Misfit]]:
    """Rehearse every run that has begun and not ended: how many there are, and those that the code does not fit."""
    runtime = runtime_of(app)
    checked, misfits = 0, []
    with runtime.store.link() as link:
        for run_id in _live(runtime, link):
            found = check_run(app, link, run_id)
            checked += 1
            if found is not None:
                misfits.append(found)
    return checked, misfits


def check_run(app: Celery, link: Link, run_id: str, *, ended: str | None = None) -> Misfit | None:
    """Rehearse one run that has not ended, or that is taken for one: ``ended`` is how it has ended then."""
    quiet = logging.getLogger("celery_durable")  # what the run would log is no news
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        return _check(app, runtime_of(app), link, run_id, ended)
    finally:
        quiet.setLevel(level)


def _live(runtime: Runtime, link: Link) -> Iterator[str]:
    after = None
    while batch := runtime.store.live_runs(link, _BATCH, after):
        yield from (run_id for _, run_id in batch)
        after = batch[-1]


def _check(app: Celery, runtime: Runtime, link: Link, run_id: str, ended: str | None) -> Misfit | None:
    found = runtime.store.for_rehearsal(link, run_id)
    if found is None:
        return None
    row, steps = found
    told = {"run_id": run_id, "task": row["task"], "status": row["status"]}
    task: Any = app.tasks.get(row["task"])
    if task is None:
        return Misfit(**told, why=f"the task {row['task']!r} is not registered in this app")
    if not hasattr(task, "signature_of_run"):
        return Misfit(**told, why=f"the task {row['task']!r} is not durable any more: base=DurableTask is missing")
    history = {step.id: Record(*step) for step in steps}
    claim = Claim(
        Fence(run_id, 0), int(row["now"]), int(row["now"]), row["created_at"], row["started_at"] or int(row["now"]),
        row["retries"], row["recoveries"], row["passes"], row["wake_at"], row["message"], row["arguments"],
        cancelling=row["cancelling"], generation=row["generation"] or 0, restarts=row["restarts"] or 0,
        reported=row["reported"], history=history,
    )  # fmt: skip
    try:
        why = _rehearse(app, runtime, link, claim, task, ended)
    except DBAPIError:
        raise
    except Exception as error:  # its arguments do not fit the code any more, say
        why = f"{type(error).__name__}: {error}"
    return None if why is None else Misfit(**told, why=why)


def _rehearse(app: Celery, runtime: Runtime, link: Link, claim: Claim, task: Any, ended: str | None) -> str | None:
    run = Rehearsal(
        claim,
        store=runtime.store,
        link=link,
        settings=runtime.settings,
        dispatcher=_Silent(app, task),
        step_retry=task.step_retry or runtime.settings.step_retry,
    )
    signature = task.signature_of_run()
    given_args, given_kwargs = decode_arguments(claim.arguments)
    args, kwargs = signature.arguments(tuple(given_args), given_kwargs, f"an argument of {task.name}")
    inspect.signature(task.run).bind(*args, **kwargs)
    task.push_request(id=claim.fence.run_id, args=args, kwargs=kwargs, called_directly=False, retries=claim.retries)
    try:
        return rehearse(run, lambda: task.run(*args, **kwargs), ended)
    finally:
        task.pop_request()


class _Silent:
    """A dispatcher that sends nothing, and lets nothing begin."""

    def __init__(self, app: Celery, task: Any) -> None:
        self._app = app
        self._task = task

    def may_send_ahead(self, delay: int) -> bool:
        return False

    def wake(self, delay: int) -> None:
        raise AssertionError("a rehearsal sends nothing")

    def task_name(self) -> str:
        return str(self._task.name)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return str(self._task.write_arguments(runtime_of(self._app), args, kwargs))

    def tell(self, what: str, **facts: Any) -> None: ...

    def target(self, signature: Any, queue: str | None) -> Target:
        return target_of(self._app, signature, queue, eager=False)

    def follow(self, aftermath: Aftermath) -> None: ...

    def emitted(self, event_id: str, name: str, key: str | None) -> None: ...

    def announce(self, waiting_on: str, wake_at: int | None) -> None: ...

    def stopping(self) -> bool:
        return True
