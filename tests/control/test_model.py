"""All operations on runs in all statuses, in any order, against a model of what is to come of them (``model.py``).

Hypothesis makes up runs with bodies of all kinds of steps, and what happens to them, also in the middle of a pass.
After each step the tables are compared with the model. The databases' clock is the test's.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from celery_durable import Retry, step
from celery_durable.core.codec import decode
from celery_durable.core.duration import SECOND
from celery_durable.core.faults import summary
from celery_durable.core.ids import ROLLBACK
from celery_durable.engine.current import current_pass
from celery_durable.engine.executor import Gone, Parked
from celery_durable.engine.settings import Settings
from celery_durable.errors import RunNotFound, StepNotFound, WrongStatus
from celery_durable.store.records import Claim, Fence
from tests.engine.driving import Driver

from .model import ENDED, HOUR, Modelled, Verb
from .operating import LEASE, OF_RUNS, Clerk, begin, emitted
from .watched import Looking, Watched

MOST = 50
"""More writes than any pass here has."""
Plan = tuple[int, str]
"""Before which of its writes something happens to a pass, and what."""
some = st.integers(0, 9)
verbs: st.SearchStrategy[Verb] = st.sampled_from(["step", "step", "fail", "wait", "sleep", "call", "undo", "again"])
scripts = st.lists(verbs, min_size=1, max_size=4).map(tuple)
plans = st.none() | st.tuples(st.integers(1, 5), st.sampled_from(["crash", "crash", "cancel", "force", "pause"]))
acts = st.sampled_from(["cancel", "cancel", "force", "pause", "pause", "resume", "resume", "retry", "retry"])


class Operated(Looking, RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        with self.store.engine.begin() as connection:
            for table in self.store.tables.metadata.sorted_tables:
                connection.execute(table.delete())
        self.store.clock = 500_000 * HOUR
        self.clerk = Clerk(self.store)
        self.runs: dict[str, Modelled] = {}
        self.gone: set[str] = set()
        self.healthy = False
        self.held: list[tuple[Claim, Modelled]] = []
        self.kept: dict[tuple[str, int, str], Any] = {}
        self.numbers = itertools.count()
        self.emits: Counter[str] = Counter()
        self.deeds: list[tuple[str | None, str]] = []

    # ------------------------------------------------------------- bodies

    def body(self, number: int) -> None:
        """What the scripts mean."""
        run = current_pass.get()
        assert run is not None
        for place, verb in enumerate(self.runs[run.run_id].script):
            name = f"{place}"
            if verb == "undo":
                step.on_rollback(name, int)
            elif verb == "again" and number == 0:
                step.continue_as_new(1)
            elif verb in ("step", "fail"):
                step.run(name, self.work, verb)
            elif verb == "wait":
                step.wait_for_event(name, "go", key=run.run_id)
            elif verb == "sleep":
                step.sleep(name, "1h")
            elif verb == "call":
                step.call(name, ("child", 0))

    def work(self, verb: str) -> str:
        if verb == "fail" and not self.healthy:
            raise ValueError(verb)
        return f"{verb} {next(self.numbers)}"

    # ------------------------------------------------------------- rules

    @initialize(script=scripts)
    def first(self, script: tuple[Verb, ...]) -> None:
        self.start(script, None)

    @precondition(lambda self: len(self.runs) < 6)
    @rule(script=scripts, timeout=st.sampled_from([None, None, 2 * HOUR]))
    def start(self, script: tuple[Verb, ...], timeout: int | None) -> None:
        run_id = f"r{next(self.numbers)}"
        with self.store.link() as link:
            begin(self.store, link, run_id, args=(0,))
        self.runs[run_id] = Modelled(run_id, script, self.store.clock, timeout)

    @rule(which=some, plan=plans)
    def execute(self, which: int, plan: Plan | None) -> None:
        """A message of the run comes."""
        claim = self.claim(which)
        if claim is not None:
            self.run_pass(claim, plan)

    @rule(which=some)
    def hold(self, which: int) -> None:
        """A worker takes the run, and is slow."""
        claim = self.claim(which)
        if claim is not None:
            self.held.append((claim, self.runs[claim.fence.run_id]))

    @precondition(lambda self: self.held)
    @rule(which=some)
    def go_on(self, which: int) -> None:
        """The slow worker goes on, whatever has become of the run."""
        claim, run = self.held.pop(which % len(self.held))
        claim = replace(claim, now=self.store.clock)  # the clock of a worker goes on, too
        if run.id in self.runs and self.row(run.id).token == claim.fence.token and run.status == "running":
            self.run_pass(claim)
            return
        before = self.tables(but=("audit",))
        stopped = run.id in self.runs and self.row(run.id).token == claim.fence.token and run.status not in ENDED
        assert not stopped or run.under_way, run
        with self.store.link() as link:
            ended = self.driver().execute(link, claim, *decode(claim.arguments)[0])
        if stopped:
            assert isinstance(ended, Parked), ended
            self.adopt(run)
            run.let_go()
            return
        if run.id in self.runs and run.script != ("undo",) * len(run.script):
            assert isinstance(ended, Gone), ended
        assert self.tables(but=("audit",)) == before, "a stale worker has written"

    @rule(which=some)
    def recover(self, which: int) -> None:
        """The sweeper takes the run for one whose worker has died."""
        run = self.one(which)
        if run is not None:
            with self.store.link() as link:
                done = self.store.recover(link, Fence(run.id, self.row(run.id).token))
            assert done == run.recover()

    @rule(which=some, name=acts, again=st.booleans())
    def operate(self, which: int, name: str, again: bool) -> None:
        run = self.one(which)
        if run is not None:
            self.act(run, name)
            if again:
                before = self.tables()
                self.act(run, name, expected=False)
                assert self.tables() == before, f"the second {name} did something"

    @precondition(lambda self: len(self.runs) < 6)
    @rule(which=some, before=st.integers(0, 3))
    def fork(self, which: int, before: int) -> None:
        run = self.one(which)
        if run is None or run.script[before : before + 1] == ("undo",):
            return
        new = f"r{next(self.numbers)}"
        if self.has_row(run.id, ROLLBACK):
            with pytest.raises(WrongStatus):
                self.clerk.fork(run.id, f"{before}", task_id=new)
            return
        if f"{before}" not in run.recorded and not self.has_row(run.id, f"{before}"):
            with pytest.raises(StepNotFound):
                self.clerk.fork(run.id, f"{before}", task_id=new)
            return
        for _ in range(2):
            assert self.clerk.fork(run.id, f"{before}", task_id=new).forked_from == run.id
        self.copied(run, "fork", run.copy(new, self.store.clock, before))

    @precondition(lambda self: len(self.runs) < 6)
    @rule(which=some)
    def replay(self, which: int) -> None:
        run = self.one(which)
        if run is not None:
            new = f"r{next(self.numbers)}"
            for _ in range(2):
                assert self.clerk.replay(run.id, task_id=new).replayed_from == run.id
            self.copied(run, "replay", run.copy(new, self.store.clock, 0))

    @rule(age=st.sampled_from([0, HOUR, 3 * HOUR]))
    def prune(self, age: int) -> None:
        self.store.clock += SECOND
        over = {run.id for run in self.runs.values() if run.status in ENDED and run.finished < self.store.clock - age
                and run.created < self.store.clock - age}  # fmt: skip
        assert self.clerk.prune(age // SECOND) == len(over)
        self.deeds = [deed for deed in self.deeds if deed[0] not in over] + [(None, "prune")] * bool(over)
        self.runs = {run.id: run for run in self.runs.values() if run.id not in over}
        self.gone |= over
        for run_id in sorted(over):
            for ask in (self.clerk.get, self.clerk.cancel, self.clerk.retry, self.clerk.replay):
                with pytest.raises(RunNotFound):
                    ask(run_id)

    @rule(which=some)
    def emit(self, which: int) -> None:
        run = self.one(which)
        if run is not None and run.status not in ENDED:
            with self.store.link() as link:
                emitted(self.store, link, "go", run.id, f"e{next(self.numbers)}")
            run.emit()
            self.emits[run.id] += 1

    @rule()
    def an_hour_passes(self) -> None:
        self.store.clock += HOUR + SECOND

    @rule()
    def the_code_is_mended_or_broken(self) -> None:
        self.healthy = not self.healthy

    # ------------------------------------------------------------- what rules do

    def one(self, which: int) -> Modelled | None:
        runs = list(self.runs.values())
        return runs[which % len(runs)] if runs else None

    def driver(self) -> Driver:
        return Driver(self.store, self.body, settings=Settings(lease=LEASE), step_retry=Retry(max_attempts=1))

    def claim(self, which: int) -> Claim | None:
        run = self.one(which)
        if run is None:
            return None
        claimable = run.is_claimable(self.store.clock)
        with self.store.link() as link:
            claim = self.store.claim(link, run.id, worker="w", lease=LEASE, run_timeout=run.timeout)
        assert isinstance(claim, Claim) == claimable, (claim, run)
        if isinstance(claim, Claim):
            run.claim(self.store.clock + LEASE)
            return claim
        return None

    def run_pass(self, claim: Claim, plan: Plan | None = None) -> None:
        run, left = self.runs[claim.fence.run_id], plan[0] if plan else 0
        disturbed = False

        def tell() -> None:
            nonlocal left, disturbed
            left -= 1
            assert left > -MOST, f"the pass of {run} goes round in circles"
            if plan is None or left > 0:
                return
            if not disturbed:
                self.store.tell = lambda: None
                self.adopt(run)
                disturbed = plan[1] == "crash" or self.act(run, plan[1]) == "done"
                self.store.tell = tell
            if plan[1] == "crash":
                raise SystemExit

        self.store.tell = tell
        ended: Any = None
        try:
            with contextlib.suppress(SystemExit), self.store.link() as link:
                ended = self.driver().execute(link, claim, *decode(claim.arguments)[0])
        finally:
            self.store.tell = lambda: None
        if disturbed:
            assert ended is None or isinstance(ended, Gone if run.status in ENDED else Parked), ended
            if ended is not None and run.status not in ENDED:
                self.adopt(run)
                run.let_go()
        else:
            run.run(claim.now, self.store.clock, self.healthy, self.called)
        self.follow(run)

    def called(self, run: Modelled, name: str) -> None:
        child = str(self.steps(run.id)[name].child)
        run.calls[name] = child
        self.runs.setdefault(child, Modelled(child, ("step", "fail"), self.store.clock, parent=(run.id, name)))

    def follow(self, run: Modelled) -> None:
        """What the end of a run means for those above it and below it."""
        if run.status not in ENDED:
            return
        for child in [self.runs[child] for child in run.calls.values() if child in self.runs]:
            child.be_cancelled(self.store.clock)
            self.follow(child)
        run.calls.clear()
        if run.parent is not None and run.parent[0] in self.runs:
            self.runs[run.parent[0]].answer(run.parent[1], run)

    def act(self, run: Modelled, name: str, expected: bool = True) -> str:
        """Do it, in the model and to the run."""
        now, deeds = self.store.clock, len(run.deeds)
        outcomes: dict[str, Callable[[], str]] = {
            "cancel": lambda: run.cancel(now, False), "force": lambda: run.cancel(now, True), "pause": run.pause,
            "resume": lambda: run.resume(now), "retry": lambda: run.retry(now),
        }  # fmt: skip
        calls = run.calls.copy()
        outcome = outcomes[name]()
        if name == "force" or run.status == "cancelled":
            run.calls = calls
        assert expected or outcome != "done"
        self.deeds += [(run.id, deed) for deed in run.deeds[deeds:]]
        if outcome == "wrong":
            with pytest.raises(WrongStatus):
                self.do(run, name)
        else:
            assert self.do(run, name).status == run.status
        self.follow(run)
        return outcome

    def do(self, run: Modelled, name: str) -> Any:
        if name == "force":
            return self.clerk.cancel(run.id, force=True)
        return getattr(self.clerk, name)(run.id)

    def copied(self, run: Modelled, action: str, copy: Modelled) -> None:
        self.deeds.append((run.id, action))
        run.deeds.append(action)
        self.runs[copy.id] = copy

    def adopt(self, run: Modelled) -> None:
        """What a pass that does not come to its end has recorded: nobody can tell that beforehand."""
        steps = self.steps(run.id)
        run.events = self.emits[run.id] - len([row for row in self.tables()["taken"] if row.run_id == run.id])
        run.sleeps = {name: row.wake_at for name, row in steps.items() if row.kind == "sleep" and row.wake_at}
        run.waits = {name for name, row in steps.items() if row.kind == "wait" and row.status == "waiting"}
        run.done = {
            name for name, row in steps.items() if row.status == "completed" and row.kind not in ("undo", "rollback")
        }
        run.failed, run.stopped, run.rolling = set(), None, None
        for name, row in steps.items():
            if row.kind == "rollback":
                run.rolling = decode(row.result)["status"]
            elif row.status == "failed":
                kind = summary(row.error)["type"]
                stops = {"RunCancelled": "cancelled", "RunOverdue": "failed"}.get(kind.rpartition(".")[2])
                run.stopped = run.stopped or stops
                run.failed |= set() if stops else {name}
                run.lost.discard(name)
            if row.kind == "call" and row.status not in ("waiting",) and name in run.calls:
                child = self.runs.get(run.calls.pop(name))
                if child is not None and row.status != "completed":
                    child.be_cancelled(self.store.clock)
                    self.follow(child)

    # ------------------------------------------------------------- looking

    @invariant()
    def holds(self) -> None:
        tables = self.tables()
        rows = {row.id: row for row in tables["run"]}
        assert {run_id: row.status for run_id, row in rows.items()} == {
            run.id: run.status for run in self.runs.values()
        }  # fmt: skip
        kept = {(row.run_id, decode(self.arguments(tables, row.run_id))[0][0], row.id): row for row in tables["step"]}
        settled = {place: (row.result, row.error) for place, row in kept.items() if row.status == "completed"}
        for place, outcome in self.kept.items():
            if place[0] in rows and decode(self.arguments(tables, place[0]))[0][0] == place[1]:
                assert settled.get(place) == outcome, f"what was recorded at {place} has changed"
        self.kept |= settled
        for run in self.runs.values():
            names = {place[2] for place in kept if place[0] == run.id}
            done = {name for name in names if settled.get((run.id, run.number, name)) and name.isdecimal()}
            undone = {name for name in names if kept[run.id, run.number, name].kind == "undo"}
            assert done - undone == run.done, run
            assert (ROLLBACK in names) == run.rolled or run.status == "running" or run.rolling, run
            assert rows[run.id].passes == run.passes
            if run.status not in ENDED:
                assert (rows[run.id].cancelling is not None) == run.cancelling
        assert [(row.run_id, row.action) for row in tables["audit"]] == self.deeds
        open_waits = {(row.run_id, row.step_id) for row in tables["wait"]}
        assert open_waits == {(run.id, name) for run in self.runs.values() for name in run.waits}
        for name in OF_RUNS:
            assert not {row.run_id for row in tables[name]} & self.gone, f"{name} rows of a run that is forgotten"
        for row in rows.values():
            if row.status in ("pending", "suspended") and row.due_at is None:
                run = self.runs[row.id]
                assert run.waits or run.calls, f"nobody will ever look at {run}"

    def teardown(self) -> None:
        """In the end all that is not paused comes to its end, once there is an event for each wait."""
        self.healthy = True
        for _ in range(80 if self.runs else 0):
            for which in range(len(self.runs)):
                self.recover(which)
                for name in ("pause", "resume"):
                    self.operate(which, name, False)
                self.execute(which, None)
                self.emit(which)
                self.holds()
            self.an_hour_passes()
            if all(run.status in ENDED for run in self.runs.values()):
                return
        assert not self.runs, f"this never ends: {self.runs}"


FEW = 3
"""Examples on a database where each takes a hundred times as long: what differs there are the statements."""


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_operations_in_any_order(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "celery_durable")
    store = Watched(database_url)
    store.wind_up()
    examples = 150 if store.dialect.name == "sqlite" else FEW
    enough = settings(
        max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_machine(
        type("OnThisStore", (Operated,), {"store": store}), settings=settings(enough, report_multiple_bugs=False)
    )
    store.engine.dispose()
