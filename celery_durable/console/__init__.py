"""The web console: every run, event, task and worker of a Celery app, to be looked at and operated.

``Console(app)`` is a WSGI application and ``Console(app).asgi`` an ASGI one. It is closed until the Celery
configuration says who may come in (``durable_console_tokens``, ``durable_console_users``), or until it is given a
function that does. It reads and operates runs by :class:`celery_durable.Durable` alone.
"""

from __future__ import annotations

try:
    import jinja2
    import jsonschema
    import werkzeug
except ImportError as error:
    raise ImportError(
        f'the console needs {error.name}: install it with  pip install "celery-durable[console]"'
    ) from error

from .site import Console

__all__ = ["Console"]

del jinja2, jsonschema, werkzeug
