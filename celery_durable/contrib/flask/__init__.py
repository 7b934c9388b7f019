"""Flask: events and starts that commit with the rows of Flask-SQLAlchemy, the app context in durable tasks,
``flask durable``, the door for outside systems, and the web console.

durable = CeleryDurable(celery_app, flask_app, db)
durable.mount(flask_app, events="/durable", console="/console", guard=login_required, who=user_name)
"""

from __future__ import annotations

try:
    import flask as _flask  # noqa: F401 - to be missed here, in words of our own
except ImportError as error:
    raise ImportError('celery_durable.contrib.flask needs Flask: pip install "celery-durable[flask]"') from error

from .blueprints import console_blueprint, events_blueprint
from .extension import CeleryDurable

__all__ = ["CeleryDurable", "console_blueprint", "events_blueprint"]
