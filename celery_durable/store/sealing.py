"""Sealing: what a payload codec does to stored text, such as encrypting it."""

from __future__ import annotations

import base64
from typing import Any, Protocol

from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..errors import ConfigurationError

__all__ = ["Sealed", "Sealer"]

_MARK = "sealed:"


class Sealer(Protocol):
    """What ``durable_codec`` names: a class with these two methods, made without arguments."""

    def encode(self, data: bytes) -> bytes: ...

    def decode(self, data: bytes) -> bytes: ...


class Sealed(TypeDecorator[str]):
    """Text that is sealed on its way into the database. Rows written before a codec was set stay readable."""

    impl = TypeEngine
    cache_ok = True  # an engine is of one store, which has one sealer, and keeps the statements that it has compiled

    def __init__(self, impl: TypeEngine[str], sealer: Sealer) -> None:
        super().__init__()
        self.impl_instance = self.impl = impl  # type: ignore[assignment]
        self._sealer = sealer

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return _MARK + base64.b64encode(self._sealer.encode(value.encode())).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        if value is None or not value.startswith(_MARK):
            return value  # type: ignore[no-any-return]
        try:
            return self._sealer.decode(base64.b64decode(value[len(_MARK) :])).decode()
        except Exception as error:
            raise ConfigurationError(
                f"durable_codec ({type(self._sealer).__qualname__}) can't read a stored value "
                f"({type(error).__name__}: {error}). Give this process the key that the value was written with."
            ) from error

    def copy(self, **kw: Any) -> Sealed:
        return Sealed(self.impl, self._sealer)  # type: ignore[arg-type]
