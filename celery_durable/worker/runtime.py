"""What one Celery app has of celery_durable in this process."""

from __future__ import annotations

import heapq
import logging
import mmap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from ..core.duration import SECOND, moment
from ..engine.keeper import Keeper
from ..engine.passing import Pass

if TYPE_CHECKING:
    from ..engine.settings import Settings
    from ..store.store import Store

__all__ = [
    "EtaBudget",
    "Runtime",
    "flush_all",
    "plain_app",
    "runtime_of",
    "settings_of",
    "standing_in",
    "stop_handing_out",
]

logger = logging.getLogger("celery_durable")

_runtimes: weakref.WeakKeyDictionary[Celery, Runtime] = weakref.WeakKeyDictionary()
_making = threading.Lock()

# One byte that a worker's main process shares with the children it forks: set while it shuts down.
_stopping = mmap.mmap(-1, 1)


class Runtime:
    """The settings, the store and the keeper of one app. Made at the first use, as late as possible:
    an app may be configured long after its tasks are declared."""

    ahead = 5_000
    """Microseconds by which a run's message is to come before the run's time: Celery's timer and taking the run need a
    while, and who has taken it waits for what is left."""

    def __init__(self, settings: Settings, store: Store, new_pass: Callable[..., Pass] = Pass) -> None:
        self.new_pass = new_pass
        self.settings = settings
        self.store = store
        self.keeper = Keeper(store, settings.lease)
        self.etas = EtaBudget()

    @classmethod
    def of(cls, app: Celery) -> Runtime:
        """What an app's configuration says.

        The store is imported here, at the first use, which a process that only declares tasks never makes. A worker
        makes it before its pool forks.
        """
        from ..store.store import Store
        from .django_databases import in_djangos_tests
        from .django_transactions import follow_django

        settings = settings_of(app.conf.get)
        store = Store(
            settings.database_url,
            prefix=settings.table_prefix,
            auto_migrate=settings.auto_migrate,
            sealer=settings.sealer,
            retention=settings.retention,
            answer_within=settings.database_timeout / SECOND,
            pooled=not in_djangos_tests(),
        )
        follow_django(store, settings.database_url)
        return cls(settings, store)

    def now(self) -> int:
        """What time it is here, to compare with what a caller says: it decides nothing that is recorded."""
        return moment(datetime.now(timezone.utc))

    @property
    def stopping(self) -> bool:
        """Whether this worker is shutting down."""
        return _stopping[0] == 1


class EtaBudget:
    """Bounds how many messages with an ETA this process has out at once.

    A worker takes every ETA message from the broker at once and holds it: a few make wake-ups precise,
    many would fill its memory and hold up other tasks. What is over the limit the sweeper sends when due.
    """

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._out: list[float] = []
        self._lock = threading.Lock()

    def take(self, delay: int) -> bool:
        """Whether one more message may be sent that is due after ``delay`` microseconds."""
        if delay <= 0:
            return True
        now = time.monotonic()
        with self._lock:
            while self._out and self._out[0] <= now:
                heapq.heappop(self._out)
            if len(self._out) >= self._limit:
                return False
            heapq.heappush(self._out, now + delay / SECOND)
            return True


def plain_app(app: Any) -> Any:
    """The app that a proxy such as ``current_app`` stands for."""
    return app._get_current_object() if hasattr(app, "_get_current_object") else app


def runtime_of(app: Any) -> Runtime:
    """The runtime of an app, made once."""
    app = plain_app(app)
    runtime = _runtimes.get(app)
    if runtime is None:
        with _making:
            runtime = _runtimes.get(app)
            if runtime is None:
                runtime = _runtimes[app] = Runtime.of(app)
    return runtime


def settings_of(get: Callable[[str, Any], Any]) -> Settings:
    """The settings that a configuration holds."""
    from ..engine.settings import read_settings
    from .django_databases import with_django

    return read_settings(with_django(get), never_retry=(SoftTimeLimitExceeded,))


@contextmanager
def standing_in(app: Celery, runtime: Runtime) -> Iterator[None]:
    """Let an app have this runtime, for a test."""
    usual = _runtimes.get(app)
    _runtimes[app] = runtime
    try:
        yield
    finally:
        if usual is None:
            del _runtimes[app]
        else:
            _runtimes[app] = usual


def stop_handing_out(stopping: bool = True) -> None:
    """Tell the passes of this worker, in whatever process, to hand their runs over at the next step."""
    _stopping[0] = int(stopping)


def flush_all() -> None:
    """Write what the keepers of this process still have."""
    for runtime in list(_runtimes.values()):
        runtime.keeper.flush()
