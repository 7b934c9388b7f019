"""Apps that know no task that the module of another test shares with all apps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery, _state

__all__ = ["alone", "nothing_shared"]


@contextmanager
def nothing_shared() -> Iterator[None]:
    """What is finalized meanwhile has Celery's own tasks alone, and those that are declared for it."""
    shared = _state._on_app_finalizers
    _state._on_app_finalizers = {maker for maker in shared if maker.__module__ == "celery.app.builtins"}
    try:
        yield
    finally:
        _state._on_app_finalizers = shared


def alone(name: str) -> Celery:
    """Such an app, whose broker is in this process."""
    with nothing_shared():
        app = Celery(name, broker="memory://", set_as_current=False)
        app.finalize()
    return app
