"""What runs leave behind and take: bytes of the database for each run, step and event, and processor time.

Runs of one step and of eleven are compared: the difference is what ten steps are, the rest is the run's. Processor
time is told by the system for each process, and so hardly depends on what else the machine does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import psutil

from bench.fleet import Fleet, fleet
from bench.load_app import app, steps, waiting
from bench.private import DATABASES
from bench.watching import processor_seconds, processor_use
from celery_durable import Durable

RUNS = int(os.environ.get("BENCH_RUNS", "1000"))
FEW, MANY = 1, 11
PAYLOAD = 100
"""Characters of each step's input and of its result."""
LOOK_EVERY = 0.5
PATIENCE = 900.0


@dataclass
class Taken:
    """What a number of runs have taken together: bytes, and seconds of processors."""

    packed: float
    grown: float
    logged: float
    caller: float
    workers: float
    database: float

    def __sub__(self, other: Taken) -> Taken:
        return Taken(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def over(self, number: int) -> Taken:
        return Taken(*(value / number for value in astuple(self)))

    def __str__(self) -> str:
        times = "   ".join(f"{value * 1000:6.2f}" for value in (self.caller, self.workers, self.database))
        return f"{self.packed:8,.0f}   {self.grown:8,.0f}   {self.logged:8,.0f}   {times}"


def main() -> None:
    print(
        f"\nfootprint: {RUNS} runs of {FEW} step and of {MANY}, {PAYLOAD} characters in and out of each step. For each "
        "bytes: of packed tables, of tables as they have grown, of the database's log; milliseconds of processor: of "
        "the caller, of the workers, of the database server"
    )
    for database in os.environ.get("BENCH_DATABASES", " ".join(DATABASES)).split():
        with fleet(database) as made, made.workers(1, 2):
            measure(made)


def measure(made: Fleet) -> None:
    steps.delay(FEW, PAYLOAD)  # connects, and is not measured
    wait_for(made, "completed", 1)
    few = taken(made, lambda number: steps.delay(FEW, PAYLOAD), "completed")
    many = taken(made, lambda number: steps.delay(MANY, PAYLOAD), "completed")
    step = (many - few).over(MANY - FEW)
    parked = taken(made, lambda number: waiting.delay(f"key-{number}"), "suspended")
    payload = {"said": "x" * PAYLOAD}
    woken = taken(made, lambda number: Durable(app).emit("bench.load", payload, key=f"key-{number}"), "completed")
    print(f"  {made.database}, {processor_use()}")
    print(f"    a run, without its steps      {few - step}")
    print(f"    a step                        {step}")
    print(f"    a run parked on an event      {parked}")
    print(f"    an event, a step and the end  {woken}", flush=True)


def taken(made: Fleet, begin: Callable[[int], Any], status: str) -> Taken:
    """What one of the runs has taken that ``begin`` starts, or wakes."""
    there, packed, times = made.count(status), packed_size(made), processor_times(made)
    began_with, log = size(made), logged(made)
    for number in range(RUNS):
        begin(number)
    wait_for(made, status, there + RUNS)
    used = [after - before for after, before in zip(processor_times(made), times, strict=True)]
    grown, written = size(made) - began_with, logged(made) - log
    return Taken(packed_size(made) - packed, grown, written, *used).over(RUNS)


def wait_for(made: Fleet, status: str, number: int) -> None:
    """Looks seldom: each look is work for the database, too."""
    limit = time.monotonic() + PATIENCE
    while made.count(status) < number:
        if time.monotonic() > limit:
            raise TimeoutError(f"not {number} runs are {status}:\n{made.logs()[-2000:]}")
        time.sleep(LOOK_EVERY)


def processor_times(made: Fleet) -> list[float]:
    """Of this process, the workers, and the database server without the one who watches it."""
    if made.database == "postgresql":
        ((watcher,),) = made.watch.ask("SELECT pg_backend_pid()")
        main = psutil.Process(watcher).parent()
        assert main is not None
        server = [main, *(child for child in main.children() if child.pid != watcher)]
    else:
        ((file,),) = made.watch.ask("SELECT @@pid_file")
        server = [process for process in psutil.process_iter() if f"--pid-file={file}" in process.cmdline()]
    return [processor_seconds(processes) for processes in ([psutil.Process()], made.processes(), server)]


def packed_size(made: Fleet) -> float:
    """Bytes of all tables and their indexes, written anew."""
    with made.store.engine.connect() as connection:
        for name in names(made):
            statement = "VACUUM FULL ANALYZE" if made.database == "postgresql" else "OPTIMIZE TABLE"
            result = connection.exec_driver_sql(f"{statement} {name}")
            if result.returns_rows:
                result.all()
    return size(made)


def size(made: Fleet) -> float:
    """Bytes of all tables and their indexes."""
    with made.store.engine.connect() as connection:
        if made.database == "postgresql":
            asked = "SELECT " + " + ".join(f"pg_total_relation_size('{name}')" for name in names(made))
        else:
            connection.exec_driver_sql(f"ANALYZE TABLE {', '.join(names(made))}").all()
            asked = (
                "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = database()"
            )
        return float(connection.exec_driver_sql(asked).scalar_one())


def logged(made: Fleet) -> float:
    """Bytes that were written to the log by which the database recovers and is copied."""
    if made.database == "postgresql":
        ((written,),) = made.watch.ask("SELECT pg_current_wal_insert_lsn() - '0/0'")
    else:
        ((_, written),) = made.watch.ask("SHOW GLOBAL STATUS LIKE 'Innodb_os_log_written'")
    return float(written)


def names(made: Fleet) -> list[str]:
    return [table.name for table in made.store.tables.metadata.sorted_tables]
