"""What stands in for a step's function, or for a task that a step calls."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from celery import Task
from celery.canvas import Signature

from ..core.match import covers
from ..engine.work import Work
from .passes import EnvPass, Hooks, current_attempt

__all__ = ["Mock", "MockCall", "Mocks", "UnusedMock"]

NOTHING: Any = object()


class UnusedMock(AssertionError):
    """The test ended, and what a mock stands in for was never called: what it was to keep from happening may have."""


@dataclass(frozen=True)
class MockCall:
    """One call of what was mocked."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    step_id: str | None = None
    run_id: str | None = None
    attempt: int = 1


class Mock:
    """Stands in for a function or a task, and keeps what it was called with."""

    def __init__(
        self,
        target: Any,
        *,
        returns: Any = NOTHING,
        raises: BaseException | type[BaseException] | None = None,
        side_effect: Callable[..., Any] | Iterable[Any] | None = None,
        times: int | None = None,
    ) -> None:
        if sum((returns is not NOTHING, raises is not None, side_effect is not None)) > 1:
            raise TypeError(f"a mock of {_name(target)} takes one of returns=, raises= and side_effect=")
        if isinstance(target, Signature) or not (isinstance(target, str) or callable(target)):
            raise TypeError(f"env.mock was given {target!r}: a function, a Celery task or a step's id is expected")
        if raises is not None and not _is_error(raises):
            raise TypeError(f"a mock of {_name(target)} has raises={raises!r}: an exception is expected")
        if side_effect is not None and not callable(side_effect) and not isinstance(side_effect, Iterable):
            raise TypeError(
                f"a mock of {_name(target)} has side_effect={side_effect!r}: a function is expected, or a list of "
                "values and errors"
            )
        self.target = _plain(target)
        self.calls: list[MockCall] = []
        self._returns = None if returns is NOTHING else returns
        self._raises = raises
        self._function = side_effect if callable(side_effect) else None
        self._values = iter(side_effect) if isinstance(side_effect, Iterable) else None
        self._left = times

    @property
    def called(self) -> bool:
        """Whether it was called at all."""
        return bool(self.calls)

    @property
    def call_count(self) -> int:
        """How often it was called."""
        return len(self.calls)

    def __repr__(self) -> str:
        return f"<mock of {_name(self.target)}, called {len(self.calls)} times>"

    def stands_in(self, names: Iterable[str | None], function: Any) -> bool:
        """Whether this is about a step or task of one of these names, or of this function."""
        if self._left == 0:
            return False
        if isinstance(self.target, str):
            return any(name is not None and covers(self.target, name) for name in names)
        plain = _plain(function)
        return bool(self.target == plain or self.target == getattr(plain, "__func__", None))

    @property
    def is_async(self) -> bool:
        """Whether what it does instead is to be awaited."""
        return inspect.iscoroutinefunction(self._function)

    def call(self, called: MockCall) -> Any:
        """Do what it was told to do instead."""
        self.calls.append(called)
        if self._left is not None:
            self._left -= 1
        if isinstance(self._raises, BaseException):
            raise self._raises.with_traceback(None)  # without the frames of the calls before
        if self._raises is not None:
            raise self._raises
        if self._function is not None:
            return self._function(*called.args, **called.kwargs)
        if self._values is None:
            return self._returns
        try:
            value = next(self._values)
        except StopIteration:
            raise AssertionError(f"{self!r}: its side_effect has no value for one more call") from None
        if _is_error(value):
            raise value
        return value


class Mocks(Hooks):
    """The mocks of one environment."""

    def __init__(self) -> None:
        self._mocks: list[Mock] = []
        self._seen: dict[str, None] = {}
        """The names of what could have been mocked, in their order."""

    def add(self, mock: Mock) -> Mock:
        """Use this one from now on, before those that were there."""
        self._mocks.insert(0, mock)
        return mock

    def function_of(self, run: EnvPass, step_id: str, work: Work) -> Callable[..., Any]:
        self._seen.setdefault(step_id)
        mock = self.find((step_id,), work.fn)
        if mock is None:
            return work.fn

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return mock.call(MockCall(args, kwargs, step_id, run.run_id, current_attempt()))

        async def stand_in_async(*args: Any, **kwargs: Any) -> Any:
            return await stand_in(*args, **kwargs)

        return stand_in_async if mock.is_async else stand_in

    def find(self, names: Iterable[str | None], function: Any) -> Mock | None:
        """What stands in for this."""
        found = list(names)
        return next((mock for mock in self._mocks if mock.stands_in(found, function)), None)

    def saw(self, name: str) -> None:
        """A task was called that could have been mocked."""
        self._seen.setdefault(name)

    def __len__(self) -> int:
        return len(self._mocks)

    def unused(self) -> list[Mock]:
        """Those that were never called."""
        return [mock for mock in self._mocks if not mock.calls]

    def check_used(self) -> None:
        """Raise where a mock was for nothing."""
        unused = self.unused()
        if not unused:
            return
        mock = unused[-1]
        why, of_id = "", isinstance(mock.target, str)
        if of_id and any(covers(mock.target, name) for name in self._seen):
            why = " Another mock stood in for it: those that are made later come first."
        elif of_id and (like := difflib.get_close_matches(mock.target, self._seen, n=1)):
            why = f" Did you mean {like[0]!r}?"
        seen = ", ".join(repr(name) for name in list(self._seen)[:20]) or "none at all"
        raise UnusedMock(
            f"nothing was called that the mock of {_name(mock.target)} stands in for.{why} The steps and tasks that "
            f"were: {seen}"
        )


def _plain(target: Any) -> Any:
    """A function without its decorations: ``@step`` has made another one of it."""
    if isinstance(target, Task) or not callable(target):
        return target
    return inspect.unwrap(target)


def _name(target: Any) -> str:
    name: str = getattr(target, "__qualname__", None) or getattr(target, "name", None) or repr(target)
    return name


def _is_error(value: Any) -> bool:
    return isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException))
