"""Executing runs without Celery: passes, one after the other, and a dispatcher that notes what it is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery_durable.core.boundary import Boundary
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.core.ids import fingerprint
from celery_durable.core.retry import Retry
from celery_durable.engine.calls import Target
from celery_durable.engine.executor import Ended, Finished, Parked, execute
from celery_durable.engine.passing import Pass
from celery_durable.engine.settings import Settings
from celery_durable.engine.tasks import drive
from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Claim, NewRun
from celery_durable.store.store import Store

__all__ = ["Driver", "Noted"]

LEASE = 30 * SECOND


@dataclass
class Noted:
    """The dispatcher: what it was told."""

    ahead: bool = False
    announced: list[str] = field(default_factory=list)
    woken: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    followed: Aftermath = field(default_factory=Aftermath)
    is_stopping: bool = False

    def may_send_ahead(self, delay: int) -> bool:
        return self.ahead

    def wake(self, delay: int) -> None:
        self.woken.append(delay)

    def target(self, signature: Any, queue: str | None) -> Target:
        """A signature here is the name of a body, or a name and its arguments."""
        name, *args = (signature,) if isinstance(signature, str) else signature
        arguments = encode([args, {}])

        def new_run(run_id: str) -> NewRun:
            kind = "task" if name.startswith("plain") else None
            return NewRun(run_id, name, arguments, fingerprint(arguments), "{}", kind=kind)

        return Target(name, arguments, Boundary(), new_run)

    def task_name(self) -> str:
        return "t"

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return encode([list(args), kwargs])

    def tell(self, what: str, **facts: Any) -> None:
        self.told.append(what)

    def follow(self, aftermath: Aftermath) -> None:
        self.followed += aftermath

    def emitted(self, event_id: str, name: str, key: str | None) -> None:
        self.events.append(event_id)

    def announce(self, waiting_on: str, wake_at: int | None) -> None:
        self.announced.append(waiting_on)

    def stopping(self) -> bool:
        return self.is_stopping


class Driver:
    """Executes the passes of runs of one body."""

    def __init__(
        self,
        store: Store,
        body: Callable[..., Any],
        *,
        settings: Settings | None = None,
        step_retry: Retry | None = None,
        result: Any = Any,
    ) -> None:
        self.store = store
        self.body = body
        self.settings = settings or Settings(lease=LEASE)
        self.step_retry = step_retry or Retry(delay="1h", jitter=False)
        self.result = Boundary(result)
        self.dispatcher = Noted()
        self.worker = "driver/1"

    def start(self, run_id: str = "r1") -> None:
        arguments = encode([[], {}])
        with self.store.link() as link:
            self.store.start(link, NewRun(run_id, "t", arguments, fingerprint(arguments), "{}"))

    def one_pass(self, run_id: str = "r1", *args: Any) -> Ended:
        with self.store.link() as link:
            claim = self.store.claim(link, run_id, worker=self.worker, lease=self.settings.lease)
            assert isinstance(claim, Claim), claim
            return self.execute(link, claim, *args)

    def execute(self, link: Link, claim: Claim, *args: Any) -> Ended:
        run = self.pass_of(link, claim)

        def body() -> Any:
            value = self.body(*args)
            return drive(run, value) if inspect.iscoroutine(value) else value

        return execute(run, body, self.result)

    def pass_of(self, link: Link, claim: Claim) -> Pass:
        return Pass(
            claim,
            store=self.store,
            link=link,
            settings=self.settings,
            dispatcher=self.dispatcher,
            step_retry=self.step_retry,
        )

    def let_time_pass(self, run_id: str = "r1") -> None:
        with self.store.link() as link:
            self.store.skip_wait(link, run_id)

    def finish(self, run_id: str = "r1", *args: Any, most: int = 50) -> Ended:
        """Passes until the run ends or is paused, whatever it sleeps for."""
        for _ in range(most):
            ended = self.one_pass(run_id, *args)
            if not (isinstance(ended, Parked) and ended.status == "suspended"):
                return ended
            self.let_time_pass(run_id)
        raise AssertionError(f"the run {run_id} did not end in {most} passes")

    def value(self, run_id: str = "r1", *args: Any) -> Any:
        """The run's result, once it has one."""
        ended = self.finish(run_id, *args)
        assert isinstance(ended, Finished), ended
        return ended.value

    def run(self, run_id: str = "r1") -> dict[str, Any]:
        return self._get(run_id)[0]

    def steps(self, run_id: str = "r1") -> dict[str, dict[str, Any]]:
        return self._get(run_id)[1]

    def _get(self, run_id: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        with self.store.link() as link:
            found = self.store.get(link, run_id)
        assert found is not None
        return dict(found[0]), {row["id"]: dict(row) for row in found[1]}
