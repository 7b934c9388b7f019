"""Each target with a few examples: for hours they run by ``make fuzz``."""

from __future__ import annotations

import pytest

from . import sites  # noqa: F401 - its targets
from .targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_anything_is_a_value_or_the_error_that_is_documented(name: str) -> None:
    TARGETS[name]()
