"""Rows that somebody wrote who wants code of his to run: nothing is imported, called or unpickled because of a row."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

NAMES = [
    "a_trap:Error", "a_trap_package:Error", "a_trap_package.inner:Error", "loaded.not_yet:Error", "loaded.lazy:Error",
    "loaded:not_yet.Error", "loaded:Factory.made", "loaded:Meta.anything", "loaded:build", "loaded:Quiet", "os:system",
    "builtins:eval", "builtins:__import__", "builtins:ValueError.__init__", "subprocess:Popen",
    "loaded:Error.__class__", "antigravity:x", "celery.__main__:main", "__main__:app", "loaded:Base",
]  # fmt: skip

LOADED = """
    import sys
    TOLD = []
    class Error(Exception): pass
    class Base(BaseException):
        def __init__(self, *args): TOLD.append("a BaseException was made")
    class Meta(type):
        def __getattr__(cls, name): TOLD.append("a metaclass was asked"); return Error
        def __call__(cls, *args): TOLD.append("a class was called")
    class Factory(metaclass=Meta): pass
    class Quiet:
        def __init__(self, *args): TOLD.append("made")
        def __setstate__(self, state): TOLD.append("unpickled")
    def build(*args): TOLD.append("called"); return Error()
    class Careful(Exception):
        @property
        def guarded(self): return 1
        @guarded.setter
        def guarded(self, value): TOLD.append("a property was set")
    def __getattr__(name):
        TOLD.append("a lazy module was asked")
        raise AttributeError(name)
"""

READING = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from celery import Celery
    from celery_durable import DurableTask, step
    from celery_durable.testing import DurableEnv
    from celery_durable.core.faults import read_error, summary
    from celery_durable.core.codec import decode
    from celery_durable.client.histories import read_history
    from celery_durable.worker.message import ignores_result, queue_of
    from celery_durable.worker.sending import Sender
    from tests.fuzz.damaging import damage
    import json, loaded

    app = Celery("t", broker="memory://", backend="cache+memory://", set_as_current=False)
    def refuse(): raise ValueError("no")

    @app.task(base=DurableTask)
    def work():
        try:
            step.run("bad", refuse)
        except Exception as error:
            message = type(error).__name__
        step.wait_for_event("go")
        return message

    given = json.load(sys.stdin)
    with DurableEnv(app) as env:  # all that the package itself imports lazily is there before the watch begins
        env.start(work); env.emit("go"); env.durable.get(env.runs[0].id)
        queue_of(app, work.name, env.store.link().__enter__().run(
            lambda at: at.execute(env.store.tables.input.select()).first()).message)

    watched = []
    TRAPS = ("a_trap", "a_trap_package", "loaded", "antigravity", "celery")
    NEVER = ("os.system", "subprocess.Popen", "pickle.find_class", "exec", "os.exec", "os.posix_spawn")
    def watch(event, args):
        if event in NEVER or (event == "import" and args[0].partition(".")[0] in TRAPS):
            watched.append((event, str(args[0])[:100]))
    before = set(sys.modules)
    sys.addaudithook(watch)
    def quietly(read):
        try:
            return read()
        except Exception as error:
            return error
    for text in given["errors"]:
        error = quietly(lambda: read_error(text))
        assert isinstance(error, Exception), error
        quietly(lambda: summary(text))
    for text in given["values"]:
        quietly(lambda: decode(text))
        quietly(lambda: read_history(text))
    for text in given["messages"]:
        quietly(lambda: queue_of(app, work.name, text))
        quietly(lambda: ignores_result(app, work.name, text))
    for text in given["errors"]:
        with DurableEnv(app) as env:  # and by a whole pass
            run = env.start(work)
            damage(env.store, "step", "error", text, run_id=run.id, id="bad")
            damage(env.store, "step", "status", "failed", run_id=run.id, id="bad")
            env.emit("go")
            env.durable.get(run.id)
    new = {name for name in set(sys.modules) - before if name.partition(".")[0] in TRAPS}
    print(json.dumps({"watched": watched, "told": loaded.TOLD, "new": sorted(new)}))
"""


class Harm:
    def __reduce__(self) -> Any:
        return __import__, ("a_trap",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Modules that could be imported and say so, and one that is."""
    harm = "raise SystemExit('imported because of a row')"
    (tmp_path / "a_trap.py").write_text(harm)
    for package in ("a_trap_package", "loaded"):
        (tmp_path / package).mkdir()
    (tmp_path / "a_trap_package" / "__init__.py").write_text(harm)
    (tmp_path / "a_trap_package" / "inner.py").write_text(harm)
    (tmp_path / "loaded" / "__init__.py").write_text(textwrap.dedent(LOADED))
    (tmp_path / "loaded" / "not_yet.py").write_text(harm)
    return tmp_path


def test_no_row_has_code_imported_called_or_unpickled(folder: Path) -> None:
    pickled = base64.b64encode(pickle.dumps(Harm())).decode()
    states = [{}, {"guarded": "1"}, {"__class__": '"loaded.Quiet"', "__dict__": "{}", "__reduce__": "1"}]
    given = ['["echo harm"]', "[]", json.dumps([{"$": "pickle", "v": pickled}])]
    errors = [
        json.dumps({"type": name, "message": "m", "args": args, "state": state, "notes": [], "lost": []})
        for name in [*NAMES, "loaded:Careful"]
        for args, state in zip(given, states, strict=True)
    ]
    values = [
        json.dumps({"$": tag, "v": value})
        for tag in ("pickle", "py/object", "model", "enum", "event", "a_trap:Error")
        for value in (pickled, "a_trap.Error", {"__class__": "a_trap.Error"})
    ]
    messages = [
        json.dumps({"type": kind, "encoding": "binary", "body": pickled, "base64": True})
        for kind in ("application/x-python-serialize", "pickle", "application/json", "application/x-yaml")
    ]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READING), str(folder)],
        input=json.dumps({"errors": errors, "values": values, "messages": messages}),
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"watched": [], "told": [], "new": []}
