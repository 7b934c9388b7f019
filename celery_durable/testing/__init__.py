"""Testing durable tasks: no broker, no worker, no sleeping."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .env import DurableEnv
    from .histories import HistoryError, check_history
    from .mocks import Mock, MockCall, UnusedMock
    from .replaying import ReplayError
    from .runs import EnvRun

__all__ = [
    "DurableEnv",
    "EnvRun",
    "HistoryError",
    "Mock",
    "MockCall",
    "ReplayError",
    "UnusedMock",
    "check_history",
]

_HOME_OF = {
    "DurableEnv": "env",
    "EnvRun": "runs",
    "HistoryError": "histories",
    "Mock": "mocks",
    "MockCall": "mocks",
    "ReplayError": "replaying",
    "UnusedMock": "mocks",
    "check_history": "histories",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: pytest imports this package for its plugin, in every test run."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value
