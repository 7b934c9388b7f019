"""The tests of the example shop. Django's settings hold for a whole process: they run in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHOP = ROOT / "example_project" / "webshop"


def pytest_of_the_shop(*files: str, **environment: str) -> str:
    """What it has printed; a failure of its is one of this test."""
    __tracebackhide__ = True
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(SHOP / "pytest.ini")]
    done = subprocess.run(
        [*command, *(str(SHOP / "tests" / file) for file in files)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
    return done.stdout


def test_its_workflows_and_sites() -> None:
    pytest_of_the_shop("test_workflows.py", "test_sites.py", "test_compose.py")


def test_all_of_it_with_a_worker_that_is_killed(redis_url: str, postgresql_url: str) -> None:
    output = pytest_of_the_shop("test_live.py", SHOP_TEST_BROKER_URL=redis_url, SHOP_TEST_DATABASE_URL=postgresql_url)
    assert "skipped" not in output
