"""``python -m tests.chaos``: a long storm for each broker and database, and what came of it."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import sys
from pathlib import Path

from tests.chaos.servers import BROKERS, DATABASES, Backend, missing
from tests.chaos.storm import Storm, weather


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long the monkey is at work (10)")
    parser.add_argument("--broker", choices=BROKERS, help="one broker; else each")
    parser.add_argument("--database", choices=DATABASES, help="one database; else each")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the load and of the monkey")
    parser.add_argument("--rate", type=float, default=6, help="starts in a second (6)")
    parser.add_argument("--keep", type=Path, help="a folder for logs, data and journals, which is kept")
    given = parser.parse_args()
    pairs = [
        (broker, database)
        for broker, database in itertools.product(BROKERS, DATABASES)
        if given.broker in (None, broker) and given.database in (None, database)
    ]
    lacking = {name for pair in pairs for name in missing(BROKERS[pair[0]], Backend, DATABASES[pair[1]])}
    if lacking:
        sys.exit(f"not installed here: {', '.join(sorted(lacking))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # servers and workers are ended then, too
    failed = False
    for broker, database in pairs:
        print(f"== {broker} + {database}, seed {given.seed}, {given.minutes:g} minutes", flush=True)
        keep = given.keep and given.keep / f"{broker}-{database}"
        storm = weather(broker, database, seconds=60 * given.minutes, seed=given.seed, rate=given.rate, keep=keep)
        show(storm)
        if keep:
            (keep / "figures.json").write_text(json.dumps(storm.figures, indent=1))
        failed |= bool(storm.violations)
    sys.exit(failed)


def show(storm: Storm) -> None:
    for what, value in storm.figures.items():
        print(f"   {what}: {value}")
    for line in storm.report:
        print(line)
    print(f"   violations: {len(storm.violations)}", flush=True)


if __name__ == "__main__":
    main()
