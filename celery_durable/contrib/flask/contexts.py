"""The app context of Flask in durable tasks, so that ``current_app`` and ``db.session`` work there as in a view.

A pass of a run has one, and within it each step's function one of its own: what Flask-SQLAlchemy calls the session is
one per app context, and branches of a block run on threads, between which a session must not be shared. When the
function returns its context ends, and what it has not committed is rolled back.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Any

from celery import Celery
from celery.signals import task_postrun, task_prerun
from flask import Flask
from flask.ctx import AppContext

from ...signals import step_returned, step_started
from ...worker.task import DurableTask

__all__ = ["give_contexts"]

_flask_apps: weakref.WeakKeyDictionary[Celery, Flask] = weakref.WeakKeyDictionary()
_pushed: ContextVar[tuple[AppContext, ...]] = ContextVar("celery_durable_flask", default=())


def give_contexts(celery_app: Celery, flask_app: Flask) -> None:
    """Let the durable tasks of a Celery app be executed in the context of this Flask app.

    Of several Flask apps that share a Celery app it is the last one: a worker makes one.
    """
    _flask_apps[celery_app] = flask_app
    for signal, receiver in ((task_prerun, _push), (step_started, _push), (step_returned, _pop), (task_postrun, _pop)):
        signal.connect(receiver, weak=False, dispatch_uid=f"celery_durable.flask.{signal.name}")


def _push(sender: Any = None, **_: Any) -> None:
    flask_app = _flask_apps.get(sender.app) if isinstance(sender, DurableTask) else None
    if flask_app is not None:
        context = flask_app.app_context()
        context.push()
        _pushed.set((*_pushed.get(), context))


def _pop(sender: Any = None, **_: Any) -> None:
    pushed = _pushed.get()
    if pushed and isinstance(sender, DurableTask):
        _pushed.set(pushed[:-1])
        pushed[-1].pop()
