"""What the runs of a task share: ``step.state`` and ``step.lock``, as steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.codec import decode, encode
from ..core.duration import Duration, micros
from ..core.ids import RELEASE, check_name
from ..core.replay import Park, Replay
from ..store.records import Aftermath, Changes, NewTurn, StateChange, StepWrite
from .branch import DONE, Act, Branch, Opening, State, Waiting
from .passing import Pass

__all__ = ["Lock", "StateAccess", "Unlock", "checked_turn", "deleting", "getting", "incrementing", "setting"]

_MAX_KEY = 200

Change = Callable[[str | None], StateChange]


# ------------------------------------------------------------------------ state


class StateAccess(Branch):
    """One use of ``step.state``. What it writes and its record are one transaction."""

    kind = "state"

    def __init__(self, run: Pass, verb: str, key: str, given: dict[str, Any], change: Change | None) -> None:
        checked = check_name(key, "a key of step.state")
        if len(checked) > _MAX_KEY:
            raise ValueError(
                f"{key[:40]!r}... has {len(key)} characters; {_MAX_KEY} are the most for a key of step.state"
            )
        step_id = run.take_id(run.next_id(f"state.{verb}({key})"))
        what = f"the input of step {step_id!r}"
        super().__init__(run, step_id, run.measured(encode({"key": key} | given, what), what))
        self.key = key
        self.change = change
        self.default = given.get("default")

    def look(self) -> State:
        return DONE if isinstance(self.ask(), Replay) else Act(self._access)

    def _row(self, **values: Any) -> StepWrite:
        if values:
            return super()._row(**values)
        now = self.run.now()
        return self.new_row(status="completed", attempts=1, started_at=now, finished_at=now, seen=self.run.next_place())

    def _access(self) -> None:
        run, change = self.run, self.change
        task = run.dispatcher.task_name()
        if change is None:
            found = run.reaching(lambda: run.store.read_state(run.link, task, self.key))
            run.write_all([self._row()._replace(result=encode(self.default if found is None else decode(found)))])
            return
        row = self._row()
        try:
            done = run.reaching(
                lambda: run.store.change_state(
                    run.link, run.fence, row, task, self.key, change, run.lease_until(), run.patience
                )
            )
        except TypeError as error:  # what is there is no number: that is what came of it, also for later passes
            run.settle(row, error=error)
            return
        if done is None:
            run.lose()
        run.remember(done)

    def value(self) -> Any:
        return self.run.read(self.run.history[self.id].result)


def getting(run: Pass, key: str, default: Any) -> StateAccess:
    """``step.state.get``"""
    return StateAccess(run, "get", key, {} if default is None else {"default": default}, None)


def setting(run: Pass, key: str, value: Any, ttl: Duration | None) -> StateAccess:
    """``step.state.set``"""
    what = f"the value of step.state {key!r}"
    length = None if ttl is None else micros(ttl)
    if length is not None and length <= 0:
        raise ValueError(f"step.state.set: ttl={ttl!r}: a time is expected for which the value is to be kept")
    new = StateChange(run.measured(encode(value, what), what), "null", length)
    given = {"value": value} | ({} if ttl is None else {"ttl": micros(ttl) / 1_000_000})
    return StateAccess(run, "set", key, given, lambda _: new)


def deleting(run: Pass, key: str) -> StateAccess:
    """``step.state.delete``: whether there was something."""
    return StateAccess(run, "delete", key, {}, lambda old: StateChange(None, encode(old is not None)))


def incrementing(run: Pass, key: str, by: float) -> StateAccess:
    """``step.state.increment``: the new value."""
    if isinstance(by, bool) or not isinstance(by, (int, float)):
        raise TypeError(f"step.state.increment: by={by!r}: a number is expected")

    def add(old: str | None) -> StateChange:
        value = 0 if old is None else decode(old)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"step.state {key!r} holds {value!r}, which is no number to add to: set it to one first")
        new = encode(value + by)
        return StateChange(new, new, keeps_ttl=old is not None)

    return StateAccess(run, "increment", key, {"by": by}, add)


# ------------------------------------------------------------------------- lock


def checked_turn(name: str, ttl: Duration | None) -> NewTurn:
    """A lock as it is asked for."""
    length = None if ttl is None else micros(ttl)
    if length is not None and length <= 0:
        raise ValueError(f"step.lock: ttl={ttl!r}: a time is expected for which it may be held")
    return NewTurn(check_name(name, "a lock's name"), length)


class Lock(Branch):
    """Taking a lock: at once, or when its turn comes, for which the run is parked."""

    kind = "lock"

    def __init__(self, run: Pass, id: str, turn: NewTurn) -> None:
        check_name(f"{id}{RELEASE}", "what gives a lock back, which is a step named after that which takes it,")
        step_id = run.take_id(id)
        ttl = {} if turn.ttl is None else {"ttl": turn.ttl / 1_000_000}
        super().__init__(run, step_id, encode({"lock": turn.name} | ttl))
        self.turn = turn
        self._has_tried = False

    def look(self) -> State:
        decision = self.ask()
        if isinstance(decision, Replay):
            return DONE
        what = f"the lock {self.turn.name!r}"
        if isinstance(decision, Park):
            return Waiting(None, what, outside=True)
        if not self._has_tried:
            return Act(self._take)
        self._has_tried = False  # if it is free by the time that this is registered, it is tried again
        step = self.new_row(status="waiting", started_at=self.run.now(), attempts=1)
        return Waiting(None, what, Opening(step, turn=self.turn), outside=True)

    def _take(self) -> None:
        run, now = self.run, self.run.now()
        self._has_tried = True
        step = self.new_row(
            status="completed", result="null", attempts=1, started_at=now, finished_at=now, seen=run.next_place()
        )
        taken = run.reaching(
            lambda: run.store.take_turn(run.link, run.fence, step, self.turn, run.lease_until(), run.patience)
        )
        if taken is None:
            run.lose()
        if taken:
            run.remember(step)

    def value(self) -> Any:
        return None

    def refuse(self) -> None:
        """Its turn has come, and nobody waits for it any more."""
        found = self.run.change(Changes(left=(self.id,)))
        assert isinstance(found, Aftermath)
        self.run.dispatcher.follow(found)


class Unlock(Branch):
    """Giving a lock back. That an error was on its way is kept: should the run be retried, the lock is taken anew."""

    kind = "unlock"

    def __init__(self, run: Pass, lock_id: str, failed: bool) -> None:
        super().__init__(run, run.take_id(f"{lock_id}{RELEASE}"), "[[],{}]")
        self.lock_id = lock_id
        self.failed = failed

    def look(self) -> State:
        return DONE if isinstance(self.ask(), Replay) else Act(self._give_back)

    def _give_back(self) -> None:
        run, now = self.run, self.run.now()
        step = self.new_row(
            status="completed", result=encode(self.failed), attempts=1, started_at=now, finished_at=now,
            seen=run.next_place(),
        )  # fmt: skip
        aftermath = run.reaching(
            lambda: run.store.give_back(run.link, run.fence, step, self.lock_id, run.lease_until(), run.patience)
        )
        if aftermath is None:
            run.lose()
        run.remember(step)
        run.dispatcher.follow(aftermath)

    def value(self) -> Any:
        return None
