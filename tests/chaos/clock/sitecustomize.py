"""Imported by Python as it starts, in workers whose clock is wrong.

``time.sleep`` asks for a point in time of the clock that nobody puts forward, and libfaketime (0.9.10) spoils such a
request: it is an error there. Waiting for nothing takes as long.
"""

from __future__ import annotations

import select
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex) -> None:
    select.select([], [], [], float(seconds))


time.sleep = sleep
