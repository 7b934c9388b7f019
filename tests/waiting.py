"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], timeout: float = 10.0, message: str = "it did not come about") -> T:
    """What `condition` returns as soon as it is true; past `timeout` seconds the test fails."""
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    pause = 0.01
    while True:
        last_chance = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if last_chance:
            pytest.fail(f"{message}: after {timeout:g} s the last value was {value!r}")
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.5, 0.1)
