"""What a run says of itself: ``step.set_progress`` and ``get_logger``."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from ..core.codec import decode, encode
from ..errors import DamagedRecord
from ..store.records import LogLine
from .current import current_pass, current_step

if TYPE_CHECKING:
    from .passing import Pass

__all__ = ["RunLogger", "get_logger", "report"]


def report(run: Pass, value: Any, total: Any, note: str | None) -> None:
    """Keep how far the run has come. Nothing is recorded as a step: what was said in earlier passes is counted, and not
    said again."""
    run.reports += 1
    said_before = _said_before(run.claim.reported)
    if run.reports <= said_before or run.is_rehearsal:
        return
    run.check_rollback()
    what = "what step.set_progress was given"
    text = run.measured(encode([run.reports, value, total, note], what), what)
    kept = run.reaching(lambda: run.store.report(run.link, run.fence, text, run.lease_until(), run.patience))
    if not kept:
        run.lose()


def _said_before(reported: str | None) -> int:
    """How often something was said. Where that can't be read it is said again, as no replay asks for it."""
    try:
        said = 0 if reported is None else decode(reported)[0]
    except (DamagedRecord, TypeError, LookupError):
        return 0
    return said if isinstance(said, int) else 0


def get_logger(name: str | None = None) -> RunLogger:
    """A logger for the body of a durable task: silent while a pass replays what an earlier one has done and said.

    Its records carry ``run_id``, ``step_id`` and ``task_name``, and its messages begin with them. Elsewhere it is a
    plain logger. With ``durable_store_logs`` what it is told in a run is kept with the run: ``Durable(app).logs(id)``.
    """
    return RunLogger(logging.getLogger(name))


class RunLogger(logging.LoggerAdapter):  # type: ignore[type-arg]
    """A logger that knows in which run it is called, and whether that is news."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, {})

    def isEnabledFor(self, level: int) -> bool:
        """Whether something of this level would be logged here and now."""
        run, step = _here()
        if run is not None and step is None and (run.is_replaying or run.is_rehearsal or run.unwinding is not None):
            return False
        return super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log, say of which run this is, and keep it with the run where that is asked for."""
        if not self.isEnabledFor(level):
            return
        run, step = _here()
        if run is not None:
            step_id = None if step is None else step.step_id
            told = {"run_id": run.run_id, "step_id": step_id, "task_name": run.dispatcher.task_name()}
            kwargs["extra"] = {**(kwargs.get("extra") or {}), **told}
            if run.settings.store_logs:
                _keep(run, step, level, self.logger.name, str(msg), args)
            where = run.run_id if step_id is None else f"{run.run_id} {step_id}"
            msg = f"[{where.replace('%', '%%') if args else where}] {msg}"
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller's line, not this one
        super().log(level, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave the message as :meth:`log` has made it."""
        return msg, kwargs


def _here() -> tuple[Pass | None, Any]:
    return current_pass.get(), current_step.get()


def _keep(run: Pass, step: Any, level: int, logger: str, msg: str, args: tuple[object, ...]) -> None:
    try:
        message = str(logging.LogRecord(logger, level, "", 0, msg, args, None).getMessage())
    except Exception:  # arguments that do not fit: logging itself tells of that
        message = msg
    place, step_id = run.place_of_line(step)
    message = run.settings.redaction.text(message)[: run.settings.max_payload // 8]
    run.said(LogLine(place[:100], step_id, run.now(), level, logger[:255], encode(message)))
