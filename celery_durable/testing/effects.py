"""What a body does outside of its steps, seen while it does it.

A body is executed many times; whatever it does besides calling verbs is done each time, and whatever it reads besides
recorded values may be another thing each time. Two of Python's own facilities see this: audit events, for files,
sockets and processes; and the profiler's events, of calls of built-in functions for clocks and randomness, and of
returns for sets (``unordered.py``). Of these only those count that a body has brought about: on the way up the stack
the user's code comes before this package's.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from ..engine.current import current_pass, current_step
from .passes import EnvPass
from .unordered import SET_ORDER, has_no_order, unordered_now, unordered_places

__all__ = ["SENT", "Effect", "Effects", "is_library"]

SENT = "celery.send_task"
"""An event of this package's own: in a test no socket tells that a task is sent."""
_EVENTS = {
    "socket.connect": "opens a connection",
    "socket.getaddrinfo": "looks up a host",
    "socket.sendto": "sends a datagram",
    "socket.bind": "binds a socket",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.exec": "starts a process",
    "os.fork": "forks",
    "os.remove": "deletes a file",
    "os.rename": "renames a file",
    "os.mkdir": "makes a folder",
    "os.rmdir": "deletes a folder",
    "shutil.rmtree": "deletes a folder",
    "shutil.copyfile": "copies a file",
    "sqlite3.connect": "opens a database",
    "smtplib.connect": "connects to a mail server",
    SENT: "sends a task",
}
_IN_A_STEP = "do it in a step: step.run(id, function, ...)"
_INSTEAD = {
    SENT: "call it by step.call, or send it in a step",
    "time.sleep": "step.sleep holds no worker",
    "thread": "let steps do its work; step.parallel does them at once",
    "clock": "take step.now(), or read it in a step",
    "random": "take step.random() or step.uuid4(), or draw it in a step",
    SET_ORDER: "its order is another one in every process: sort it",
}
"""What to do instead of an effect, or of one of its kind."""
_CLOCKS = {
    ("time", name) for base in ("time", "monotonic", "perf_counter", "process_time") for name in (base, f"{base}_ns")
} | {("time", "gmtime"), ("time", "localtime"), ("time", "ctime"), ("time", "strftime")}
_DATES = frozenset({"now", "utcnow", "today"})
_DRAWS = frozenset({"random", "getrandbits"})
_ENTROPY = {("posix", "urandom"), ("nt", "urandom"), ("posix", "getrandom"), ("_uuid", "generate_time_safe")}
_THREADS = {("_thread", "start_new_thread"), ("_thread", "start_joinable_thread")}

# Modules that may look at a clock, and some that may open a file, while they do what they are asked for.
_MAY_WRITE = frozenset({"importlib", "linecache", "logging", "warnings"})
_MAY_READ = _MAY_WRITE | frozenset(
    {"asyncio", "billiard", "celery", "concurrent", "kombu", "pydantic", "queue", "selectors", "sqlalchemy"}
    | {"threading", "_pytest", "pluggy", "traceback", "inspect", "unittest"}
)
_MAY_START = _MAY_WRITE | frozenset({"asyncio", "concurrent"})
_PACKAGE = "celery_durable"
_SENDING = frozenset({f"{_PACKAGE}.testing.wire", f"{_PACKAGE}.worker.message", f"{_PACKAGE}.worker.task"})
"""What is between whoever sends a task and its message, also where that is a body."""


@dataclass(frozen=True)
class Effect:
    """Something that a body did outside of a step."""

    what: str
    file: str
    line: int
    function: str
    source: str
    """What it is called: an audit event such as ``socket.connect``, or a function such as ``time.time``."""
    instead: str = _IN_A_STEP

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f"{self.function}() {self.what} ({self.source}) outside of a step, at {where}: {self.instead}"


class Effects:
    """Collects what bodies do, while it is watching."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self.found: dict[tuple[str, int, str], Effect] = {}
        self._allowed = tuple(allowed)

    def note(self, what: str, source: str, frame: FrameType | None, quiet: frozenset[str], kind: str = "") -> None:
        """Keep it, if a body has brought it about."""
        if not _in_a_body():
            return
        guilty = _user_frame(frame, quiet)
        if guilty is not None:
            self._keep(what, source, guilty.f_code, guilty.f_lineno, kind)

    def _keep(self, what: str, source: str, code: CodeType, line: int, kind: str = "") -> None:
        instead = _INSTEAD.get(source) or _INSTEAD.get(kind, _IN_A_STEP)
        effect = Effect(what, code.co_filename, line, code.co_name, source, instead)
        if not self.allows(effect):
            self.found.setdefault((effect.file, effect.line, source), effect)

    def allows(self, effect: Effect) -> bool:
        """Whether this was said to be as it should be: by what is called, or by the function that calls it."""
        return effect.source in self._allowed or effect.function in self._allowed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at what happens meanwhile."""
        _install_audit_hook()
        others = sys.getprofile()
        _watchers.append(self)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(others)
            _watchers.remove(self)

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            self._called(frame, arg)
        elif event == "return":
            if not is_library(frame.f_code.co_filename):
                self._look_for_sets(frame)
            if has_no_order(arg) and frame.f_back is not None:
                self._look_for_sets(frame.f_back, returned_by=frame.f_code.co_name)

    def _called(self, frame: FrameType, function: Any) -> None:
        found = _reads(function) if getattr(function, "__name__", None) in _NAMES else None
        if found is not None:
            kind, source = found
            self.note(_DOES[kind], source, frame, _MAY_START if kind == "thread" else _MAY_READ, kind)

    def _look_for_sets(self, frame: FrameType, returned_by: str | None = None) -> None:
        """Whether the user's function, which is about to return or has got a set from another one, goes through it."""
        code = frame.f_code
        if not _in_a_body() or _user_frame(frame, frozenset()) is not frame:
            return
        for line in (*unordered_places(code), *unordered_now(frame, returned_by)):
            self._keep("goes through a set", SET_ORDER, code, line)


def _in_a_body() -> bool:
    return isinstance(current_pass.get(), EnvPass) and current_step.get() is None


_DOES = {
    "clock": "reads the clock",
    "random": "draws something random",
    "sleep": "sleeps",
    "thread": "starts a thread",
}


_NAMES = {name for _, name in _CLOCKS | _ENTROPY | _THREADS} | _DATES | _DRAWS | {"sleep"}


def _reads(function: Any) -> tuple[str, str] | None:
    """Of which kind a built-in function is that a body should not call, and its name."""
    name, module = getattr(function, "__name__", None), getattr(function, "__module__", None)
    if (module, name) in _CLOCKS:
        return "clock", f"{module}.{name}"
    if (module, name) == ("time", "sleep"):
        return "sleep", "time.sleep"
    if (module, name) in _THREADS:
        return "thread", "threading"
    if (module, name) in _ENTROPY:
        return "random", f"os.{name}" if name == "urandom" else f"uuid.{name}"
    owner = getattr(function, "__self__", None)
    if name in _DATES and isinstance(owner, type) and owner.__module__ == "datetime":
        return "clock", f"datetime.{name}"
    if name in _DRAWS and type(owner).__module__ in ("random", "_random"):
        return "random", f"random.{name}"
    return None


def _user_frame(frame: FrameType | None, quiet: frozenset[str]) -> FrameType | None:
    """The user's code that brought this about; ``None`` where it was this package, or one that may."""
    collecting = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in collecting:
            return None  # Python collects garbage, whoever is being executed
        module = str(frame.f_globals.get("__name__") or "")
        top = module.partition(".")[0]
        if top == _PACKAGE or top in quiet:
            return None
        if not is_library(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


@cache
def is_library(file: str) -> bool:
    """Whether this is Python's own, installed, or this package: whoever has called it has brought it about."""
    if file.startswith("<frozen"):
        return True
    paths = sysconfig.get_paths()
    roots = {os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.add(str(Path(__file__).resolve().parent.parent))
    real = os.path.realpath(file)
    return any(real.startswith(root + os.sep) for root in roots)


# ------------------------------------------------------------------ audit events

_watchers: list[Effects] = []
_hooked = False


def _install_audit_hook() -> None:
    """Once in a process: an audit hook can't be taken away. While nobody watches it does nothing."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watchers:
        return
    what = _EVENTS.get(event)
    if what is None and event == "open" and _writes(args):
        what = f"opens {args[0]!r} for writing"
    if what is not None:
        frame: FrameType | None = sys._getframe(1)
        while event == SENT and frame is not None and _is_sending(frame):
            frame = frame.f_back
        for watcher in _watchers:
            watcher.note(what, event, frame, _MAY_WRITE)


def _is_sending(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return module in _SENDING or module.partition(".")[0] == "celery"


def _writes(args: tuple[Any, ...]) -> bool:
    path, mode, flags = args
    if isinstance(path, int) or str(path).startswith(os.devnull):
        return False
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
