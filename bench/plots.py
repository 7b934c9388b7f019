"""The pictures of the documentation's page on performance, and its tables, made of what ``bench.results`` has recorded:
``python -m bench.plots``.

A picture is a card with a ground of its own, light or dark as the reader's system is, so that it is readable on
whichever page it stands. Bars begin at nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from bench.comparisons import ALL, OURS
from bench.results import RECORDED, load, shown, table

__all__ = ["PAGE", "PICTURES", "pictures", "with_table"]

PAGE = RECORDED.parent / "performance.md"
PICTURES = RECORDED.parent / "images"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"

WIDTH, LABELS, VALUES = 760, 130, 150
"""Of a card; of the names left of the bars; of the figures right of them."""
ROW, BAR, HEAD, FOOT, EDGE = 28, 16, 46, 30, 16
_BARE = {
    "bare driver", "reading the rows", "Celery chain", "plain Celery task", "Celery ETA task", "Celery ETA tasks",
    "plain Celery", "Celery, two tasks",
}  # fmt: skip
_NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_GROWTH = "suspends"
TAIL = "p99"
_STYLE = """
text { font: 13px system-ui, "Segoe UI", "Liberation Sans", sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px } .quiet { fill: #57606a; font-size: 12px } .value { font-weight: 600 }
.card { fill: #ffffff; stroke: #d0d7de } .axis { stroke: #d0d7de; fill: none }
.ours { fill: #1a7f5a; stroke: #1a7f5a } .peer { fill: #8c959f; stroke: #8c959f }
.bare { fill: #d8a657; stroke: #d8a657 }
path.line { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .quiet { fill: #9da7b1 } .card { fill: #161b22; stroke: #30363d } .axis { stroke: #30363d }
  .ours { fill: #3fb98a; stroke: #3fb98a } .peer { fill: #7d8590; stroke: #7d8590 }
  .bare { fill: #b88a3d; stroke: #b88a3d }
}
"""


def main() -> None:
    recorded = load()
    PICTURES.mkdir(exist_ok=True)
    for name, drawn in pictures(recorded).items():
        (PICTURES / name).write_text(drawn)
    PAGE.write_text(with_table(PAGE.read_text(), recorded))


def pictures(recorded: dict[str, Any]) -> dict[str, str]:
    """Each picture by its file's name: bars of each comparison's first figure that matters, and how suspends grow."""
    found = {}
    for database, comparisons in recorded["databases"].items():
        for name, record in _in_order(comparisons):
            drawn = growth(record, database) if name == _GROWTH else bars(record, database)
            found[f"peers-{name}-{database}.svg"] = drawn
    return found


def with_table(page: str, recorded: dict[str, Any]) -> str:
    """The page with the tables of these results between its two marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{_section(recorded)}\n\n{END}{after}"


def _in_order(comparisons: dict[str, Any]) -> list[tuple[str, Any]]:
    """Whatever was measured first, or again."""
    return [(name, comparisons[name]) for name in ALL if name in comparisons]


def _section(recorded: dict[str, Any]) -> str:
    """Each comparison: its picture, and its table."""
    parts = [f"**{recorded['note']}**"] if recorded["note"] else []
    parts.append("\n".join(f"- {name}: {value}" for name, value in recorded["circumstances"].items()))
    for database, comparisons in recorded["databases"].items():
        parts.append(f"### On {_NAMES[database]}")
        for name, record in _in_order(comparisons):
            title = record["title"]
            parts.append(f"![{_NAMES[database]}: {title}](images/peers-{name}-{database}.svg)")
            parts.append(table(record))
    return "\n\n".join(parts)


# ---------------------------------------------------------------------------------------------- drawing


def bars(record: dict[str, Any], database: str) -> str:
    """One bar for each, of the first figure; a line goes on to the tail, where there is one."""
    figure, unit = next(iter(record["units"].items()))
    ends = (figure, TAIL) if TAIL in record["units"] else (figure,)
    values = {label: [way["figures"][name]["value"] for name in ends] for label, way in record["ways"].items()}
    height = HEAD + ROW * len(values) + FOOT
    return _card(height, record, database, ", ".join((*ends, unit)), _bars(values, unit))


def _bars(values: dict[str, list[float]], unit: str) -> Iterator[str]:
    longest = max(max(ends) for ends in values.values())
    left, scale = EDGE + LABELS, (WIDTH - 2 * EDGE - LABELS - VALUES) / max(longest, 1e-9)
    for place, (label, ends) in enumerate(values.items()):
        top = HEAD + ROW * place
        width, end = (max(value * scale, 1.0) for value in (ends[0], ends[-1]))
        said = f"{shown(ends[0])} {unit}" + (f", p99 {shown(ends[1])}" if len(ends) > 1 else "")
        yield f'<text x="{left - 10}" y="{top + 13}" text-anchor="end">{escape(label)}</text>'
        yield f'<rect class="{_kind(label)}" x="{left}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        if end > width:
            yield f'<path class="line {_kind(label)}" d="M{left + width:.1f} {top + BAR / 2}H{left + end:.1f}"/>'
        yield f'<text class="value" x="{left + end + 8:.1f}" y="{top + 13}">{escape(said)}</text>'


def growth(record: dict[str, Any], database: str) -> str:
    """One line for each: the time by the number of steps."""
    names = [name for name, unit in record["units"].items() if unit == "ms"]
    lengths = [int(name.split()[0]) for name in names]
    lines = {
        label: [way["figures"][name]["value"] for name in names] for label, way in record["ways"].items()
    }  # fmt: skip
    return _card(
        HEAD + 230 + FOOT + 20, record, database, "milliseconds by the number of steps", _lines(lengths, lines)
    )


def _lines(lengths: list[int], lines: dict[str, list[float]]) -> Iterator[str]:
    left, right, top, bottom = EDGE + 60, WIDTH - EDGE - 150, HEAD + 6, HEAD + 230
    longest, highest = lengths[-1], max(max(values) for values in lines.values())
    for part in (0, 0.5, 1):
        y = bottom - (bottom - top) * part
        yield f'<path class="axis" d="M{left} {y:.1f}H{right}"/>'
        yield f'<text class="quiet" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{shown(highest * part)}</text>'
    for length in lengths:
        x = left + (right - left) * length / longest
        yield f'<text class="quiet" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{length}</text>'
    ends = _apart({label: bottom - (bottom - top) * values[-1] / highest for label, values in lines.items()})
    for place, (label, values) in enumerate(lines.items()):
        points = [
            (left + (right - left) * length / longest, bottom - (bottom - top) * value / highest)
            for length, value in zip(lengths, values, strict=True)
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{_DASHES[place % len(_DASHES)]}"' if label != OURS else ""
        yield f'<path class="line {_kind(label)}"{dashes} d="M{path}"/>'
        yield from (f'<circle class="{_kind(label)}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
        yield (
            f'<text class="{"value" if label == OURS else "name"}" x="{right + 10}" y="{ends[label] + 4:.1f}">'
            f"{escape(label)}</text>"
        )


_DASHES = ("none", "6 3", "2 3", "10 3 2 3")


def _apart(heights: dict[str, float]) -> dict[str, float]:
    """Where the names stand: beside the ends of their lines, and not on one another."""
    placed: dict[str, float] = {}
    lowest = float("-inf")
    for label, height in sorted(heights.items(), key=lambda item: item[1]):
        lowest = placed[label] = max(height, lowest + 16)
    return placed


def _kind(label: str) -> str:
    return "ours" if label == OURS else "bare" if label in _BARE else "peer"


def _card(height: int, record: dict[str, Any], database: str, what: str, drawn: Iterator[str]) -> str:
    title = escape(f"{_NAMES[database]}: {record['title']}")
    better = "more is better" if set(record["units"].values()) == {"/s"} else "less is better"
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    taken = f"medians of {record['turns']} turns, {record['taken']}, load average {record['load']}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'<text class="title" x="{EDGE}" y="26">{title}</text>',
        *drawn,
        f'<text class="quiet" x="{EDGE}" y="{height - 12}">{escape(what)}: {better}; {taken}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
