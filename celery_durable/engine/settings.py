"""The settings, read from the Celery configuration and checked at once."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..core.duration import SECOND, micros
from ..core.redaction import DEFAULT, Redaction
from ..core.retry import Retry
from ..errors import ConfigurationError
from ..store.base import RETENTION
from ..store.sealing import Sealer

__all__ = ["Settings", "read_settings"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(b|kb|mb|gb)?", re.IGNORECASE)
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Settings:
    """All settings of one app. Durations are in microseconds, sizes in bytes."""

    database_url: str = "sqlite:///celery-durable.db"
    table_prefix: str = "durable_"
    auto_migrate: bool = True
    database_timeout: int = 15 * SECOND
    lease: int = 30 * SECOND
    sweep_interval: int = SECOND
    eta_horizon: int = 10 * SECOND
    step_retry: Retry = field(default_factory=Retry)
    max_payload: int = 10**6
    max_steps: int = 10_000
    sealer: Sealer | None = None
    strict_inputs: bool = False
    suspended_state: str = "STARTED"
    max_recoveries: int = 10
    queue: str | None = None
    """Where the package's own tasks go; the app's default queue if nothing is said."""
    retention: int = RETENTION
    event_retention: int = 7 * 86_400 * SECOND
    store_logs: bool = False
    redaction: Redaction = DEFAULT
    """What takes secrets out of stored errors and shown inputs."""
    never_retry: tuple[type[BaseException], ...] = ()
    """Errors that are the worker's and not the step's: its soft time limit."""


def read_settings(get: Callable[[str, Any], Any], never_retry: tuple[type[BaseException], ...] = ()) -> Settings:
    """The settings of an app; ``get(name, default)`` reads one of its configuration."""
    reader = _Reader(get)
    url = reader.take("database_url", Settings.database_url, _text)
    return Settings(
        database_url=url,
        table_prefix=reader.take("table_prefix", Settings.table_prefix, _prefix),
        auto_migrate=reader.take("auto_migrate", url.startswith("sqlite"), _flag),
        database_timeout=reader.take("database_timeout", "15s", _positive),
        lease=reader.take("lease", "30s", _positive),
        sweep_interval=reader.take("sweep_interval", "1s", _positive),
        eta_horizon=min(reader.take("eta_horizon", "10s", micros), _half_visibility(get)),
        step_retry=reader.take("step_retry", Retry(), _retry),
        max_payload=reader.take("max_payload", "1MB", _size),
        max_steps=reader.take("max_steps", 10_000, _count),
        sealer=reader.take("codec", None, _sealer),
        strict_inputs=reader.take("strict_inputs", False, _flag),
        suspended_state=reader.take("suspended_state", "STARTED", _text),
        max_recoveries=reader.take("max_recoveries", 10, _count),
        queue=reader.take("queue", None, _text),
        retention=reader.take("retention", "30d", _positive),
        event_retention=reader.take("event_retention", "7d", _positive),
        store_logs=reader.take("store_logs", False, _flag),
        redaction=reader.take("redact", True, Redaction.of) or DEFAULT,
        never_retry=never_retry,
    )


def _half_visibility(get: Callable[[str, Any], Any]) -> int:
    """Half of the time after which a broker gives a message that a worker holds to another one."""
    options = get("broker_transport_options", None) or {}
    return micros(options.get("visibility_timeout") or "1h") // 2


class _Reader:
    def __init__(self, get: Callable[[str, Any], Any]) -> None:
        self._get = get

    def take(self, name: str, default: Any, convert: Callable[[Any], Any]) -> Any:
        given = self._get(f"durable_{name}", default)
        if given is None:
            return None
        try:
            return convert(given)
        except ConfigurationError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the setting durable_{name} is {given!r}: {error}") from error


def _text(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise TypeError("a string is expected")
    return given


def _prefix(given: Any) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,30}", _text(given)):
        raise ValueError("letters, digits and underscores are expected, 31 at most")
    return str(given)


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise TypeError("True or False is expected")
    return given


def _positive(given: Any) -> int:
    value = micros(given)
    if value < 100_000:
        raise ValueError("at least a tenth of a second is expected")
    return value


def _count(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError("a whole number from 1 on is expected")
    return given


def _size(given: Any) -> int:
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    match = _SIZE.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ValueError('a size is expected, such as "1MB" or a number of bytes')
    return round(float(match[1]) * _SIZES[(match[2] or "b").lower()])


def _retry(given: Any) -> Retry:
    if not isinstance(given, Retry):
        raise TypeError("a Retry(...) is expected")
    return given


def _sealer(given: Any) -> Sealer:
    """A codec: an object with ``encode`` and ``decode``, or the dotted name of a class of such."""
    if isinstance(given, str):
        module, _, name = given.rpartition(".")
        try:
            given = getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(
                f"the setting durable_codec names {given!r}, which can't be loaded: {error}"
            ) from error
    if not callable(getattr(given, "encode", None)) or not callable(getattr(given, "decode", None)):
        raise TypeError("an object with encode(bytes) and decode(bytes) is expected, or the name of its class")
    return given  # type: ignore[no-any-return]
