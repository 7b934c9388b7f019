"""``Concurrency``: how many runs of a task, or of one key of it, are executed at once."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Concurrency"]

_LONGEST = 255


@dataclass(frozen=True)
class Concurrency:
    """At most ``limit`` runs of a task are executed at once, over all workers.

    ``key`` parts them: the name of one of the task's parameters, or a function of its arguments; then the limit is for
    those with an equal key. A run that waits for something is not executed, and counts for nothing.
    """

    limit: int
    key: str | Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise ValueError(f"Concurrency: limit={self.limit!r}: a whole number from 1 on is expected")
        if self.key is not None and not callable(self.key) and not (isinstance(self.key, str) and self.key):
            raise TypeError(f"Concurrency: key={self.key!r}: a parameter's name or a function is expected")

    def check(self, fn: Callable[..., Any]) -> None:
        """Refuse a key that is no parameter of the task's function."""
        if isinstance(self.key, str) and self.key not in (there := inspect.signature(fn).parameters):
            raise ValueError(f"key={self.key!r} is none of the task's parameters, which are: {', '.join(there)}")

    def resource(self, task: str, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """What a run with these arguments needs a share of."""
        if self.key is None:
            return _bounded(task)
        if callable(self.key):
            return _bounded(f"{task}:{self.key(*args, **kwargs)}")
        bound = inspect.signature(fn).bind(*args, **kwargs)
        bound.apply_defaults()
        return _bounded(f"{task}:{bound.arguments[self.key]}")


def _bounded(resource: str) -> str:
    if len(resource) <= _LONGEST and resource.isprintable():
        return resource
    digest = hashlib.blake2b(resource.encode(), digest_size=16).hexdigest()
    return f"{resource[:100].encode('ascii', 'replace').decode()}:{digest}"
