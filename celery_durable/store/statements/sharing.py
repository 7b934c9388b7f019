"""What runs share: locks, state, and what is said of a run while it goes on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    literal,
    or_,
    select,
    update,
)

from ..dialects import Dialect
from ..tables import Tables
from .base import StatementGroup

__all__ = ["SharingStatements"]


class SharingStatements(StatementGroup):
    """The statements of ``step.lock``, ``step.state``, ``step.set_progress`` and the logger."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._turns()
        self._next_turn()
        self._state()
        self._said()

    def _turns(self) -> None:
        turn, now = self._tables.turn, self._dialect.now()
        self.insert_turn: Executable = insert(turn).values(
            run_id=bindparam("turn_run"),
            step_id=bindparam("turn_step"),
            name=bindparam("turn_name"),
            ttl=bindparam("turn_ttl"),
            until=now + bindparam("turn_held", type_=BigInteger),
            asked_at=now,
        )
        at_name = turn.c.name == bindparam("at_name")
        self.held: Executable = select(turn.c.run_id).where(at_name, turn.c.until > now).limit(1)
        self.forget_holders: Executable = delete(turn).where(at_name, turn.c.until <= now)
        of_steps = and_(turn.c.run_id == bindparam("at_id"), turn.c.step_id.in_(bindparam("ids", expanding=True)))
        self.turns_of_steps: Executable = select(turn.c.name).where(of_steps)
        self.drop_turns_of_steps: Executable = delete(turn).where(of_steps)
        of_runs = turn.c.run_id.in_(bindparam("ids", expanding=True))
        self.turns_of_runs: Executable = select(turn.c.name).distinct().where(of_runs)
        self.drop_turns_of_runs: Executable = delete(turn).where(of_runs)
        # Whether a step is alone in the line for a lock, or would be.
        self.others_in_line: Executable = (
            select(turn.c.run_id)
            .where(
                at_name,
                or_(turn.c.until.is_(None), turn.c.until > now),
                or_(turn.c.run_id != bindparam("at_id"), turn.c.step_id != bindparam("at_step")),
            )
            .limit(1)
        )

    def _next_turn(self) -> None:
        turn, step, now = self._tables.turn, self._tables.step, self._dialect.now()
        self.in_line_for: Executable = (
            select(turn.c.run_id, turn.c.step_id, turn.c.ttl)
            .where(turn.c.name == bindparam("at_name"), turn.c.until.is_(None))
            .order_by(turn.c.asked_at, turn.c.run_id, turn.c.step_id)
            .limit(bindparam("limit", type_=Integer))
        )
        at_turn = and_(turn.c.run_id == bindparam("at_id"), turn.c.step_id == bindparam("at_step"))
        self.drop_turn: Executable = delete(turn).where(at_turn)
        self.grant: Executable = update(turn).where(at_turn).values(until=now + bindparam("held_for", type_=BigInteger))
        self.answer_turn: Executable = (
            update(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step"), step.c.status == "waiting")
            .values(status="completed", result=literal("null"), wake_at=None, finished_at=now)
        )
        holder = turn.alias("holder")
        is_held = exists(select(literal(1)).where(holder.c.name == turn.c.name, holder.c.until > now))
        free = (turn.c.until.is_(None), ~is_held)
        self.free_locks: Executable = (
            select(turn.c.name).distinct().where(*free).limit(bindparam("limit", type_=Integer))
        )
        self.what_is_free: Executable = select(
            exists().where(self._tables.run.c.queued_at.is_not(None)).label("lines"),
            exists(select(literal(1)).where(*free)).label("locks"),
        )

    def _state(self) -> None:
        state, now = self._tables.state, self._dialect.now()
        this = and_(state.c.task == bindparam("at_task"), state.c.key == bindparam("at_key"))
        live = or_(state.c.expires_at.is_(None), state.c.expires_at > now)
        self.read_state: Executable = select(state.c.value).where(this, live)
        self.states_of: Executable = (
            select(state.c.key, state.c.value, state.c.version, state.c.expires_at)
            .where(state.c.task == bindparam("at_task"), state.c.value.is_not(None), live)
            .order_by(state.c.key)
        )
        self.lock_state: Executable = self._locking(state)
        self.write_state: Executable = (
            update(state)
            .where(this)
            .values(value=bindparam("value"), expires_at=now + bindparam("ttl", type_=BigInteger))
        )
        self.count_state: Executable = update(state).where(this).values(value=bindparam("value"))
        self.drop_state: Executable = delete(state).where(this)
        self.old_states: Executable = (
            select(state.c.task, state.c.key)
            .where(state.c.expires_at <= now)
            .order_by(state.c.expires_at)
            .limit(bindparam("limit", type_=Integer))
        )
        self.forget_state: Executable = delete(state).where(this, state.c.expires_at <= now)

    def _locking(self, state: Any) -> Executable:
        """Lock a row that is made if it is not there: one statement, so that two who do it can't block each other."""
        given = {"task": bindparam("at_task"), "key": bindparam("at_key"), "version": literal(1)}
        more = {"version": state.c.version + 1}
        inserted = self._dialect.insert(state).values(**given)
        if self._dialect.name == "mysql":
            locking: Executable = inserted.on_duplicate_key_update(**more)
        else:
            locking = inserted.on_conflict_do_update(index_elements=list(state.primary_key), set_=more)
        return locking

    def _said(self) -> None:
        log = self._tables.log
        self.report: Executable = self._fenced_run(reported=bindparam("reported"), due_at=bindparam("lease_until"))
        of_line = ("place", "step_id", "at", "level", "logger", "message")
        self.insert_log: Executable = self._insert_or_ignore(log).values(
            run_id=bindparam("log_run"), **{name: bindparam(f"log_{name}") for name in of_line}
        )
        self.read_log: Executable = (
            select(*(log.c[name] for name in of_line))
            .where(log.c.run_id == bindparam("at_id"))
            .order_by(log.c.at, log.c.place)
        )
