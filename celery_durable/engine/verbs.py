"""``step``: the verbs of a durable task, as users write them."""

from __future__ import annotations

import functools
import random
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from ..core.duration import Duration, Moment, as_datetime
from ..core.retry import Retry
from ..errors import NotInDurableTask
from ..model import Event
from .events import OnTimeout, Wait, emit_event, wait_for
from .passing import Pass, current_pass, current_step
from .performing import perform, recorded_value, sleep_for, sleep_till
from .where import caller
from .work import Options, StepContext, Work

__all__ = ["Step", "step"]

P = ParamSpec("P")
T = TypeVar("T")


def _pass_of(verb: str) -> Pass:
    run = current_pass.get()
    if run is None:
        place = caller()
        raise NotInDurableTask(
            f"{verb} was called in {place.code.co_name}() ({place.code.co_filename}, line {place.line}), which is not "
            "being executed as a durable task: add base=DurableTask and call it with .delay() or .apply_async()."
        )
    run.enter(verb)
    return run


class Verbs:
    """The verbs that can be given options."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()

    def run(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` and record its value; a later pass returns the record without calling it."""
        return perform(_pass_of("step.run"), Work(id, "run", fn, args, kwargs, self._options))  # type: ignore[no-any-return]

    def transaction(self, id: str, fn: Callable[Concatenate[Any, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` with a SQLAlchemy session on the durable database.

        What it writes and the step's record commit together, so its effect there is exactly once.
        """
        work = Work(id, "transaction", fn, args, kwargs, self._options)
        return perform(_pass_of("step.transaction"), work)  # type: ignore[no-any-return]

    def wrap(self, id: str, obj: T) -> T:
        """A proxy of ``obj``: every call of one of its methods is a step, ``id.method#1`` and so on."""
        return Wrapped(id, obj, self._options)  # type: ignore[return-value]


class Step(Verbs):
    """The verbs. Also a decorator: ``@step`` makes each call of a function a step of its own."""

    def options(
        self,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        queue: str | None = None,
        at_most_once: bool = False,
    ) -> Verbs:
        """The same verbs, configured for one use."""
        return Verbs(Options(retry, timeout, returns, queue, at_most_once))

    @overload
    def sleep(self, id: str, duration: Duration, /) -> None: ...

    @overload
    def sleep(self, duration: Duration, /) -> None: ...

    def sleep(self, *args: Any) -> None:
        """Park the run for a duration: ``step.sleep("cool-down", "1h")`` or ``step.sleep("1h")``."""
        run = _pass_of("step.sleep")
        step_id, duration = _named(run, "sleep", args)
        sleep_for(run, step_id, duration)

    @overload
    def sleep_until(self, id: str, when: Moment, /) -> None: ...

    @overload
    def sleep_until(self, when: Moment, /) -> None: ...

    def sleep_until(self, *args: Any) -> None:
        """Park the run until a point in time; one already past returns at once."""
        run = _pass_of("step.sleep_until")
        step_id, when = _named(run, "sleep_until", args)
        sleep_till(run, step_id, when)

    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "none",
        match: Mapping[str, Any] | None = None,
        form: type[BaseModel] | None = None,
        prompt: str | None = None,
    ) -> Event | None:
        """Park the run until an event of this name (the id, unless told) and key comes, and return it.

        One that was emitted since the run started and that it has not had yet counts as well. ``match`` is a
        mapping of payload paths to values. When the time is up: ``on_timeout="none"`` returns ``None``,
        ``"fail"`` raises ``EventTimeout``, ``"cancel"`` cancels the run. With a ``form`` the payload is
        validated, and an instance of it.
        """
        run = _pass_of("step.wait_for_event")
        wait = Wait.checked(id if event is None else event, key, timeout, on_timeout, match, form, prompt)
        return wait_for(run, id, wait)

    def emit(self, id: str, event: str, payload: Any = None, *, key: str | None = None) -> str:
        """Publish an event, once whatever happens to the run, and return its id."""
        return emit_event(_pass_of("step.emit"), id, event, payload, key)

    def now(self) -> datetime:
        """The time of the first pass that came here, as an aware UTC ``datetime``."""
        run = _pass_of("step.now")
        return recorded_value(run, "now", lambda: as_datetime(run.now()))  # type: ignore[no-any-return]

    def random(self) -> float:
        """A random number from 0 to 1, drawn once."""
        return recorded_value(_pass_of("step.random"), "random", random.random)  # type: ignore[no-any-return]

    def uuid4(self) -> uuid.UUID:
        """A random UUID, drawn once."""
        return recorded_value(_pass_of("step.uuid4"), "uuid4", uuid.uuid4)  # type: ignore[no-any-return]

    def current(self) -> StepContext:
        """Inside a step's function: which step, run and attempt this is."""
        context = current_step.get()
        if context is None:
            raise NotInDurableTask(
                f"step.current() was called outside a step ({caller()}). It works in a function that step.run, "
                "step.transaction or @step calls."
            )
        return context

    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...

    @overload
    def __call__(
        self,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        at_most_once: bool = False,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]: ...

    def __call__(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        at_most_once: bool = False,
    ) -> Any:
        """Decorate a function: in a durable task each call is a step named after it, elsewhere a plain call."""
        options = Options(retry, timeout, returns, None, at_most_once)
        if fn is not None:
            return _decorated(fn, options)
        return lambda function: _decorated(function, options)


def _decorated(fn: Callable[P, T], options: Options) -> Callable[P, T]:
    name = getattr(fn, "__name__", "step")

    @functools.wraps(fn)
    def stepped(*args: P.args, **kwargs: P.kwargs) -> T:
        run = current_pass.get()
        if run is None or current_step.get() is not None:
            return fn(*args, **kwargs)
        run.enter(f"{name}()")
        work = Work(run.next_id(name), "run", fn, args, kwargs, options)
        return perform(run, work)  # type: ignore[no-any-return]

    return stepped


def _named(run: Pass, verb: str, args: tuple[Any, ...]) -> tuple[str, Any]:
    """The id and the value of a verb whose id may be left out."""
    if len(args) == 2:
        return args[0], args[1]
    if len(args) == 1:
        return run.next_id(verb), args[0]
    raise TypeError(f"step.{verb} takes an id and a value, or a value: got {len(args)} arguments")


class Wrapped:
    """Stands for an object; calling anything of it is a step."""

    def __init__(self, id: str, target: Any, options: Options) -> None:
        self.__id = id
        self.__target = target
        self.__options = options

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__target, name)
        if value is None or isinstance(value, (str, int, float, bool, bytes, list, tuple, dict, set)):
            return value
        return Wrapped(f"{self.__id}.{name}", value, self.__options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = _pass_of(f"step.wrap({self.__id!r})")
        step_id = f"{self.__id}#{run.occurrence(self.__id)}"
        return perform(run, Work(step_id, "run", self.__target, args, kwargs, self.__options))

    def __repr__(self) -> str:
        return f"<step.wrap({self.__id!r}) of {self.__target!r}>"


step = Step()
