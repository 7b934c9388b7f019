"""Which app a test is about, where it does not say."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError
from ..worker.apps import the_app
from ..worker.install import is_installed
from ..worker.runtime import plain_app

__all__ = ["check_durable", "usual_app"]


def check_durable(task: Any, given: Any, where: str) -> None:
    """Refuse what is no durable task; ``given`` is what the user handed over."""
    if not hasattr(task, "signature_of_run"):
        raise TypeError(f"{where} was given {given!r}: a durable task is expected, with base=DurableTask")


def usual_app() -> Any:
    """The app that ``emit`` would take, if it has durable tasks: a view that is tested must not reach its broker before
    the test has started a run."""
    try:
        app = the_app()
    except ConfigurationError:  # none, or several
        return None
    app = plain_app(app)
    app.finalize()  # tasks are bound by this, and the first durable one installs what is looked for here
    return app if is_installed(app) else None
