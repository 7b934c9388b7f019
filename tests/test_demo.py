"""``make demo`` shows what it says, in time, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil


def test_the_demo_shows_a_retry_and_a_killed_worker() -> None:
    folders = set(Path(tempfile.gettempdir()).glob("celery-durable-demo-*"))
    done = subprocess.run(
        [sys.executable, "-m", "example_project.demo"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for order in ("ORD-001", "ORD-002", "ORD-003"):
        assert done.stdout.count(f"attempt 1 succeeded (idempotency key {order}:") <= 1
        assert f"{order}   completed" in done.stdout
    assert "attempt 1 failed: card network down" in done.stdout
    assert "is killed (SIGKILL)" in done.stdout
    assert "a finished step is never repeated" in done.stdout
    assert set(Path(tempfile.gettempdir()).glob("celery-durable-demo-*")) == folders
    left = [one for one in psutil.process_iter(["cmdline"]) if "example_project.shop" in (one.info["cmdline"] or [])]
    assert left == []
