"""Events and waits in every order: emits, registrations, dispatches (twice, halves of them), deadlines, crashes.

Hypothesis makes up runs and what happens to them, also in the middle of a pass or a dispatch; after each step the
tables are compared with what was promised. Whether an event answers a wait, and which of several does, is decided
here without the package's code. The databases' clock is the test's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import select

from celery_durable import EventTimeout, step
from celery_durable.core.codec import decode
from celery_durable.core.duration import SECOND, moment
from celery_durable.engine.events import EVENT_GRACE, new_event
from celery_durable.errors import EventConflict
from celery_durable.model import FINISHED
from celery_durable.store.records import Claim, Fence
from celery_durable.store.store import Store
from celery_durable.worker import dispatch as dispatching

from .driving import LEASE, Driver
from .watched import WatchedStore, watched

HOUR = 3_600 * SECOND
PAYLOADS: list[Any] = [{"n": 1}, {"n": 2, "in": {"it": [0, {"x": True}]}}, {"n": 1, "in": {"it": [0, {"x": 1}]}}]
MATCHES: list[Any] = [None, {"n": 1}, {"in.it.1.x": True}, {"n": 1, "in.it.0": 0}]
OPEN = ("waiting", "cancelled")
"""Steps without an outcome: what waits when its run ends is cancelled."""
FITS = [{0, 1, 2}, {0, 2}, {1}, {2}]
"""Which payloads each match holds for."""
OPERATIONS = (
    "suspend", "look", "take_event", "end_wait", "record", "emit_step", "finish",
    "close_gates", "prospects", "earlier_events", "deliver", "dispatched",
)  # fmt: skip


class Emit(NamedTuple):
    name: str
    key: str | None
    payload: int


class Wait(NamedTuple):
    name: str
    key: str | None
    match: int = 0
    timeout: Literal["1h", 0] | None = None
    on_timeout: Literal["none", "fail", "cancel"] = "none"
    caught: bool = False
    times: int = 1


Plan = tuple[int, str, int, Emit]
"""What happens in the middle of a pass or a dispatch: before which of its operations, what, to which, an event."""

some, ticks = st.integers(0, 9), st.integers(0, 1)
of_event = (st.sampled_from(["a", "a", "b"]), st.sampled_from([None, None, "k", "l"]))
emits = st.builds(Emit, *of_event, st.integers(0, 2))
matches, times = st.sampled_from([0, 0, 0, 1, 2, 3]), st.integers(1, 3)
timeouts = st.sampled_from(["1h", "1h", "1h", 0])
endless = st.builds(Wait, *of_event, matches, times=times)
limited = st.builds(Wait, *of_event, matches, timeouts, on_timeout=..., caught=..., times=times)
scripts = st.lists(endless | limited | emits, min_size=1, max_size=4)
what = st.sampled_from(["crash", "crash", "dispatch", "emit", "emit", "take over", "cancel"])
planned = st.tuples(st.sampled_from([1, 1, 2, 2, 3, 4, 5]), what, some, emits)
plans = st.none() | planned | planned


Watched = watched(*OPERATIONS)


@dataclass
class Body:
    """A run's body, made from its script, and what it has seen in its passes so far."""

    script: list[Emit | Wait]
    stops: bool = False
    """The code that is deployed now ends the run at once."""
    seen: dict[str, Any] = field(default_factory=dict)
    changed: bool = False

    def __call__(self) -> Any:
        got: list[Any] = ["stopped"] if self.stops else []
        try:
            for place, asked in enumerate([] if self.stops else self.script):
                if isinstance(asked, Emit):
                    sent = step.emit(f"{place}", asked.name, PAYLOADS[asked.payload], key=asked.key)
                    got.append(self.saw(f"{place}", sent))
                else:
                    got += [self.wait(asked, f"{place}/{turn}") for turn in range(asked.times)]
        finally:
            step.run("cleanup", list)
        return got

    def wait(self, asked: Wait, step_id: str) -> Any:
        try:
            found = step.wait_for_event(
                step_id, asked.name, key=asked.key, match=MATCHES[asked.match], timeout=asked.timeout,
                on_timeout=asked.on_timeout,
            )  # fmt: skip
        except EventTimeout:
            if self.saw(step_id, "late") and not asked.caught:
                raise
            return "late"
        return self.saw(step_id, found and found.id)

    def saw(self, step_id: str, value: Any) -> Any:
        self.changed |= self.seen.setdefault(step_id, value) != value
        return value


class Rows:
    """All that is recorded at one moment, in the order of time."""

    def __init__(self, store: Store) -> None:
        of = store.tables
        with store.engine.connect() as connection:
            read = connection.execute
            self.runs = {row.id: row for row in read(select(of.run))}
            self.steps = {(row.run_id, row.id): row for row in read(select(of.step).order_by(of.step.c.position))}
            self.waits = {(row.run_id, row.step_id) for row in read(select(of.wait))}
            self.taken = {(row.run_id, row.event): row.step_id for row in read(select(of.taken))}
            oldest_first = select(of.event).order_by(of.event.c.emitted_at, of.event.c.seq)
            self.events = {row.id: row for row in read(oldest_first)}


class Orders(RuleBasedStateMachine):
    store: WatchedStore

    def __init__(self) -> None:
        super().__init__()
        with self.store.engine.begin() as connection:
            for table in self.store.tables.metadata.sorted_tables:
                connection.execute(table.delete())
        self.store.clock = 500_000 * HOUR
        self.bodies: list[Body] = []
        self.held: list[Claim] = []
        self.emitted: dict[str, Emit] = {}
        self.settled: dict[object, Any] = {}

    @initialize(script=scripts, early=st.none() | emits, twins=st.integers(0, 2))
    def begin(self, script: list[Emit | Wait], early: Emit | None, twins: int) -> None:
        if early is not None:
            self.emit(early, False, 0, None, None)
        for ticks in (1, 0, 0)[: twins + 1]:
            self.start(script, ticks)

    @precondition(lambda self: len(self.bodies) < 4)
    @rule(script=scripts, ticks=ticks, goes=st.booleans())
    def start(self, script: list[Emit | Wait], ticks: int, goes: bool = True) -> None:
        self.store.clock += ticks * SECOND
        self.bodies.append(Body(script))
        Driver(self.store, self.bodies[-1]).start(f"r{len(self.bodies) - 1}")
        if goes:
            self.execute(len(self.bodies) - 1, False, None)

    @rule(new=emits, again=st.sampled_from([False, False, True]), ticks=ticks, aim=st.none() | some | some, plan=plans)
    def emit(self, new: Emit, again: bool, ticks: int, aim: int | None, plan: Plan | None) -> None:
        """An event, any or one that is waited for, which has an id of its own or one that was used before."""
        self.store.clock += ticks * SECOND
        waits = [self.asked(*place) for place in sorted(Rows(self.store).waits)]
        if aim is not None and waits:
            asked, fit = waits[aim % len(waits)], FITS[waits[aim % len(waits)].match]
            new = Emit(asked.name, asked.key or new.key, new.payload if new.payload in fit else min(fit))
        count = len(self.emitted)
        event_id = f"e{count // 2 if again else count}"
        before = self.emitted.setdefault(event_id, new)
        emitting = new_event(event_id, new.name, PAYLOADS[new.payload], new.key, max_payload=1000)
        with self.store.link() as link:
            try:
                assert self.store.emit(link, emitting, EVENT_GRACE) == (len(self.emitted) > count)
                assert before == new
            except EventConflict:
                assert before != new
        if aim:
            self.dispatch(0, 1, plan)

    @rule(which=some, size=st.sampled_from([1, 1, 200]), plan=plans)
    def dispatch(self, which: int, size: int, plan: Plan | None) -> None:
        """Of the newest event that is not dispatched, and sometimes of another one."""
        events = sorted(Rows(self.store).events.values(), key=lambda row: (row.dispatched_at is not None, -row.seq))
        if events:
            chosen = events[which // 2 % len(events)].id
            self.during(plan, lambda: self.dispatch_all([chosen], size))

    @rule(which=some, later=st.booleans(), plan=plans)
    def execute(self, which: int, later: bool, plan: Plan | None) -> None:
        """A message of a run comes, in time or not; its worker goes on at once, or later (never, if it dies)."""
        claims = self.claim(which)
        self.held += claims
        if self.held and not later:
            self.run_pass(self.held.pop(-1 if claims else which % len(self.held)), plan)

    @rule(which=some, what=st.sampled_from(["recover", "take over", "stop", "go", "cancel"]))
    def meddle(self, which: int, what: str) -> None:
        """The sweeper takes a run away from its worker, which may be alive; other code is deployed; it is cancelled."""
        run, body = Rows(self.store).runs[f"r{which % len(self.bodies)}"], self.bodies[which % len(self.bodies)]
        body.stops = what == "stop" or (body.stops and what != "go")
        with self.store.link() as link:
            if what in ("recover", "take over"):
                assert self.store.recover(link, Fence(run.id, run.token)) == (run.status == "running")
            elif what == "cancel" and len(self.emitted) > 1:
                self.store.end_from_outside(link, run.id, status="cancelled", error=None)
        if what == "take over":
            self.execute(which, False, None)

    @rule(later=st.booleans(), plan=plans)
    def wait_an_hour(self, later: bool, plan: Plan | None) -> None:
        self.store.clock += HOUR + SECOND
        for which in range(len(self.bodies)):
            self.execute(which, later, plan)

    def claim(self, which: int) -> list[Claim]:
        with self.store.link() as link:
            claim = self.store.claim(link, f"r{which % len(self.bodies)}", worker="w", lease=LEASE)
        return [claim] if isinstance(claim, Claim) else []

    def run_pass(self, claim: Claim, plan: Plan | None = None) -> None:
        driver = Driver(self.store, self.bodies[int(claim.fence.run_id[1:])])
        with self.store.link() as link:
            self.during(plan, lambda: driver.execute(link, claim))

    def dispatch_all(self, events: list[str], size: int) -> None:
        for event_id in events:
            dispatching._BATCH = size
            dispatching.dispatch(None, event_id)
            assert Rows(self.store).events[event_id].dispatched_at is not None

    def during(self, plan: Plan | None, work: Callable[[], object]) -> None:
        left, outer = plan[0] if plan else 0, self.store.tell

        def tell() -> None:
            nonlocal left
            left -= 1
            if plan is not None and left == 0:
                self.happen(*plan[1:])
            if plan is not None and left <= 0 and plan[1] == "crash":
                raise SystemExit  # also out of what a body does to clean up

        self.store.tell = tell
        try:
            with contextlib.suppress(SystemExit):
                work()
        finally:
            self.store.tell = outer

    def happen(self, what: str, which: int, new: Emit) -> None:
        if what == "emit":
            self.emit(new, False, 0, which, None)
        elif what == "dispatch":
            self.dispatch(which, 1, None)
        self.meddle(which, what)

    @invariant()
    def holds(self) -> None:
        rows = Rows(self.store)
        emits = {decode(row.result): place[0] for place, row in rows.steps.items() if row.kind == "emit"}
        assert emits == {row.id: row.emitted_by for row in rows.events.values() if row.emitted_by is not None}
        assert rows.events.keys() == emits.keys() | self.emitted.keys()
        assert all((row.dispatched_at is None) != (row.due_at is None) for row in rows.events.values())
        outcomes: dict[object, Any] = {place: row for place, row in rows.steps.items() if row.status not in OPEN}
        for run in rows.runs.values():
            if run.status in FINISHED:
                steps = [row for row in rows.steps.values() if row.run_id == run.id]
                outcomes[run.id] = (run.status, run.result, run.error, run.finished_at, steps)
        assert outcomes == outcomes | self.settled, "what was recorded has changed"
        self.settled = outcomes
        alive = {place for place in rows.steps.keys() - outcomes.keys() if place[0] not in outcomes}
        assert rows.waits == alive, "the waits that are registered, and the steps that wait"
        for which, body in enumerate(self.bodies):
            self.check_run(rows, rows.runs[f"r{which}"], body)

    def check_run(self, rows: Rows, run: Any, body: Body) -> None:
        assert not body.changed, "the body saw something else than before"
        had, results = [], []
        for row in rows.steps.values():
            if row.run_id == run.id and row.kind == "emit":
                results.append(decode(row.result))
            if row.run_id != run.id or row.kind != "wait":
                continue
            asked = self.asked(row.run_id, row.id)
            answers = [found for found in self.answers(rows, run, asked) if found.id not in had]
            taken = None if row.status in OPEN else self.outcome(rows, row, asked)
            results.append("late" if row.status == "failed" else taken)
            if row.status in OPEN:
                missed = [found for found in answers if found.dispatched_at is not None]
                assert not missed or run.status in FINISHED, "an event is lost"
                assert row.result is row.error is None
            elif taken is not None:
                assert taken in [found.id for found in answers], "it is no answer, or was taken before"
                assert taken == answers[0].id, "not the oldest"
                had.append(taken)
            elif asked.timeout == 0:
                assert not any(found.emitted_at <= row.finished_at - SECOND for found in answers), "it was there"
        given = {(run.id, rows.events[found].seq) for found in had}
        assert given == {place for place in rows.taken if place[0] == run.id}, "what is taken, and what waits gave"
        if run.status == "suspended" and run.id not in [place[0] for place in rows.waits]:
            assert (run.due_at or 2 * self.store.clock) <= self.store.clock + EVENT_GRACE + SECOND, (
                "it sleeps though it has its answer"
            )
        if run.status == "completed":
            assert decode(run.result) in (results, ["stopped"])

    def answers(self, rows: Rows, run: Any, asked: Wait) -> list[Any]:
        """The events that may answer this wait of this run, oldest first."""
        events = [row for row in rows.events.values() if row.name == asked.name and row.emitted_at >= run.created_at]
        fitting = [row for row in events if PAYLOADS.index(decode(row.payload)) in FITS[asked.match]]
        return [row for row in fitting if asked.key in (None, row.key)]

    def asked(self, run_id: str, step_id: str) -> Wait:
        return self.bodies[int(run_id[1:])].script[int(step_id.partition("/")[0])]  # type: ignore[return-value]

    def outcome(self, rows: Rows, row: Any, asked: Wait) -> str | None:
        """The id of the event that a wait took, ``None`` where its time is up: one of the two."""
        if row.status == "failed" or row.result == "null":
            assert asked.timeout is not None
            assert row.finished_at - row.started_at >= (HOUR if asked.timeout else 0)
            assert (row.status == "failed") == (asked.on_timeout != "none") == ("did not come" in (row.error or ""))
            return None
        taken = decode(row.result)
        found = rows.events[taken.id]
        assert (taken.name, taken.key, taken.payload) == (found.name, found.key, decode(found.payload))
        assert moment(taken.emitted_at) == found.emitted_at
        assert (rows.taken[row.run_id, found.seq], row.error) == (row.id, None)
        return str(taken.id)

    def teardown(self) -> None:
        """At the end all is settled, now and whenever a time is up; what waits then waits for what never came."""
        for _ in range(20 if self.bodies else 0):
            self.settle()
            if all(self.asked(*place).timeout is None for place in Rows(self.store).waits):
                return
            self.store.clock += HOUR + SECOND
        assert not self.bodies, "this never ends"

    def settle(self) -> None:
        """What a sweeper brings about, that finds its work in the database and nowhere else."""
        for which in range(len(self.bodies)):
            self.meddle(which, "recover")
        while True:
            self.store.clock += 30 * SECOND
            with self.store.link() as link:
                events = [event_id for event_id, _ in self.store.due_events(link, 100)]
                runs = [int(due.fence.run_id[1:]) for due in self.store.due(link, 100)]
            self.dispatch_all(events, 200)
            claims = [claim for which in runs for claim in self.claim(which)]
            for claim in claims:
                self.run_pass(claim)
            self.holds()
            if not events and not claims:
                break
        rows = Rows(self.store)
        assert all(row.dispatched_at is not None for row in rows.events.values())
        alive = {run.id: run.status for run in rows.runs.values() if run.status not in FINISHED}
        assert alive == dict.fromkeys((run_id for run_id, _ in rows.waits), "suspended"), "a run is stuck"


FEW = 3
"""Examples on a database where each takes a hundred times as long: what differs there are the statements."""


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_events_in_any_order(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "celery_durable")
    store = Watched(database_url)
    store.wind_up()
    monkeypatch.setattr(dispatching, "_BATCH", 200)
    monkeypatch.setattr(dispatching, "runtime_of", lambda app: SimpleNamespace(store=store))
    monkeypatch.setattr(dispatching, "Sender", lambda app: SimpleNamespace(send=lambda link, runs: None))
    monkeypatch.setattr(dispatching, "start_triggered", lambda app, event: (0, []))
    examples = 200 if store.dialect.name == "sqlite" else FEW
    enough = settings(
        max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_machine(type("OnThisStore", (Orders,), {"store": store}), settings=settings(enough, report_multiple_bugs=False))
    store.engine.dispose()
