"""Texts for people in columns of their own, which are no JSON: what no database can hold is written out in them."""

from __future__ import annotations

from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..core.faults import legible

__all__ = ["Said"]


class Said(TypeDecorator[str]):
    """A short text. PostgreSQL refuses one with a NUL, and every driver one with half a character."""

    impl = TypeEngine
    cache_ok = True

    def __init__(self, impl: TypeEngine[str]) -> None:
        super().__init__()
        self.impl_instance = self.impl = impl  # type: ignore[assignment]

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\x00" not in value):
            return value
        length = getattr(self.impl, "length", None)
        return legible(value).replace("\x00", "\\x00")[:length]

    def copy(self, **kw: object) -> Said:
        return Said(self.impl)  # type: ignore[arg-type]
