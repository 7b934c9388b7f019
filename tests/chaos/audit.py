"""Whether all is as it should be, seen from outside the package: plain SQL, the effects, Celery's results."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from tests.chaos.effects import Effect, read_effects
from tests.chaos.plans import SEEN, SHAPES, Expected, Plan

__all__ = ["TASK", "Audit", "Violation", "unfinished"]

TASK = "tests.chaos.shapes."
ENDED = ("completed", "failed", "cancelled")
STATES = {"completed": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
LOSABLE = 60.0
"""Seconds behind the end of a run in which the message of an ordinary callback may be under way."""
STARTED_OUTSIDE = ("signup", "chained", "chorded")
"""Plans that are not runs themselves."""


@dataclass(frozen=True)
class Violation:
    """Something that should not be."""

    claim: str
    run: str | None
    why: str


def unfinished(engine: Engine) -> dict[str, int]:
    """What there is still to do: runs by their status, events, and results that were not delivered."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT status, count(*) FROM durable_run GROUP BY status")).all()
        found = {status: count for status, count in rows if status not in ENDED}
        for what, table in (("due", "durable_run"), ("events due", "durable_event")):
            count = connection.execute(text(f"SELECT count(*) FROM {table} WHERE due_at IS NOT NULL")).scalar_one()
            found |= {what: count} if count else {}
    return found


@dataclass
class Audit:
    """Everything there is, read once; then one method for each claim."""

    journal: Path
    effects_file: Path
    results: Any
    """Celery's result backend."""
    forgotten: list[tuple[float, float]] = field(default_factory=list)
    """From when to when messages may have been lost for good."""
    violations: list[Violation] = field(default_factory=list)
    at_risk: int = 0
    """Ordinary callbacks that were not executed, and whose message may have been in a broker that was emptied."""

    def run(self, connection: Connection) -> list[Violation]:
        self._read(connection)
        for claim in (
            self.every_plan_was_done,
            self.every_run_ended_as_it_should,
            self.each_step_is_recorded_once_and_was_seen_so,
            self.each_transaction_took_effect_once,
            self.no_event_is_lost_or_taken_twice,
            self.callbacks_and_chords_fired,
            self.celery_was_told,
            self.what_is_shared_is_right,
            self.nothing_is_left_behind,
        ):
            claim()
        return self.violations

    def _read(self, connection: Connection) -> None:
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        self.plans = {plan.id: plan for plan in (Plan(**line["plan"]) for line in lines if line["what"] == "planned")}
        self.done = {(line["what"], line.get("id")): line["at"] for line in lines}
        self.expected: dict[str, Expected] = {
            plan.id: SHAPES[plan.shape].expected(plan) for plan in self.plans.values()
        }
        self.effects: dict[tuple[str, str], list[Effect]] = read_effects(self.effects_file)
        self.runs = {row["id"]: row for row in rows(connection, "durable_run")}
        self.steps: dict[str, dict[str, Any]] = defaultdict(dict)
        self.all_steps = rows(connection, "durable_step")
        for row in self.all_steps:
            self.steps[row["run_id"]][row["id"]] = row
        self.inputs = {row["run_id"] for row in rows(connection, "durable_input")}
        self.events = {row["id"]: row for row in rows(connection, "durable_event")}
        self.taken = rows(connection, "durable_taken")
        self.waits, self.turns = rows(connection, "durable_wait"), rows(connection, "durable_turn")
        self.states, self.leases = rows(connection, "durable_state"), rows(connection, "durable_lease")
        self.payments = rows(connection, "chaos_payment")
        self.accounts = rows(connection, "chaos_account")

    @staticmethod
    def moment(stored: int) -> float:
        """A time of the database by the clock of the effects."""
        return stored / 1e6 - (time.time() - time.monotonic())

    def _breach(self, claim: str, run: str | None, why: str) -> None:
        self.violations.append(Violation(claim, run, why))

    # ----------------------------------------------------------------- the claims

    def every_plan_was_done(self) -> None:
        for plan in self.plans.values():
            if ("started", plan.id) not in self.done:
                self._breach("started", plan.id, "the producer could not start it")
            for number in range(len(plan.events)):
                if ("emitted", f"{plan.id}:{number}") not in self.done:
                    self._breach("started", plan.id, f"the producer could not emit its event {number}")

    def every_run_ended_as_it_should(self) -> None:
        claim = "ended"
        for run_id, expected in self.expected.items():
            if self.plans[run_id].shape in STARTED_OUTSIDE:
                continue
            run = self.runs.get(run_id)
            if run is None:
                self._breach(claim, run_id, "there is no such run")
                continue
            self._compare(claim, run_id, "its status", run["status"], expected.status)
            if expected.status == "completed" and expected.result not in (None, SEEN):
                found = plain(run["result"])
                if self.plans[run_id].shape == "hears":  # events that are emitted at one moment have no order
                    found = sorted(found or [], key=lambda payload: payload["number"])
                self._compare(claim, run_id, "its result", found, expected.result)
            if expected.error is not None and expected.error not in (run["error"] or ""):
                self._breach(claim, run_id, f"its error is {run['error']!r}, and not about {expected.error!r}")
            if expected.steps is not None:
                self._compare(claim, run_id, "its steps", set(self.steps[run_id]), set(expected.steps))
            children = [child for child in self.runs.values() if child["parent_id"] == run_id]
            if expected.called:
                self._compare(claim, run_id, "the number of runs that it called", len(children), expected.called)
            for child in children:
                wanted = "cancelled" if child["task"] == f"{TASK}sleeps_on" else "completed"
                self._compare(claim, child["id"], f"the status of this child of {run_id}", child["status"], wanted)
        for run in self.runs.values():
            if run["status"] not in ENDED:
                about = f"{run['task']} is {run['status']}, waiting on {run['waiting_on']!r}, due at {run['due_at']}"
                self._breach(claim, run["id"], about)

    def each_step_is_recorded_once_and_was_seen_so(self) -> None:
        """The record's value is one that a function really returned, and the one that the body went on with."""
        claim = "steps"
        for (run_id, name), count in Counter((row["run_id"], row["id"]) for row in self.all_steps).items():
            self._compare(claim, run_id, f"how often step {name} is recorded", count, 1)
        for run_id, recorded in self.steps.items():
            run = self.runs.get(run_id)
            if run is None or run["generation"]:
                continue
            for name, row in recorded.items():
                if row["kind"] in ("run", "undo") and row["status"] == "completed":
                    done = self.effects.get((run_id, name), [])
                    if plain(row["result"]) not in [one.nonce for one in done]:
                        self._breach(claim, run_id, f"step {name} is recorded, but that outcome was never had")
                    if row["attempts"] * run["passes"] < len(done):
                        why = f"step {name} was done {len(done)} times in {run['passes']} passes"
                        self._breach(claim, run_id, f"{why}, {row['attempts']} attempts each at most")
                if row["status"] not in ENDED and row["kind"] != "sleep":  # nothing is written when one is over
                    self._breach(claim, run_id, f"step {name} is {row['status']}")
            self._seen(claim, run, recorded)
        for run_id, expected in self.expected.items():
            for undo in expected.undone:
                if undo not in self.steps[run_id]:
                    self._breach(claim, run_id, f"{undo} was not done")
            if self.plans[run_id].shape == "once" and len(self.effects.get((run_id, "risky"), [])) > 1:
                self._breach(claim, run_id, "a step that is done once at most was done again")

    def _seen(self, claim: str, run: dict[str, Any], recorded: dict[str, Any]) -> None:
        """What the body saw of its steps, which it returns, is what is recorded of them."""
        expected = self.expected.get(run["id"])
        if run["status"] != "completed" or expected is None:
            return
        result = plain(run["result"])
        if expected.result == SEEN:
            for name, value in result.items():
                row = recorded.get(name)
                if row is None:
                    self._breach(claim, run["id"], f"the body saw step {name}, which is not recorded")
                elif row["status"] == "completed" and row["kind"] in ("run", "transaction", "call"):
                    self._compare(claim, run["id"], f"what the body saw of {name}", value, plain(row["result"]))
        elif self.plans[run["id"]].shape == "maps":
            values = [plain(recorded[f"item[{number}]"]["result"]) for number in range(len(recorded))]
            self._compare(claim, run["id"], "what the body saw", result, values)

    def each_transaction_took_effect_once(self) -> None:
        claim = "transactions"
        done = Counter((row["run"], row["name"]) for row in self.payments)
        for (run_id, name), count in done.items():
            self._compare(claim, run_id, f"how often transaction {name} took effect", count, 1)
        nonces = {(row["run"], row["name"]): row["nonce"] for row in self.payments}
        for run_id, recorded in self.steps.items():
            run = self.runs.get(run_id)
            if run is None or run["generation"]:
                continue
            for name, row in recorded.items():
                if row["kind"] == "transaction" and row["status"] == "completed" and name not in ("read", "write"):
                    written = nonces.pop((run_id, name), None)
                    self._compare(claim, run_id, f"what transaction {name} wrote", written, plain(row["result"]))
        for run_id, name in nonces:
            run = self.runs.get(run_id)
            if run is None or not run["generation"]:
                self._breach(claim, run_id, f"transaction {name} took effect and is not recorded")
        for run_id, plan in self.plans.items():
            if plan.shape == "anew":
                found = sorted(name for run, name in nonces if run == run_id)
                self._compare(claim, run_id, "its generations", found, [f"pay-{number}" for number in range(5)])

    def no_event_is_lost_or_taken_twice(self) -> None:
        claim = "events"
        taken: dict[str, list[Any]] = defaultdict(list)
        by_number = {row["seq"]: row["id"] for row in self.events.values()}
        for row in self.taken:
            taken[by_number.get(row["event"], "?")].append(row)
        for plan in self.plans.values():
            for number in range(len(plan.events)):
                event_id = f"{plan.id}:{number}"
                event = self.events.get(event_id)
                if event is None:
                    self._breach(claim, plan.id, f"event {event_id} is not there")
                    continue
                if event["dispatched_at"] is None or event["error"] is not None:
                    self._breach(claim, plan.id, f"event {event_id} is not dispatched: {event['error']}")
                took = [row["run_id"] for row in taken[event_id]]
                if plan.shape == "signup":
                    self._compare(claim, plan.id, "how many runs its event started", len(took), 1)
                    for run_id in took:
                        run = self.runs.get(run_id)
                        found = (run["task"], run["status"], plain(run["result"])) if run else None
                        self._compare(claim, run_id, "what it is", found, (f"{TASK}triggered", "completed", plan.id))
                else:
                    self._compare(claim, plan.id, f"who took event {event_id}", took, [plan.id])
        started = Counter(run["task"] for run in self.runs.values())[f"{TASK}triggered"]
        signups = sum(plan.shape == "signup" for plan in self.plans.values())
        self._compare(claim, None, "the number of runs that events started", started, signups)

    def callbacks_and_chords_fired(self) -> None:
        claim = "callbacks"
        for plan in self.plans.values():
            for name in self.expected[plan.id].callbacks:
                self._told(claim, plan.id, name, self.runs.get(plan.id))
            if "callback" in self.expected[plan.id].callbacks:
                self._compare(claim, plan.id, "its durable callback", self._ended(f"{plan.id}:callback"), "completed")
            if plan.shape == "chained":
                last = self.runs.get(f"{plan.id}:second")
                found = [self._ended(f"{plan.id}:{name}") for name in ("first", "second")]
                self._compare(claim, plan.id, "its chain", found, ["completed"] * 2)
                self._told(claim, plan.id, "end", last)
            if plan.shape == "chorded":
                (count,) = plan.args
                found = [self._ended(f"{plan.id}:{number}") for number in range(count)]
                self._compare(claim, plan.id, "the members of its chord", found, ["completed"] * count)
                body = self.runs.get(f"{plan.id}:body")
                end = (body["status"], plain(body["result"])) if body else None
                self._compare(claim, plan.id, "the body of its chord", end, ("completed", sum(range(count))))
                self._told(claim, plan.id, "end", body)

    def _ended(self, run_id: str) -> str | None:
        return self.runs[run_id]["status"] if run_id in self.runs else None

    def _told(self, claim: str, run_id: str, name: str, run: Any) -> None:
        """An ordinary task is told at least once: its message is out of our hands when the broker has it."""
        if self.effects.get((run_id, name)) or run is None:
            return
        at = self.moment(run["finished_at"] or 0)
        if any(since - LOSABLE <= at <= until for since, until in self.forgotten):
            self.at_risk += 1
            return
        self._breach(claim, run_id, f"its {name} was not executed, and the broker had not been emptied")

    def celery_was_told(self) -> None:
        claim = "results"
        for run in self.runs.values():
            if run["kind"] == "task" or run["status"] not in ENDED or not run["task"].startswith(TASK):
                continue
            meta = self.results.get_task_meta(run["id"], cache=False)
            self._compare(claim, run["id"], "Celery's state", meta["status"], STATES[run["status"]])
            if run["status"] == "completed" and meta["status"] == "SUCCESS":
                self._compare(claim, run["id"], "Celery's result", meta["result"], plain(run["result"]))

    def what_is_shared_is_right(self) -> None:
        claim = "shared"
        shapes = Counter(self.plans[run_id].shape for run_id in self.runs if run_id in self.plans)
        self._compare(claim, None, "the accounts", sum(row["amount"] for row in self.accounts), shapes["locked"])
        counted = sum(plain(row["value"]) for row in self.states if row["key"] == "count")
        self._compare(claim, None, "the count", counted, 2 * shapes["counts"])

    def nothing_is_left_behind(self) -> None:
        claim = "left behind"
        for row in self.waits:
            self._breach(claim, row["run_id"], f"the wait {row['step_id']} for {row['name']!r} is left")
        for row in self.turns:
            self._breach(claim, row["run_id"], f"the lock {row['name']!r} is held, or waited for")
        for run in self.runs.values():
            for column in ("due_at", "queued_at"):
                if run[column] is not None:
                    self._breach(claim, run["id"], f"it has ended, and its {column} is {run[column]!r}")
            if run["delivered_at"] is None and run["kind"] != "task":
                self._breach(claim, run["id"], "its result is not delivered")
            if run["parent_id"] is not None:
                answer = self.steps[run["parent_id"]].get(run["parent_step"])
                if answer is None or answer["status"] not in ENDED:
                    self._breach(claim, run["id"], f"its caller {run['parent_id']} has no answer of it")
        for what, ids in (
            ("steps", {row["run_id"] for row in self.all_steps}),
            ("an input", self.inputs),
            ("a taken event", {row["run_id"] for row in self.taken}),
        ):
            for run_id in ids - set(self.runs):
                self._breach(claim, run_id, f"there is {what} of a run that is not there")
        for event in self.events.values():
            if event["due_at"] is not None:
                self._breach(claim, None, f"event {event['id']} is to be dispatched still")
        for lease in self.leases:
            if lease["name"] != "sweeper" and not lease["name"].startswith("gate-"):
                self._breach(claim, None, f"the lease {lease['name']!r} is left")

    def _compare(self, claim: str, run_id: str | None, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            self._breach(claim, run_id, f"{what}: {found!r} instead of {wanted!r}")

    # ----------------------------------------------------------------- figures

    def figures(self) -> dict[str, Any]:
        late = sorted(
            (run["finished_at"] - run["created_at"]) / 1e6 - self.plans[run_id].least
            for run_id, run in self.runs.items()
            if run_id in self.plans and run["finished_at"] and self.expected[run_id].status == "completed"
        )
        done = sum(len(found) for found in self.effects.values())
        again = sum(
            max(0, len(self.effects.get((row["run_id"], row["id"]), [])) - row["attempts"]) for row in self.all_steps
        )
        return {
            "plans": len(self.plans),
            "runs": len(self.runs),
            "steps": len(self.all_steps),
            "events": len(self.events),
            "transactions": len(self.payments),
            "effects": done,
            "effects done again": again,
            "delay p50 s": round(statistics.median(late), 2) if late else None,
            "delay p99 s": round(late[int(len(late) * 0.99)], 2) if late else None,
        }


def rows(connection: Connection, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]


def plain(stored: str | None) -> Any:
    """A stored value of plain data."""
    return None if stored is None else json.loads(stored)
