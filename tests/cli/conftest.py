"""The command line in this process: on runs of the testing kit, which need no worker and no waiting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_durable import Event, Retry, on_event, step
from celery_durable.cli import durable
from celery_durable.cli.tables import Screen
from celery_durable.testing import DurableEnv
from celery_durable.worker.task import DurableTask

Cli = Callable[..., Result]


class Bank:
    """Whether the card works."""

    works = False

    def charge(self, amount: int) -> str:
        if not self.works:
            raise ConnectionError("no answer from the bank")
        return f"charged {amount}"


@pytest.fixture
def bank() -> Bank:
    return Bank()


def make_tasks(app: Celery, bank: Bank) -> None:
    """The tasks that these tests operate."""

    @app.task(shared=False, base=DurableTask, name="shop.order")
    def order(amount: int, note: str | None = None) -> str:
        step.run("reserve", "reserved {}".format, amount)
        step.set_progress(1, 2, "reserved")
        return step.options(retry=Retry(max_attempts=1)).run("charge", bank.charge, amount)

    @app.task(shared=False, base=DurableTask, name="shop.approval")
    def approval(key: str) -> Any:
        step.run("ask", "asked {}".format, key)
        event = step.wait_for_event("answer", "order.approved", key=key, timeout="2h", on_timeout="fail")
        return None if event is None else event.payload

    @app.task(shared=False, base=DurableTask, name="shop.onboard", triggers=[on_event("customer.created")])
    def onboard(event: Event) -> Any:
        return step.call("approve", approval.s(event.payload["id"]))


@pytest.fixture
def app(sqlite_url: str, bank: Bank) -> Iterator[Celery]:
    made = Celery("shop", broker="memory://", set_as_current=False)
    made.conf.update(durable_database_url=sqlite_url, durable_store_logs=True)
    make_tasks(made, bank)
    yield made
    made.close()


@pytest.fixture
def env(app: Celery) -> Iterator[DurableEnv]:
    with DurableEnv(app) as opened:
        yield opened


def command_line(app: Celery, *, exit_code: int = 0, given: str | None = None, args: tuple[str, ...]) -> Result:
    """What a command says, which has to exit with this code."""
    context = CLIContext(app=app, no_color=False, workdir=None)
    result = CliRunner().invoke(durable, list(args), obj=context, input=given)
    assert result.exit_code == exit_code, (result.output, result.exception)
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def cli(app: Celery) -> Cli:
    """A command of the app's, by its words."""

    def run(*args: str, exit_code: int = 0, given: str | None = None) -> Result:
        return command_line(app, exit_code=exit_code, given=given, args=args)

    return run


@pytest.fixture
def cli_json(cli: Cli) -> Callable[..., Any]:
    """What a command says to programs."""

    def run(*args: str, exit_code: int = 0, given: str | None = None) -> Any:
        return json.loads(cli(*args, "--json", exit_code=exit_code, given=given).stdout)

    return run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the commands take what they print to for a terminal that is so wide, without colours."""

    def be(width: int) -> None:
        monkeypatch.setattr(Screen, "of", classmethod(lambda cls, stream, color=True: cls(width, False)))

    return be
