"""Every operation of the store that writes, each with what has to be there before it: those of a pass, and events.

The rest is in ``operations_outside.py``, which gives all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_durable.core.duration import SECOND
from celery_durable.engine.events import answer_text, new_event
from celery_durable.store.lines import Line
from celery_durable.store.lone import LoneWait
from celery_durable.store.records import Changes, LogLine, NewTurn, Parent
from celery_durable.store.sharing import StateChange
from tests.store.calling import PARKING, a_call, a_wait, together
from tests.store.making import LEASE, a_step, lease_of

from .scenes import DEED, Scene

__all__ = ["OPERATIONS", "Operation", "operation"]

Work = Callable[[Scene], Any]


@dataclass(frozen=True)
class Operation:
    """Something that the store does. ``prepare`` comes before it, and what that returns is ``scene.given``."""

    name: str
    prepare: Work
    act: Work
    told_less: bool = False
    """Where its answer is lost, the one who asks again is told less. What is left to be done is due, and is done by the
    sweeper; who pauses or resumes finds the run as it was to be."""


OPERATIONS: list[Operation] = []


def operation(name: str, prepare: Work = lambda scene: None, told_less: bool = False) -> Callable[[Work], Work]:
    def add(act: Work) -> Work:
        OPERATIONS.append(Operation(name, prepare, act, told_less))
        return act

    return add


def _taken(scene: Scene) -> Any:
    return scene.taken()


# -- starting and taking


@operation("start")
def start(scene: Scene) -> Any:
    return scene.store.start(scene.link, scene.run())


@operation("start by an event", Scene.emitted)
def start_by_event(scene: Scene) -> Any:
    return scene.store.start(scene.link, scene.run(event=scene.given.seq))


@operation("start by a message without a row")
def start_claimed(scene: Scene) -> Any:
    return scene.store.start_claimed(scene.link, scene.run(), "w/1", LEASE, None)


@operation("claim", Scene.started)
def claim(scene: Scene) -> Any:
    return scene.claim()


@operation("claim with a share", Scene.started)
def claim_share(scene: Scene) -> Any:
    line = Line(scene.name + "line", 1)
    return scene.store.claim(scene.link, scene.name + "r", worker="w/1", lease=LEASE, line=line)


def _behind_another(scene: Scene) -> Any:
    scene.started("first")
    scene.started()
    line = Line(scene.name + "line", 1)
    return scene.store.claim(scene.link, scene.name + "first", worker="w/1", lease=LEASE, line=line)


@operation("get into a line", _behind_another)
def queue(scene: Scene) -> Any:
    line = Line(scene.name + "line", 1)
    return scene.store.claim(scene.link, scene.name + "r", worker="w/1", lease=LEASE, line=line)


def _line(scene: Scene) -> Any:
    queue_first = _behind_another(scene)
    queue(scene)
    _finish(scene, queue_first)


@operation("let the next in a line in", _line, told_less=True)
def let_in(scene: Scene) -> Any:
    return scene.store.let_in(scene.link, Line(scene.name + "line", 1))


# -- what a pass writes


@operation("record a step", _taken)
def record(scene: Scene) -> Any:
    return scene.store.record(scene.link, scene.given.fence, a_step(), lease_of(scene.given))


def _with_step(scene: Scene, **values: Any) -> Any:
    claim = scene.taken()
    scene.store.record(scene.link, claim.fence, a_step(**values), lease_of(claim))
    return claim


@operation("settle a step that has begun", lambda scene: _with_step(scene, status="started", result=None))
def record_known(scene: Scene) -> Any:
    return scene.store.record(scene.link, scene.given.fence, a_step(known=True), lease_of(scene.given))


@operation("record branches together", _taken)
def record_together(scene: Scene) -> Any:
    steps = [a_step(f"b[{number}]", position=number) for number in range(3)]
    return together(scene.store, scene.link, scene.given.fence, steps, lease_of(scene.given))


def _changes_of_all(scene: Scene) -> Changes:
    """A call, a wait and a place in a line for a lock."""
    run_id = scene.name + "r"
    child = scene.run("c", parent=Parent(run_id, "call c"))
    steps = (a_call(scene.name + "c"), a_wait("w", position=1), a_step("l", kind="lock", status="waiting", position=2))
    call = a_call(child.id)
    return Changes(
        steps=(call._replace(id="call c"), *steps[1:]),
        calls=(child,),
        waits=(("w", scene.wait(scene.given)),),
    )


@operation("parallel: write what a block begins", _taken)
def change(scene: Scene) -> Any:
    return scene.store.change(scene.link, scene.given.fence, _changes_of_all(scene), lease_of(scene.given))


@operation("suspend: sleep, wait and call", _taken)
def suspend(scene: Scene) -> Any:
    return scene.store.suspend(scene.link, scene.given.fence, changes=_changes_of_all(scene), **PARKING)


@operation("suspend: a wait alone", _taken)
def suspend_waiting(scene: Scene) -> Any:
    changes = Changes(steps=(a_wait("w"),), waits=(("w", scene.wait(scene.given)),))
    return scene.store.suspend(scene.link, scene.given.fence, changes=changes, **PARKING)


@operation("finish", _taken)
def finish(scene: Scene) -> Any:
    return _finish(scene, scene.given)


def _finish(scene: Scene, claim: Any, status: str = "completed", **values: Any) -> Any:
    given = {"result": "1"} if status == "completed" else {"error": "{}"}
    return scene.store.finish(
        scene.link, claim.fence, status=status, now=claim.now, lease=LEASE, parent=claim.parent, **given | values
    )


def _child(scene: Scene) -> Any:
    scene.given = scene.taken()
    suspend(scene)
    return scene.claim("c")


def _caller(scene: Scene) -> Any:
    _child(scene)
    return scene.claim_woken()


@operation("a child's end", _child)
def finish_child(scene: Scene) -> Any:
    return _finish(scene, scene.given)


@operation("fail, with open steps", _caller, told_less=True)
def fail(scene: Scene) -> Any:
    return _finish(scene, scene.given, "failed", open_steps=True)


@operation("continue as new", _with_step)
def start_over(scene: Scene) -> Any:
    return scene.store.start_over(scene.link, scene.given.fence, "[[2],{}]")


@operation("pause by a mismatch", _taken)
def pause(scene: Scene) -> Any:
    return scene.store.pause(scene.link, scene.given.fence, waiting_on="code: x", error="{}")


def _stopped(scene: Scene) -> Any:
    claim = scene.taken()
    assert scene.store.pause_by_hand(scene.link, claim.fence.run_id, DEED)
    return claim


@operation("hand back a run that was stopped", _stopped)
def hand_back(scene: Scene) -> Any:
    return scene.store.hand_back(scene.link, scene.given.fence, [a_step()], {})


@operation("step.state.increment", _taken)
def increment(scene: Scene) -> Any:
    def add(there: str | None) -> StateChange:
        return StateChange(str(int(there or "0") + 1), str(int(there or "0") + 1))

    step = a_step(kind="state", result=None)
    done = scene.store.change_state(
        scene.link, scene.given.fence, step, "t", scene.name + "n", add, lease_of(scene.given)
    )
    return done and done.result


@operation("step.set_progress", _taken)
def report(scene: Scene) -> Any:
    return scene.store.report(scene.link, scene.given.fence, "[1,2,null]", lease_of(scene.given))


@operation("keep the log", _taken)
def keep_log(scene: Scene) -> Any:
    line = LogLine("0.1", None, 1, 20, "x", "said")
    return scene.store.keep_log(scene.link, scene.given.fence.run_id, [line])


# -- locks


@operation("step.lock: take", _taken)
def take_turn(scene: Scene) -> Any:
    step, turn = a_step("l", kind="lock"), NewTurn(scene.name + "lock")
    return scene.store.take_turn(scene.link, scene.given.fence, step, turn, lease_of(scene.given))


def _locked(scene: Scene) -> Any:
    scene.given = scene.taken()
    assert take_turn(scene)
    return scene.given


@operation("step.lock: give back", _locked)
def give_back(scene: Scene) -> Any:
    step = a_step("l.release", kind="unlock", position=1)
    return scene.store.give_back(scene.link, scene.given.fence, step, "l", lease_of(scene.given))


def _lock_waited_for(scene: Scene) -> Any:
    holder = _locked(scene)
    second = scene.taken("second")
    step = a_step("l", kind="lock", status="waiting", result=None)
    changes = Changes(steps=(step,), turns=(("l", NewTurn(scene.name + "lock")),))
    scene.store.suspend(scene.link, second.fence, changes=changes, **PARKING)
    scene.given = holder
    return give_back(scene)


@operation("step.lock: hand on", _lock_waited_for, told_less=True)
def next_turn(scene: Scene) -> Any:
    return scene.store.next_turn(scene.link, scene.name + "lock")


# -- events


@operation("emit")
def emit(scene: Scene) -> Any:
    event = new_event(scene.name + "e", scene.name + "paid", 7, "k", max_payload=1000)
    return scene.store.emit(scene.link, event, SECOND)


@operation("step.emit", _taken)
def emit_step(scene: Scene) -> Any:
    event = new_event(scene.name + "e", scene.name + "paid", 7, "k", max_payload=1000)
    step = a_step(kind="emit")
    return scene.store.emit_step(scene.link, scene.given.fence, step, event, SECOND, lease_of(scene.given), 0.0)


def _event_first(scene: Scene) -> Any:
    claim = scene.taken()
    return claim, scene.emitted()


@operation("take an event that came first", _event_first)
def take_event(scene: Scene) -> Any:
    claim, event = scene.given
    return scene.store.take_event(scene.link, claim.fence, a_step("w", kind="wait"), event.seq, lease_of(claim))


def _waiting(scene: Scene) -> Any:
    scene.given = scene.taken()
    suspend_waiting(scene)
    return scene.emitted()


@operation("dispatch: deliver and wake", _waiting, told_less=True)
def deliver(scene: Scene) -> Any:
    event = scene.given
    return scene.store.deliver(scene.link, event, scene.message(event), [(scene.name + "r", "w")], SECOND)


def _waiting_alone(scene: Scene) -> Any:
    event = _waiting(scene)
    return LoneWait(event, scene.name + "r", "w")


def _suspended_waiting(scene: Scene) -> Any:
    scene.given = scene.taken()
    suspend_waiting(scene)
    return new_event(scene.name + "e", scene.name + "paid", 7, "k", max_payload=1000)


@operation("emit, and answer the wait", _suspended_waiting, told_less=True)
def emit_answering(scene: Scene) -> Any:
    return scene.store.emit_answering(scene.link, scene.given, answer_text, SECOND)


@operation("emit: answer the wait", _waiting_alone, told_less=True)
def answer_lone(scene: Scene) -> Any:
    wait = scene.given
    return scene.store.answer_lone(scene.link, wait, scene.message(wait.event), SECOND)


@operation("dispatch: done", Scene.emitted)
def dispatched(scene: Scene) -> Any:
    return scene.store.dispatched(scene.link, scene.given.id, None)


def _timed_out(scene: Scene) -> Any:
    scene.given = scene.taken()
    suspend_waiting(scene)
    return scene.claim_woken()


@operation("a wait's timeout", _timed_out)
def end_wait(scene: Scene) -> Any:
    step = a_wait("w", status="completed", result="null", known=True)
    found = scene.store.end_wait(scene.link, scene.given.fence, step, lease_of(scene.given))
    return found and found.status
