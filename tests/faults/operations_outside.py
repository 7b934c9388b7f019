"""The rest of the operations: what people do to runs, what time brings about, and what others left undone."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.store.records import Changes, Origin, Parent
from tests.store.calling import PARKING, a_call
from tests.store.making import LEASE

from .operations import OPERATIONS, Operation, _child, _finish, _stopped, _taken, _with_step, dispatched, operation
from .scenes import DEED, Scene

__all__ = ["OPERATIONS", "Operation"]

# -- people


@operation("cancel", _with_step)
def cancel(scene: Scene) -> Any:
    return scene.store.cancel(scene.link, scene.name + "r", "why", deed=DEED) and None


@operation("cancel with force", _child)
def cancel_forced(scene: Scene) -> Any:
    return scene.store.cancel(scene.link, scene.name + "r", "why", force=True, deed=DEED) and None


@operation("pause", _taken, told_less=True)
def pause_by_hand(scene: Scene) -> Any:
    return scene.store.pause_by_hand(scene.link, scene.name + "r", DEED)


@operation("resume", _stopped, told_less=True)
def resume(scene: Scene) -> Any:
    return scene.store.resume_by_hand(scene.link, scene.name + "r", DEED)


def _failed(scene: Scene) -> Any:
    claim = _with_step(scene, status="failed", result=None, error="{}")
    return _finish(scene, claim, "failed", blamed=encode([["s"], []]))


@operation("retry", _failed)
def retry(scene: Scene) -> Any:
    return scene.store.retry_failed(scene.link, scene.name + "r", DEED)


@operation("fork", _failed)
def fork(scene: Scene) -> Any:
    copy = scene.run("copy", arguments="[[1],{}]")
    return scene.store.start_copy(scene.link, Origin(scene.name + "r", "s"), lambda row: copy, DEED)


# -- time, and what others left undone


@operation("heartbeat", _taken)
def extend(scene: Scene) -> Any:
    return scene.store.extend(scene.link, [scene.given.fence], LEASE)


def _ended(scene: Scene) -> Any:
    claim = _with_step(scene)
    _finish(scene, claim)
    return claim


@operation("mark a result delivered", _ended)
def mark_delivered(scene: Scene) -> Any:
    return scene.store.mark_delivered(scene.link, [scene.given.fence])


@operation("mark a message sent", Scene.started)
def mark_sent(scene: Scene) -> Any:
    return scene.store.mark_sent(scene.link, [(scene.fence(), SECOND, True)])


@operation("recover a dead worker's run", _taken)
def recover(scene: Scene) -> Any:
    return scene.store.recover(scene.link, scene.given.fence)


@operation("set a run aside", Scene.started)
def unregistered(scene: Scene) -> Any:
    return scene.store.unregistered(scene.link, scene.name + "r", delay=SECOND, pause_because=None, waiting_on="x")


def _ordinary(scene: Scene, quorum: int | None = None) -> Any:
    scene.given = scene.taken()
    child = scene.run("c", parent=Parent(scene.name + "r", "call c"), kind="task")
    call = a_call(child.id)
    changes = Changes(steps=(call._replace(id="call c"),), calls=(child,))
    return scene.store.suspend(scene.link, scene.given.fence, changes=changes, **PARKING | {"quorum": quorum})


@operation("an ordinary task's report", _ordinary)
def end_from_outside(scene: Scene) -> Any:
    return scene.store.end_from_outside(scene.link, scene.name + "c", status="completed", result="1")


@operation("a report of one of many", partial(_ordinary, quorum=2), told_less=True)
def one_of_many(scene: Scene) -> Any:
    return end_from_outside(scene)


@operation("an ordinary task that is revoked", _ordinary)
def revoked(scene: Scene) -> Any:
    return scene.store.end_from_outside(scene.link, scene.name + "c", status="cancelled")


@operation("the sweeper's lease")
def take_lease(scene: Scene) -> Any:
    return scene.store.take_lease(scene.link, scene.name + "sweeper", "me", LEASE)


@operation("prune", _ended)
def prune(scene: Scene) -> None:
    scene.store.forget_runs(scene.link, older_than=0)  # how many there were tells nothing: it prunes other scenes, too


@operation("forget events", lambda scene: dispatched(scene.having(scene.emitted())))
def forget_events(scene: Scene) -> None:
    scene.store.forget_events(scene.link, -SECOND, 100)
