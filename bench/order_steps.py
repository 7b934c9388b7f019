"""The four steps of an order, which every engine is given, and the step that does nothing. No package is needed here:
each program of ``bench.peers`` has an environment of its own.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ORDER", "charge", "mail", "nothing", "reserve", "ship"]


def nothing() -> None: ...


def reserve(order: dict[str, Any]) -> dict[str, Any]:
    return {**order, "reserved": True}


def charge(order: dict[str, Any]) -> dict[str, Any]:
    return {**order, "charged": 4200}


def ship(order: dict[str, Any]) -> dict[str, Any]:
    return {**order, "parcel": "P-1"}


def mail(order: dict[str, Any]) -> dict[str, Any]:
    return {**order, "mailed": True}


ORDER = (reserve, charge, ship, mail)
