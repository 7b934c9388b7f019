"""Payload codecs for ``durable_codec``: what is stored can then be read only with a key.

    app.conf.durable_codec = "celery_durable.codecs.Fernet"   # keys from CELERY_DURABLE_KEYS
    app.conf.durable_codec = Fernet(keys=[new, old])          # keys from wherever the project keeps them

The first key writes, all of them read: to change a key, put the new one in front, and drop the old one when
nothing is left that was written with it.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = ["Fernet"]

_VARIABLE = "CELERY_DURABLE_KEYS"
_MAKE_ONE = (
    'Make a key with:  python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
)

# Stricter than Fernet, which passes over characters that are none of base64, and all that follows the "=": two
# keys with a space between them would be the first alone.
_KEY = re.compile(r"[A-Za-z0-9_+/-]{43}=")


class Fernet:
    """Encrypts what is stored with Fernet (AES-128 and HMAC-SHA256), and so notices when it was changed.

    ``keys`` is a key, several in one string with commas, or a list of them; without it they are read from
    the environment variable ``CELERY_DURABLE_KEYS``. It has no state but its keys, so that threads may
    share it and a forked process may go on with it.
    """

    def __init__(self, keys: str | bytes | Iterable[str | bytes] | None = None) -> None:
        given, where = (keys, "keys") if keys is not None else (_keys_of_the_environment(), _VARIABLE)
        self._count, self._cipher = _cipher(_separate(given), where)

    def encode(self, data: bytes) -> bytes:
        """The data, encrypted with the first key."""
        # Fernet writes base64, and so does the column afterwards: once is enough.
        return base64.urlsafe_b64decode(self._cipher.encrypt(data))

    def decode(self, data: bytes) -> bytes:
        """The data of what :meth:`encode` wrote, with any of the keys."""
        from cryptography.fernet import InvalidToken

        try:
            return self._cipher.decrypt(base64.urlsafe_b64encode(data))
        except InvalidToken:
            what = "its key does not fit" if self._count == 1 else f"none of its {self._count} keys fits"
            raise ConfigurationError(
                f"{what}: the value was written with another key, or changed after it was written"
            ) from None

    def __repr__(self) -> str:
        return f"<Fernet with {self._count} {'key' if self._count == 1 else 'keys'}>"


def _keys_of_the_environment() -> str:
    keys = os.environ.get(_VARIABLE)
    if keys is None:
        raise ConfigurationError(
            f"durable_codec: the environment variable {_VARIABLE} is not set in this process, and Fernet was given "
            f"no keys. Set it to the same value for every worker and every process that starts runs. {_MAKE_ONE}"
        )
    return keys


def _separate(given: Any) -> list[Any]:
    """The keys one by one. An empty one stays, to be refused: it stands for a variable that was not filled in."""
    if isinstance(given, str):
        return [key.strip() for key in given.split(",")]
    if isinstance(given, bytes):
        return [key.strip() for key in given.split(b",")]
    if not isinstance(given, Iterable):
        raise ConfigurationError(
            f"durable_codec: Fernet takes a key or a list of keys, not {type(given).__qualname__}. {_MAKE_ONE}"
        )
    return [key.strip() if isinstance(key, (str, bytes)) else key for key in given]


def _cipher(keys: list[Any], where: str) -> tuple[int, MultiFernet]:
    try:
        from cryptography import fernet
    except ImportError as error:
        raise ConfigurationError(
            "durable_codec: celery_durable.codecs.Fernet needs the package cryptography, which can't be imported "
            f'({error}). Install it with:  pip install "celery-durable[encryption]"'
        ) from error
    if not keys:
        raise ConfigurationError(f"durable_codec: Fernet was given an empty list of keys. {_MAKE_ONE}")
    for position, key in enumerate(keys, 1):
        if complaint := _complaint(key):
            raise ConfigurationError(
                f"durable_codec: key {position} of {len(keys)} in {where} {complaint}. {_MAKE_ONE}"
            )
    return len(keys), fernet.MultiFernet([fernet.Fernet(key) for key in keys])


def _complaint(key: Any) -> str:
    """What is wrong with a key, without a character of it; nothing if it is one."""
    if not isinstance(key, (str, bytes)):
        return f"is no string but {type(key).__qualname__}"
    if not key:
        return "is empty"
    if _KEY.fullmatch(key if isinstance(key, str) else key.decode("latin-1")):
        return ""
    length = "" if len(key) == 44 else f"; this has {len(key)}"
    return f"is no Fernet key (32 bytes in URL-safe base64, which are 44 characters{length})"
