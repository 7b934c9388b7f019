"""A Celery project for the command line, with settings from the environment."""

from __future__ import annotations

import json
import os

from tests.console.shop import shop

app = shop(f"sqlite:///{os.environ['CONSOLE_DATABASE']}", **json.loads(os.environ.get("CONSOLE_SETTINGS", "{}")))
