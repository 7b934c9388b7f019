"""What a worker starts for durable runs."""

from __future__ import annotations

import logging
import time
from importlib import import_module
from typing import Any

from celery import bootsteps
from sqlalchemy.exc import DBAPIError

from ..core.duration import SECOND
from ..errors import ConfigurationError
from .message import PASS_HEADER
from .request import acknowledge_finished, hear_silence
from .revoking import hear_revokes
from .runtime import Runtime, runtime_of, stop_handing_out
from .sweeper import Sweeper

__all__ = ["LastAcknowledgementsStep", "SweeperStep", "UnknownTaskStep"]

logger = logging.getLogger("celery_durable")

_PATIENCE_AT_START = 30.0
_NEEDED_BY_PASSES = (
    "celery_durable.engine.tasks",
    "celery_durable.engine.settings",
    "celery_durable.model",
    "celery_durable.store.store",
    "celery_durable.worker.running",
)
"""What is imported at its first use elsewhere. A worker has it before its pool forks, so that the children share it."""
_ELSEWHERE = 10 * SECOND
"""How long a run waits whose message came to a worker that does not know its task."""


class SweeperStep(bootsteps.StartStopStep):
    """Checks the schema when the worker starts, then sweeps."""

    name = "celery_durable.sweeper"
    label = "durable runs"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        stop_handing_out(False)
        for name in _NEEDED_BY_PASSES:
            import_module(name)
        try:
            _wait_for_schema(runtime_of(worker.app))
        except ConfigurationError as error:
            # Before the pool forks and a message is taken: a worker that can't do its work does not start.
            raise SystemExit(f"\ncelery_durable: this worker does not start: {error}\n") from error
        _tell_of_short_chords(worker.app)
        self._sweeper = Sweeper(worker.app)

    def start(self, worker: Any) -> None:
        hear_silence(worker.app)
        hear_revokes()
        runtime = runtime_of(worker.app)
        with runtime.store.link() as link:
            resumed = runtime.store.reconsider(link, list(worker.app.tasks))
        if resumed:
            logger.info("%d runs that were paused because the code did not fit them are tried again", resumed)
        self._sweeper.start()

    def stop(self, worker: Any) -> None:
        self._sweeper.stop()

    def terminate(self, worker: Any) -> None:
        self._sweeper.stop()


def _wait_for_schema(runtime: Runtime) -> None:
    limit = time.monotonic() + _PATIENCE_AT_START
    while True:
        try:
            runtime.store.check_schema()
            return
        except DBAPIError as error:
            where = runtime.store.engine.url.render_as_string(hide_password=True)
            if time.monotonic() > limit:
                raise ConfigurationError(
                    f"the durable database {where} can't be reached ({error.orig}): start it, or correct "
                    "durable_database_url"
                ) from error
            logger.error("the durable database %s can't be reached, trying again: %s", where, error.orig)
            time.sleep(2)


def _tell_of_short_chords(app: Any) -> None:
    """A chord's counter in Redis is dropped after a while, and its parked members then never end it."""
    backend = str(app.conf.result_backend or "")
    if backend.startswith(("redis", "rediss", "sentinel")) and app.conf.get("result_chord_expires", None) is None:
        logger.info(
            "chords in Redis live for result_expires (%s): set result_chord_expires (Celery 5.7) if durable tasks in "
            "chords are parked for longer",
            app.conf.result_expires,
        )


class UnknownTaskStep(bootsteps.StartStopStep):
    """Keeps a run whose task this worker does not know from being failed.

    Celery ends such a message with the result NotRegistered. A durable run is sent again later, when
    another worker may get it, and is parked for a person when none ever does.
    """

    name = "celery_durable.unknown"
    label = "durable runs of unknown tasks"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        plain = type(consumer).on_unknown_task.__get__(consumer)

        def on_unknown_task(body: Any, message: Any, exc: BaseException) -> None:
            headers = message.headers or {}
            if PASS_HEADER not in headers:
                plain(body, message, exc)
                return
            message.reject_log_error(logger, consumer.connection_errors)
            _set_aside(runtime_of(consumer.app), headers["id"], headers["task"], consumer.hostname)

        consumer.on_unknown_task = on_unknown_task


class LastAcknowledgementsStep(bootsteps.StartStopStep):
    """Acknowledges what was put off (see ``request.py``) before the connection is closed: it would come again, to be
    dropped."""

    name = "celery_durable.last_acknowledgements"
    label = "messages of durable runs"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def stop(self, consumer: Any) -> None:
        acknowledge_finished()


def _set_aside(runtime: Runtime, run_id: str, task: str, hostname: str) -> None:
    because = f"code: the task {task!r} is not registered in worker {hostname}"
    logger.error("run %s: %s; it is tried again with another worker", run_id, because)
    try:
        with runtime.store.link() as link:
            row = runtime.store.get(link, run_id)
            tried = row[0]["recoveries"] if row is not None else 0
            enough = tried + 1 >= runtime.settings.max_recoveries
            runtime.store.unregistered(
                link, run_id, delay=_ELSEWHERE, pause_because=because if enough else None, waiting_on=because
            )
    except Exception:
        logger.exception("run %s: could not be set aside; the sweeper sends it again", run_id)
