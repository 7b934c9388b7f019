"""``python -m tests.fuzz TARGET [SECONDS]``: a target for as long as one likes, led by what the code does.

It takes atheris (``pip install -e '.[fuzz]'``, which has wheels for some versions of Python alone). What it finds it
writes into a file ``crash-...``, whose name as a further argument tries it again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["celery_durable"]):
    from . import sites  # noqa: F401 - its targets
    from .targets import TARGETS

CORPUS = Path(".fuzz")


def main() -> None:
    name, seconds, *files = [*sys.argv[1:], "60"][: max(2, len(sys.argv) - 1)]
    if name not in TARGETS:
        raise SystemExit(f"no target {name!r}: one of {', '.join(TARGETS)} is expected")
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={CORPUS}/", "-max_len=8192", "-timeout=60"]
    options.append("-len_control=0")  # a structure takes many bytes before anything of it is there
    fuzz_one = TARGETS[name].hypothesis.fuzz_one_input
    atheris.Setup([sys.argv[0], *options, *(files or [str(corpus)])], lambda data: fuzz_one(data))
    atheris.Fuzz()


main()
