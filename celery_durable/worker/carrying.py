"""What a run's messages carry from the place where it was started: the trace that it belongs to.

A later message of a run is published by whoever wakes it, a sweeper on another machine perhaps, and what traces
messages would take it for the beginning of something new. So the context of the start is kept with the run, and
attached around each publishing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from ..core.codec import read_json

__all__ = ["Carrier", "attached", "can_attach", "collected", "register", "unregister"]

logger = logging.getLogger("celery_durable")


class Carrier(Protocol):
    """Something that has a context to be carried."""

    def collect(self) -> dict[str, str]:
        """What there is to keep of the context of this thread, now that a run is started in it."""

    def attach(self, carried: dict[str, str]) -> AbstractContextManager[None]:
        """Put what was kept in the place of this thread's own context."""


_carriers: dict[str, Carrier] = {}


def register(name: str, carrier: Carrier) -> None:
    """Have this carried by the messages of all runs that are started from now on, under a name of its own."""
    _carriers[name] = carrier


def unregister(name: str) -> None:
    _carriers.pop(name, None)


def collected() -> dict[str, dict[str, str]]:
    """What is to be kept with a run, by the carriers' names. A carrier that fails must not keep it from starting."""
    found = {}
    for name, carrier in list(_carriers.items()):
        try:
            found[name] = carrier.collect()
        except Exception:
            logger.exception("what %s carries could not be kept", name)
    return {name: carried for name, carried in found.items() if carried}


def _carried_by(kept: str) -> dict[str, Any]:
    carried = read_json(kept, dict).get("carried")
    return carried if isinstance(carried, dict) else {}


def can_attach(kept: str) -> bool:
    """Whether this process knows all that carries something for the run that this was kept with."""
    return _carriers.keys() >= _carried_by(kept).keys()


@contextmanager
def attached(kept: str) -> Iterator[None]:
    """In the context that a run was started in, as it was kept with its message."""
    with ExitStack() as stack:
        for name, carried in _carried_by(kept).items() if _carriers else ():
            carrier = _carriers.get(name)
            if carrier is not None:
                try:
                    stack.enter_context(carrier.attach(carried))
                except Exception:
                    logger.exception("what %s carries could not be attached", name)
        yield
