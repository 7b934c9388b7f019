"""Who comes in, and what they may do, as the Celery configuration says.

The console is closed by default. Somebody is let in by a token or a password of the Celery configuration, or by a
function of the user's own; everything that changes something asks once more whether that person may do it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from werkzeug.security import check_password_hash
from werkzeug.wrappers import Request, Response

from ..errors import ConfigurationError

__all__ = ["ACTIONS", "Access", "Allow", "Identify"]

ACTIONS = ("cancel", "pause", "resume", "retry", "fork", "replay", "answer", "emit", "start")
"""All that can be done with the console."""

SHORTEST_TOKEN = 16
_HASH = re.compile(r"(?:scrypt(?::\d+){3}|pbkdf2:\w+(?::\d+)?)\$[^$]+\$[0-9a-f]{32,}")
_REMEMBERED = 256

Identify = Callable[[Request], "str | Response | None"]
"""Who sends a request: a name, ``None`` for nobody who may come in, or what to answer (a redirect to sign in)."""

Allow = Callable[[str, str], bool]
"""Whether a person may do an action."""


@dataclass(frozen=True)
class Access:
    """The people of the Celery configuration."""

    tokens: Mapping[str, str] = field(repr=False)
    users: Mapping[str, str] = field(repr=False)
    allow: Allow
    read_only: bool
    _right: _Right = field(repr=False, compare=False)

    @classmethod
    def of(cls, get: Callable[[str, Any], Any]) -> Access:
        """From the settings ``durable_console_...``. Raises ``ConfigurationError`` for one that makes no sense."""
        read_only = get("durable_console_read_only", False)
        if not isinstance(read_only, bool):
            raise ConfigurationError(
                f"the setting durable_console_read_only is {read_only!r}: True or False is expected"
            )
        tokens = _tokens(get("durable_console_tokens", None))
        users = _users(get("durable_console_users", None))
        return cls(tokens, users, _allow(get("durable_console_allow", None)), read_only, _Right())

    @property
    def is_closed(self) -> bool:
        """Whether nobody at all can come in by it."""
        return not self.tokens and not self.users

    def knows(self, who: str) -> bool:
        """Whether somebody of this name can come in by it."""
        return who in self.tokens or who in self.users

    def may(self, who: str, action: str) -> bool:
        """Whether this person may do that."""
        return not self.read_only and self.allow(who, action)

    def by_token(self, token: str) -> str | None:
        """Whose token it is. All are compared, so that the time it takes tells nothing."""
        found, given = None, _digest(token)
        for name, known in self.tokens.items():
            if hmac.compare_digest(_digest(known), given):
                found = name
        return found

    def by_password(self, name: str, password: str) -> str | None:
        """The user of this name, if that is the password."""
        if not self.users:
            return None
        # Somebody unknown costs the time of a check, too.
        known = self.users.get(name, next(iter(self.users.values())))
        if name in self.users and self._right.holds(name, password):
            return name
        if not check_password_hash(known, password) or name not in self.users:
            return None
        self._right.remember(name, password)
        return name


class _Right:
    """Passwords that were right a moment ago. To check one takes a tenth of a second, by design, and a browser sends
    it with each request. What is kept is of no use outside of this process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._marks: set[bytes] = set()

    def holds(self, name: str, password: str) -> bool:
        return self._mark(name, password) in self._marks

    def remember(self, name: str, password: str) -> None:
        if len(self._marks) >= _REMEMBERED:
            self._marks.clear()
        self._marks.add(self._mark(name, password))

    def _mark(self, name: str, password: str) -> bytes:
        return hmac.new(self._key, _digest(name) + _digest(password), hashlib.sha256).digest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


# ------------------------------------------------------------------------------------------ the settings


def _tokens(given: Any) -> dict[str, str]:
    tokens = _names("durable_console_tokens", given)
    owners: dict[str, str] = {}
    for name, token in tokens.items():
        if len(token) < SHORTEST_TOKEN:
            raise ConfigurationError(
                f"the setting durable_console_tokens has a token of {len(token)} characters for {name!r}: it has "
                f"to have {SHORTEST_TOKEN} at least, such as those of  python -c 'import secrets; "
                "print(secrets.token_urlsafe())'"
            )
        if token in owners:
            raise ConfigurationError(
                f"the setting durable_console_tokens has one token for {owners[token]!r} and {name!r}: give each "
                "person one of their own, so that it is known who did what"
            )
        owners[token] = name
    return tokens


def _users(given: Any) -> dict[str, str]:
    users = _names("durable_console_users", given)
    for name, known in users.items():
        if not _HASH.fullmatch(known):
            raise ConfigurationError(
                f"the setting durable_console_users has no hash of a password for {name!r}. Make one with  python -c "
                "'import getpass, werkzeug.security as s; print(s.generate_password_hash(getpass.getpass()))'"
            )
    return users


def _names(setting: str, given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and name and isinstance(value, str) and value for name, value in given.items()
    ):
        raise ConfigurationError(
            f"the setting {setting} is not what is expected: a mapping from names to strings, as in "
            f'{setting} = {{"ada": "..."}}'
        )
    return dict(given)


def _allow(given: Any) -> Allow:
    if given is None:
        return lambda who, action: True
    if callable(given):
        return lambda who, action: bool(given(who, action))
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"the setting durable_console_allow is {given!r}: a mapping from names to lists of actions is expected, or "
            "a function of a name and an action"
        )
    table = {name: _actions(name, actions) for name, actions in given.items()}

    def allow(who: str, action: str) -> bool:
        actions = table.get(who, table.get("*", ()))
        return action in actions or "*" in actions

    return allow


def _actions(name: Any, given: Any) -> tuple[str, ...]:
    actions = (given,) if isinstance(given, str) else given
    if not isinstance(actions, Iterable):
        raise ConfigurationError(
            f"the setting durable_console_allow has {given!r} for {name!r}: a list of actions is expected, as in "
            '{"ada": ["retry", "resume"], "*": []}'
        )
    found = tuple(actions)
    for action in found:
        if action not in (*ACTIONS, "*"):
            raise ConfigurationError(
                f"the setting durable_console_allow lets {name!r} do {action!r}, which is no action: there are "
                f"{', '.join(ACTIONS)}, and * for all of them"
            )
    return found
