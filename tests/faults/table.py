"""The table of ``docs/reliability.md``: every operation meets with every fault, on each database.

``python -m tests.faults.table`` makes it, with the services of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from celery_durable.store.store import Store
from tests.services import Services

from .conftest import Faulty
from .moments import Moments
from .operations_outside import OPERATIONS, Operation
from .rivals import crossing, holding
from .scenes import Scene
from .test_contended import CROSSED, SERIALIZED, performed, store_with, touch, undisturbed, victim_of
from .test_lost import HOW, fault
from .test_lost import performed as performed_at
from .wire import SILENT

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
DATABASES = {"postgresql": "PostgreSQL", "mysql": "MariaDB"}
HEADINGS = ["operation", "request lost", "answer lost", "session ended", "taken back", "no answer"]
Found = tuple[Any, Any]


def main() -> None:
    services = Services()
    with ExitStack() as opened:
        opened.callback(services.close)
        urls = [opened.enter_context(getattr(services, name).fresh()) for name in DATABASES]
        all_faulty = [opened.enter_context(closing(Faulty(url))) for url in urls]
        with ThreadPoolExecutor(len(DATABASES)) as pool:
            columns = dict(zip(DATABASES.values(), pool.map(_cells, all_faulty), strict=True))
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- " * len(HEADINGS) + "|"]
    for operation in OPERATIONS:
        rows = [columns[title][operation.name] for title in DATABASES.values()]
        lines.append("| " + " | ".join([operation.name, *map(_cell, zip(*rows, strict=True))]) + " |")
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def _cell(outcomes: tuple[str, ...]) -> str:
    """What came of it on each database, said once where it is the same."""
    if len(set(outcomes)) == 1:
        return outcomes[0]
    return "; ".join(f"{title}: {outcome}" for title, outcome in zip(DATABASES.values(), outcomes, strict=True))


def _cells(faulty: Faulty) -> dict[str, list[str]]:
    victim = victim_of(faulty)
    strict = store_with(faulty, "-cdefault_transaction_isolation=serializable")
    hurried = Store(faulty.wire.url, answer_within=0.5)
    cells = {}
    for operation in OPERATIONS:
        print(faulty.wire.kind, operation.name, flush=True)  # noqa: T201
        cells[operation.name] = [
            *(_at_each_commit(faulty, operation, how) for how in HOW),
            _taken_back(faulty, operation, victim, strict),
            _unanswered(faulty, operation, hurried),
        ]
    for store in (victim, strict, hurried):
        store.engine.dispose()
    return cells


def _outcome(found: Callable[[], Found], expected: Found) -> str:
    try:
        rows, answer = found()
    except DBAPIError as error:
        return f"an error: {type(error).__name__}"
    for run in rows["durable_run"]:
        if rows != expected[0] and run["sends"] == 3:
            run["sends"] = 2
            return "once, counted twice" if rows == expected[0] else "NOT ONCE"
    if rows != expected[0]:
        return "NOT ONCE"
    return "once" if answer == expected[1] else "once, told less"


def _at_each_commit(faulty: Faulty, operation: Operation, how: str) -> str:
    with Moments(faulty.store.engine) as moments:
        expected = performed_at(faulty, operation, moments)
    outcomes = set()
    for number in range(1, moments.count + 1):
        with Moments(faulty.store.engine, number, fault(faulty, how)) as hit:
            outcomes.add(_outcome(lambda hit=hit: performed_at(faulty, operation, hit), expected))  # type: ignore[misc]
    return ", ".join(sorted(outcomes))


def _taken_back(faulty: Faulty, operation: Operation, victim: Store, strict: Store) -> str:
    """By a deadlock, or by a serialization failure."""
    tables = faulty.direct.tables
    if operation.name in CROSSED:
        last = getattr(tables, CROSSED[operation.name]).name
        against: Callable[[Scene], AbstractContextManager[None]] = lambda scene: crossing(  # noqa: E731
            faulty, victim, tables.run.name, last
        )
        store = victim
    elif operation.name in SERIALIZED and faulty.wire.kind == "postgresql":
        against, store = lambda scene: holding(faulty, touch(scene)), strict
    else:
        return "-"
    return _outcome(lambda: performed(faulty, operation, store, against), undisturbed(faulty, operation))


def _unanswered(faulty: Faulty, operation: Operation, hurried: Store) -> str:
    def act() -> Found:
        with Moments(hurried.engine, 1, lambda connection: faulty.wire.lose(connection, SILENT)):
            return performed(faulty, operation, hurried, _patiently)

    return _outcome(act, undisturbed(faulty, operation))


class _patiently(AbstractContextManager[None]):
    def __init__(self, scene: Scene) -> None:
        scene.link.patience = 30.0

    def __exit__(self, *exc: object) -> None: ...


if __name__ == "__main__":
    main()
