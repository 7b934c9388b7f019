"""DBOS doing what ``bench.peers`` asks for, in an environment of its own: ``python peer_dbos.py URL``.

Each line of its input is a number of steps: it answers with the seconds that a workflow of so many took.
"""

from __future__ import annotations

import sys
import time

from dbos import DBOS  # type: ignore[import-not-found,unused-ignore]  # it is in the environment of this program alone


@DBOS.step()  # type: ignore[untyped-decorator,unused-ignore]
def nothing() -> None: ...


@DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
def many_steps(count: int) -> None:
    for _ in range(count):
        nothing()


def main() -> None:
    DBOS(config={"name": "bench", "system_database_url": sys.argv[1], "log_level": "ERROR"})
    DBOS.launch()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        many_steps(int(line))
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
