"""What was measured, as it is printed, recorded in ``docs/performance.json``, and told on the page."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from bench.comparisons import OURS, Comparison, Way
from bench.programs import ENGINES

__all__ = ["RECORDED", "circumstances", "lines", "load", "record", "save", "shown", "table"]

RECORDED = Path(__file__).parent.parent / "docs" / "performance.json"
NOTE = "BENCH_NOTE"
"""The environment variable that says what is special about these figures."""


def circumstances(url: str, engines: Sequence[str]) -> dict[str, str]:
    """The machine, and the versions of all that takes part."""
    own = ", ".join(f"{name} {version(name)}" for name in ("celery", "sqlalchemy", "pydantic", "psycopg", "redis"))
    peers = {name: found for key in engines for name, found in ENGINES[key].versions().items() if name != "psycopg"}
    memory = psutil.virtual_memory().total / 2**30
    return {
        "machine": f"{os.cpu_count()} cores of {_processor()}, {memory:.0f} GB, {platform.system()}",
        "ours": f"celery-durable {version('celery-durable')}, Python {platform.python_version()}, {own}",
        "peers": ", ".join(f"{name} {found}" for name, found in peers.items()),
        _kind(url): _database(url),
    }


def _kind(url: str) -> str:
    return url.partition(":")[0].partition("+")[0]


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    found = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in found if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _database(url: str) -> str:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:

        def ask(question: str) -> str:
            return str(connection.exec_driver_sql(question).scalar_one())

        if _kind(url) == "sqlite":
            return ask("SELECT sqlite_version()")
        return ", ".join(
            f"{name} {ask(f'SHOW {name}')}" for name in ("server_version", "fsync", "synchronous_commit")
        ).replace("server_version ", "")


def record(
    comparison: Comparison, ways: list[Way], answers: dict[str, list[list[float]]], missing: dict[str, str], load: float
) -> dict[str, Any]:
    """One comparison on one database."""
    return {
        "title": comparison.title,
        "taken": datetime.now(timezone.utc).date().isoformat(),
        "load": round(load, 1),
        "turns": len(answers[OURS]),
        "units": {figure.name: figure.unit for figure in comparison.figures},
        "ways": {
            way.label: {
                "how": way.remark,
                "figures": {
                    figure.name: {
                        "value": _short(figure.value(answers[way.label])),
                        "ratio": _short(figure.ratio(answers[OURS], answers[way.label])),
                    }
                    for figure in comparison.figures
                },
            }
            for way in ways
        },
        "missing": missing,
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    """To four digits."""
    return None if value is None else float(f"{value:.4g}")


def lines(record: dict[str, Any]) -> Iterator[str]:
    """As it is printed."""
    for label, way in record["ways"].items():
        figures = (
            f"{name} {shown(figure['value'])} {record['units'][name]}{_times(label, figure['ratio'])}"
            for name, figure in way["figures"].items()
        )
        yield f"{label:<18} {'   '.join(figures)}" + (f"   [{way['how']}]" if way["how"] else "")
    for label, why in record["missing"].items():
        yield f"{label:<18} -   [{why}]"


def _times(label: str, ratio: float | None) -> str:
    return "" if label == OURS or ratio is None else f" ({shown(ratio)}x)"


def shown(value: float) -> str:
    """To as many digits as matter."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


# ------------------------------------------------------------------------------------------- the file


def load() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    return loaded


def save(circumstances: dict[str, str], database: str, name: str, record: dict[str, Any]) -> None:
    """Put this comparison in the place of the one that is recorded. Figures of other circumstances are forgotten."""
    recorded = load()
    before = recorded.get("circumstances", {})
    if any(before[key] != value for key, value in circumstances.items() if key in before):
        recorded = {}
    recorded["note"] = os.environ.get(NOTE, "")
    recorded["circumstances"] = {**recorded.get("circumstances", {}), **circumstances}
    recorded.setdefault("databases", {}).setdefault(database, {})[name] = record
    RECORDED.write_text(json.dumps(recorded, indent=2, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------------------------------- the page


def table(record: dict[str, Any]) -> str:
    """One comparison on one database, as Markdown."""
    names = list(record["units"])
    head = [f"{name}, {record['units'][name]}" if record["units"][name] != "x" else name for name in names]
    rows = [f"| | {' | '.join(head)} | how |", "| --- |" + " --- |" * (len(names) + 1)]
    for label, way in record["ways"].items():
        cells = (shown(figure["value"]) + _times(label, figure["ratio"]) for figure in way["figures"].values())
        rows.append(f"| {label} | {' | '.join(cells)} | {way['how']} |")
    rows += [f"| {label} |{' - |' * len(names)} {why} |" for label, why in record["missing"].items()]
    return "\n".join(rows)
