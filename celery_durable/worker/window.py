"""How many of its messages the sweeper lets wait in a queue; the rest of what is due waits in the database.

A hundred thousand runs that are due at once would otherwise be a hundred thousand messages, which fill the broker, keep
everything out that comes after them, and are asked for again and again whether they are lost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..store.records import Fence
from .backlog import Backlog

if TYPE_CHECKING:
    from ..store.link import Link
    from ..store.store import Store

__all__ = ["Window"]

MOST = 5_000
_BELIEVED = 300.0
"""Seconds after which a message that nobody has taken is counted no more: it may be lost."""


@dataclass
class _Out:
    """The messages of one queue that were sent, each with its fence and when that was; and whether it was just asked
    who of them was taken."""

    sent: dict[str, tuple[Fence, float]] = field(default_factory=dict)
    asked: bool = False


class Window:
    """What one sweeper has sent and nobody has taken yet, by queue."""

    def __init__(self, store: Store, most: int = MOST) -> None:
        self._store = store
        self._most = most
        self._queues: dict[str, _Out] = {}

    def open(self) -> None:
        """A tick begins. It asks once for each queue: one that is emptied quickly does not keep it for ever."""
        for out in self._queues.values():
            out.asked = False

    def admits(self, link: Link, queue: str | None, fence: Fence, backlog: Backlog) -> bool:
        """Whether one more message may be sent; it counts then. One that goes to no queue that is known, always."""
        if queue is None:
            return True
        out = self._queues.setdefault(queue, _Out())
        if len(out.sent) >= self._most and not out.asked:
            out.asked = True
            out.sent = self._still_out(link, out.sent) if backlog.depth(queue, anew=True) else {}
        if len(out.sent) >= self._most and fence.run_id not in out.sent:
            return False
        out.sent[fence.run_id] = fence, time.monotonic()
        return True

    def _still_out(self, link: Link, sent: dict[str, tuple[Fence, float]]) -> dict[str, tuple[Fence, float]]:
        untaken = self._store.untaken(link, [fence for fence, _ in sent.values()])
        since = time.monotonic() - _BELIEVED
        return {run: (fence, at) for run, (fence, at) in sent.items() if run in untaken and at > since}
