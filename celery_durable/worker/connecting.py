"""``connect``: a signal of Django, blinker or Celery that becomes an event each time it is sent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..core.match import check_event_name
from ..errors import ConfigurationError
from .dispatch import DISPATCH
from .emitting import emit
from .joining_django import emit_on_commit

__all__ = ["connect"]


def connect(
    signal: Any,
    event: str,
    *,
    key: str | Callable[..., str | None] | None = None,
    payload: Any = None,
    event_id: Callable[..., str | None] | None = None,
    when: Callable[..., bool] | None = None,
    sender: Any = None,
) -> Callable[..., None]:
    """Emit an event each time a signal is sent. Returns the receiver, to be disconnected.

    ``key``, ``payload``, ``event_id`` and ``when`` are called as the signal's receivers are, with the sender
    and the signal's keywords; a key or payload that is no function is taken as it is. ``sender`` restricts
    the signal to one sender, ``when`` to some calls.

    An event of a Django signal belongs to the transaction that the signal is sent in: a model that is not
    saved in the end has emitted nothing.
    """
    check_event_name(event)
    if not callable(getattr(signal, "connect", None)):
        raise ConfigurationError(
            f"connect({signal!r}, {event!r}): a signal of Django, blinker or Celery is expected, with a method connect"
        )
    is_django = _is_django(signal)

    def receive(sender: Any = None, **given: Any) -> None:
        given.pop("signal", None)
        if getattr(sender, "name", None) == DISPATCH:
            return  # the task that dispatches this event would emit the next one
        if when is not None and not when(sender, **given):
            return
        name = key(sender, **given) if callable(key) else key
        content = payload(sender, **given) if callable(payload) else payload
        values: dict[str, Any] = {"key": name, "event_id": event_id and event_id(sender, **given)}
        if is_django:
            emit_on_commit(event, content, using=given.get("using"), **values)
        else:
            emit(event, content, **values)

    # Not weakly: nobody else holds this function.
    if sender is None:
        signal.connect(receive, weak=False)
    else:
        signal.connect(receive, sender=sender, weak=False)
    return receive


def _is_django(signal: Any) -> bool:
    dispatch = sys.modules.get("django.dispatch")
    return dispatch is not None and isinstance(signal, dispatch.Signal)
