"""What an app has in a test in the place of its own runtime."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Any

from ..core.duration import SECOND
from ..engine.settings import Settings
from ..worker.django_transactions import follow_django
from ..worker.runtime import EtaBudget, Runtime, settings_of
from .memory import MemoryStore
from .passes import EnvKeeper, EnvPass, Hooks

__all__ = ["new_runtime"]

_FOR_EVER = 100 * 366 * 24 * 3600 * SECOND
_OWN = {"durable_database_url": "sqlite://", "durable_codec": None}
"""Settings that are the environment's, whatever the app's are."""


class EnvRuntime(Runtime):
    """It has the environment's clock, and no thread of its own."""

    ahead = 0  # time stands still there: all comes when it is due

    def __init__(self, settings: Settings, store: MemoryStore, hooks: Hooks) -> None:
        super().__init__(settings, store, partial(EnvPass, hooks))
        self.keeper = EnvKeeper(store, settings.lease)
        self.etas = EtaBudget(limit=sys.maxsize)
        self._clock = store.clock

    def now(self) -> int:
        return self._clock.now


def new_runtime(app: Any, store: MemoryStore, hooks: Hooks, **settings_too: Any) -> Runtime:
    """The app's settings, with this store. What happens in its passes the hooks are told."""
    own = _OWN | settings_too
    settings = settings_of(lambda name, default: own.get(name, app.conf.get(name, default)))
    follow_django(store, settings_of(app.conf.get).database_url)
    # The wire holds messages for any time: no wake-up has to be left to a sweep.
    return EnvRuntime(replace(settings, eta_horizon=_FOR_EVER), store, hooks)
