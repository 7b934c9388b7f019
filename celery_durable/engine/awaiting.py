"""``celery_durable.aio.step``: the verbs of an ``async def`` task.

Calling a verb asks (its id is taken, its input is checked and encoded); awaiting what it returns brings the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from ..core.duration import Duration, Moment, as_datetime
from ..core.retry import Retry
from ..errors import NotInDurableTask
from ..model import Event
from .branch import Branch
from .calls import Call
from .events import Emit, EventWait, OnTimeout, Wait
from .parallel import named
from .passing import Pass, current_pass
from .performing import Drawn, Function
from .sleeping import Sleep
from .verbs import Wrapped, decorated
from .verbs import step as sync_step
from .where import caller
from .work import Options, StepContext, Work

__all__ = ["AsyncStep", "step"]

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


def _pass_of(verb: str) -> Pass:
    run = current_pass.get()
    if run is None or run.tasks is None:
        place = caller()
        what = "which is not being executed as a durable task: add base=DurableTask and call it with .delay()"
        if run is not None:
            what = "which is executed as a durable task that is a def: import step from celery_durable there"
        raise NotInDurableTask(
            f"{verb} of celery_durable.aio was called in {place.code.co_name}() ({place.code.co_filename}, line "
            f"{place.line}), {what}."
        )
    run.enter(verb)
    return run


def _answer(run: Pass, branch: Branch) -> Coroutine[Any, Any, Any]:
    assert run.tasks is not None
    return run.tasks.complete(branch)


class AsyncVerbs:
    """The verbs that can be given options."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()

    @overload
    def run(
        self, id: str, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def run(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...

    def run(self, id: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call ``fn`` and record its value. An ``async def`` function is awaited here, another one has a thread."""
        run = _pass_of("step.run")
        return _answer(run, Function(run, Work(id, "run", fn, args, kwargs, self._options)))

    def transaction(
        self, id: str, fn: Callable[Concatenate[Any, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Call ``fn`` with a SQLAlchemy session on the durable database: what it writes commits with the record."""
        run = _pass_of("step.transaction")
        return _answer(run, Function(run, Work(id, "transaction", fn, args, kwargs, self._options)))

    def call(self, id: str, signature: Any, /) -> Coroutine[Any, Any, Any]:
        """Call another Celery task, executed by whichever worker takes its message."""
        run = _pass_of("step.call")
        return _answer(run, Call(run, id, run.dispatcher.target(signature, self._options.queue), self._options))

    async def map(
        self, id: str, fn: Callable[[A], Any], items: Iterable[A], /, *, limit: int | None = None
    ) -> list[Any]:
        """Call ``fn`` with each item, at once, and return the values in order: one step for each, ``id[0]`` and so on.

        ``limit`` bounds how many are at work at once. One that fails cancels the others.
        """
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"limit={limit!r}: a whole number from 1 on is expected")
        room = None if limit is None else asyncio.Semaphore(limit)

        async def one(number: int, item: A) -> Any:
            if room is None:
                return await self.run(f"{id}[{number}]", fn, item)
            async with room:
                return await self.run(f"{id}[{number}]", fn, item)

        tasks = [asyncio.ensure_future(one(number, item)) for number, item in enumerate(items)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def wrap(self, id: str, obj: T) -> T:
        """A proxy of ``obj``: every call of one of its methods is a step to be awaited, ``id.method#1`` and so on."""
        return Wrapped(id, obj, self._options, _pass_of, _answer)  # type: ignore[return-value]


class AsyncStep(AsyncVerbs):
    """The verbs. Also a decorator: ``@step`` makes each call of a function a step of its own, to be awaited."""

    def options(
        self,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        queue: str | None = None,
        at_most_once: bool = False,
    ) -> AsyncVerbs:
        """The same verbs, configured for one use."""
        return AsyncVerbs(Options(retry, timeout, returns, queue, at_most_once))

    def sleep(self, *args: Any) -> Coroutine[Any, Any, None]:
        """Sleep for a duration: ``await step.sleep("cool-down", "1h")`` or ``await step.sleep("1h")``."""
        run = _pass_of("step.sleep")
        return _answer(run, Sleep.lasting(run, *named(run, "sleep", args)))

    @overload
    def sleep_until(self, id: str, when: Moment, /) -> Coroutine[Any, Any, None]: ...

    @overload
    def sleep_until(self, when: Moment, /) -> Coroutine[Any, Any, None]: ...

    def sleep_until(self, *args: Any) -> Coroutine[Any, Any, None]:
        """Sleep until a point in time."""
        run = _pass_of("step.sleep_until")
        return _answer(run, Sleep.till(run, *named(run, "sleep_until", args)))

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
    ) -> Coroutine[Any, Any, Event | None]:
        """Wait until an event of this name (the id, unless told) and key comes, and return it."""
        run = _pass_of("step.wait_for_event")
        wait = Wait.checked(id if event is None else event, key, timeout, on_timeout, match, form, prompt)
        return _answer(run, EventWait(run, id, wait))

    def emit(self, id: str, event: str, payload: Any = None, *, key: str | None = None) -> Coroutine[Any, Any, str]:
        """Publish an event, once whatever happens to the run, and return its id."""
        run = _pass_of("step.emit")
        return _answer(run, Emit(run, id, event, payload, key))

    def now(self) -> Coroutine[Any, Any, datetime]:
        """The time of the first pass that came here, as an aware UTC ``datetime``."""
        run = _pass_of("step.now")
        return _answer(run, Drawn(run, "now", lambda: as_datetime(run.now())))

    def random(self) -> Coroutine[Any, Any, float]:
        """A random number from 0 to 1, drawn once."""
        run = _pass_of("step.random")
        return _answer(run, Drawn(run, "random", random.random))

    def uuid4(self) -> Coroutine[Any, Any, uuid.UUID]:
        """A random UUID, drawn once."""
        run = _pass_of("step.uuid4")
        return _answer(run, Drawn(run, "uuid4", uuid.uuid4))

    def current(self) -> StepContext:
        """Inside a step's function: which step, run and attempt this is."""
        return sync_step.current()

    def parallel(self, **_: Any) -> Any:
        """Not needed: asyncio has what it takes."""
        raise TypeError(
            "celery_durable.aio has no step.parallel and step.race: await asyncio.gather(step.run(...), ...), "
            "use asyncio.TaskGroup, or asyncio.wait(..., return_when=asyncio.FIRST_COMPLETED)"
        )

    race = parallel

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, Awaitable[T]]: ...

    @overload
    def __call__(
        self,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        at_most_once: bool = False,
    ) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...

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


def _decorated(fn: Callable[..., Any], options: Options) -> Callable[..., Any]:
    stepped = decorated(fn, options, _pass_of, _answer)
    if inspect.iscoroutinefunction(fn) and hasattr(inspect, "markcoroutinefunction"):
        inspect.markcoroutinefunction(stepped)
    return stepped


step = AsyncStep()
