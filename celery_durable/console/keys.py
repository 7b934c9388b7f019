"""What the console signs: the cookie of who has signed in, and the mark in every form.

The key is made of the tokens and passwords of the Celery configuration and of what tells the database from every
other, so that all processes that serve one console have the same, and nobody has to set it. When somebody's token or
password changes, it changes, and everybody signs in anew.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time

__all__ = ["SESSION_SECONDS", "Keys"]

SESSION_SECONDS = 12 * 3600


class Keys:
    """Makes and checks what is signed."""

    def __init__(self, *known: str) -> None:
        self._key = hashlib.sha256(_bytes(*known)).digest()

    def session(self, who: str) -> str:
        """A cookie for this person."""
        return self._session(who, str(int(time.time()) + SESSION_SECONDS))

    def who(self, cookie: str) -> str | None:
        """Whose cookie it is; ``None`` for one that is not ours, or whose time is over."""
        end, _, rest = cookie.partition(".")
        try:
            who = bytes.fromhex(rest.rpartition(".")[2]).decode("utf-8", "surrogatepass")
        except ValueError:
            return None
        return who if _same(cookie, self._session(who, end)) and int(end) > time.time() else None

    def form(self, who: str, browser: str) -> str:
        """The mark of the forms that are shown to this person in this browser: no other site can know it."""
        return self._sign("form", browser, who)

    def is_form_of(self, who: str, browser: str, mark: str) -> bool:
        """Whether a form that is sent was shown by us."""
        return bool(browser) and _same(mark, self.form(who, browser))

    def _session(self, who: str, end: str) -> str:
        return f"{end}.{self._sign('session', end, who)}.{who.encode('utf-8', 'surrogatepass').hex()}"

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key, _bytes(*parts), hashlib.sha256).hexdigest()


def _bytes(*parts: str) -> bytes:
    """These texts, so that no others make the same."""
    return json.dumps(parts).encode("ascii")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
