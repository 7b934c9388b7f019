"""``python -m tests.histories.record``: keep histories of this version. Those of earlier ones are not touched."""

from __future__ import annotations

from pathlib import Path

import celery_durable
from celery_durable.testing import DurableEnv

from .workflows import RECORDED

FOLDER = Path(__file__).parent


def main() -> None:
    folder = FOLDER / ".".join(celery_durable.__version__.split(".")[:2])
    folder.mkdir(exist_ok=True)
    for name, play in RECORDED.items():
        with DurableEnv(now="2026-11-21T12:00:00Z") as env:
            run = play(env)
            (folder / f"{name}.json").write_text(env.export(run), encoding="utf-8")


if __name__ == "__main__":
    main()
