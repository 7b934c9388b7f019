"""What waits in the broker's queues: it tells a message that waits for its turn from one that is lost."""

from __future__ import annotations

from celery import Celery

from ..engine.passing import GRACE

__all__ = ["Backlog"]

_LOOKS = 20
_AT_ONCE = 1_000
"""Messages of a queue that are believed to be taken within the usual grace."""
_LONGEST_PATIENCE = 32


class Backlog:
    """How many messages the queues have. Asked of the broker once for each queue, unless it is to be anew."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._depths: dict[str, int] = {}

    def explains(self, queue: str | None, sends: int) -> bool:
        """Whether a message that was sent is probably waiting in its queue, not lost."""
        return queue is not None and 0 < sends < _LOOKS and self.depth(queue) > 0

    def patience(self, queue: str) -> int:
        """Microseconds until a message that waits in this queue is asked for again: the longer, the more are before it.
        So it does not cost more where many wait."""
        return GRACE * min(max(1, self.depth(queue) // _AT_ONCE), _LONGEST_PATIENCE)

    def depth(self, queue: str, *, anew: bool = False) -> int:
        """How many messages wait in this queue; none where nobody can tell."""
        if anew or queue not in self._depths:
            try:
                with self._app.connection_for_read() as connection:
                    declared = connection.default_channel.queue_declare(queue, passive=True)
                self._depths[queue] = declared.message_count
            except Exception:  # no such queue, or a transport that can't tell
                self._depths[queue] = 0
        return self._depths[queue]
