"""What users' type checkers make of the package: the samples have no error, and the errors that they must have.

They are checked as a user's project is: strictly, with the stubs of celery-types.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent / "samples"
PYRIGHT = {
    "include": ["samples"],
    "typeCheckingMode": "strict",
    "pythonVersion": "3.10",
    "reportUnnecessaryTypeIgnoreComment": "error",
    "enableTypeIgnoreComments": False,  # those are for mypy
}


def checked(module: str, *arguments: str, cwd: Path = SAMPLES) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed; the extra dev has it")
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_agrees(tmp_path: Path) -> None:
    options = [
        "--strict",
        "--warn-unreachable",
        "--python-version",
        "3.10",
        "--config-file",
        "",
        "--cache-dir",
        str(tmp_path),
    ]
    checked("mypy", *options, *(path.name for path in sorted(SAMPLES.glob("*.py"))))


def test_pyright_agrees(tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(SAMPLES)
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(PYRIGHT))
    checked("basedpyright", "--project", str(config), "--pythonpath", sys.executable, cwd=tmp_path)
