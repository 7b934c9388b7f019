"""``python -m tests.upgrades.record 0003``: the rows that the package of a schema version writes, kept in ``rows``.

The package is the one in ``packages``: of the last commit before the next migration. It is executed in a process of its
own, with a worker, until there is a run in each state; then all tables are read as they are.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent
VERBS = {"0001": "", "0002": "event", "0003": "event call"}
"""What the package of each version has besides steps and sleeps."""
NOT_KEPT = {"lease", "alembic_version"}


def main() -> None:
    (version,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(FOLDER / "packages" / f"{version}.zip").extractall(folder)
        database = Path(folder) / "durable.db"
        environment = {"PYTHONPATH": f"{folder}{os.pathsep}{FOLDER.parent.parent}", "UPGRADE_VERBS": VERBS[version]}
        command = [sys.executable, "-m", "tests.upgrades.writing", f"sqlite:///{database}"]
        subprocess.run(command, env=os.environ | environment, check=True, timeout=120, cwd=folder)
        (FOLDER / "rows" / f"{version}.json").write_text(json.dumps(rows_of(database), indent=1) + "\n")


def rows_of(database: Path) -> dict[str, list[dict[str, object]]]:
    """All rows of all tables, but the sweeper's lease and the version."""
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    kept = sorted({name.removeprefix("durable_") for name in names if name.startswith("durable_")} - NOT_KEPT)
    return {name: [dict(row) for row in connection.execute(f"SELECT * FROM durable_{name}")] for name in kept}


if __name__ == "__main__":
    main()
