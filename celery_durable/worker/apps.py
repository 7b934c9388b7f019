"""Which Celery app is meant where none is named."""

from __future__ import annotations

from typing import Any

from celery import Celery, _state

from ..errors import ConfigurationError
from .install import is_installed

__all__ = ["the_app"]


def the_app() -> Celery:
    """The current app; in a thread that has none, the one app that there is.

    Celery makes an app the current one of the thread that made it only: in a web server's other threads
    ``current_app`` is an empty app without any configuration.
    """
    current: Any = getattr(_state._tls, "current_app", None)
    if current is not None:
        return current
    made = [app for app in _state._get_active_apps() if not _is_fallback(app)]
    durable = [app for app in made if is_installed(app)] or made
    if len(durable) == 1:
        return durable[0]
    if _state.default_app is not None and _state.default_app in durable:
        return _state.default_app  # app.set_default() has been called
    if not durable:
        raise ConfigurationError(
            "there is no Celery app in this process: import the module that makes it first (in Django, from the "
            "project's __init__.py)"
        )
    names = ", ".join(repr(app.main) for app in durable)
    raise ConfigurationError(
        f"there are several Celery apps in this process ({names}) and this thread has no current one: call "
        "app.set_default() for one of them, or use Durable(app).emit(...)"
    )


def _is_fallback(app: Celery) -> bool:
    """Whether Celery made this app itself, because it found none."""
    return app.main == "default" and not is_installed(app) and not app.configured
