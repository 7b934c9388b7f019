"""Who does something, and why: what is kept in the audit log."""

from __future__ import annotations

import getpass
import socket

from ..store.records import Deed

__all__ = ["deed_by", "this_user"]


def deed_by(action: str, reason: str | None, by: str | None) -> Deed:
    """What somebody does; by the user of this process, if nobody is named."""
    return Deed(action, by or this_user(), reason)


def this_user() -> str:
    """Who does something if nothing is said: the user of this process, and its machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
