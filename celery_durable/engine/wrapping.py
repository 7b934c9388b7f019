"""Calls that are steps without a verb: those of a function that is decorated, and of an object that is wrapped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .branch import Branch
from .current import current_pass, current_step
from .passing import Pass
from .performing import Function
from .work import Options, Work

__all__ = ["Wrapped", "decorated"]

Asking = Callable[[str], Pass]
"""Finds the pass whose body asks by a verb, or refuses."""
Bringing = Callable[[Pass, Branch], Any]
"""Brings a branch to its answer: at once, or by what is to be awaited."""


def decorated(fn: Callable[..., Any], options: Options, asking: Asking, bringing: Bringing) -> Callable[..., Any]:
    """What ``@step`` makes of a function."""
    name = getattr(fn, "__name__", "step")

    @functools.wraps(fn)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        if current_pass.get() is None or current_step.get() is not None:
            return fn(*args, **kwargs)
        run = asking(f"{name}(), which has @step")
        return bringing(run, Function(run, Work(run.next_id(name), "run", fn, args, kwargs, options)))

    return stepped


class Wrapped:
    """Stands for an object; calling anything of it is a step."""

    def __init__(self, id: str, target: Any, options: Options, asking: Asking, bringing: Bringing) -> None:
        self.__id = id
        self.__target = target
        self.__options = options
        self.__asking = asking
        self.__bringing = bringing

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__target, name)
        if value is None or isinstance(value, (str, int, float, bool, bytes, list, tuple, dict, set)):
            return value
        return Wrapped(f"{self.__id}.{name}", value, self.__options, self.__asking, self.__bringing)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self.__asking(f"step.wrap({self.__id!r})")
        step_id = f"{self.__id}#{run.occurrence(self.__id)}"
        return self.__bringing(run, Function(run, Work(step_id, "run", self.__target, args, kwargs, self.__options)))

    def __repr__(self) -> str:
        return f"<step.wrap({self.__id!r}) of {self.__target!r}>"
