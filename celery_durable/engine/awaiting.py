"""``celery_durable.aio.step``: the verbs of an ``async def`` task.

Calling a verb asks (its id is taken, its input is checked and encoded); awaiting what it returns brings the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from ..core.duration import Duration, Moment, as_datetime
from ..core.retry import Retry
from ..errors import NotInDurableTask
from ..store.records import NewTurn
from .branch import Branch
from .calls import Call
from .changing import patched, require_patch
from .control import ContinueAsNew
from .current import current_pass
from .events import Emit, EventWait, OnTimeout, Wait, WaitOptions
from .parallel import named
from .passing import Pass
from .performing import Drawn, Function
from .saying import report
from .sharing import Lock, Unlock, checked_turn, deleting, getting, incrementing, setting
from .sleeping import Sleep
from .undoing import awaited, register
from .verbs import step as sync_step
from .where import caller
from .work import Options, StepContext, Work
from .wrapping import Wrapped, decorated

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

    from ..model import Event

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


def _answer(run: Pass, branch: Branch) -> Coroutine[None, None, Any]:
    assert run.tasks is not None
    return run.tasks.complete(branch)


class AsyncVerbs:
    """The verbs that can be given options."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()

    @overload
    def run(
        self, id: str, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, T]: ...

    @overload
    def run(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[None, None, T]: ...

    def run(self, id: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[None, None, Any]:
        """Call ``fn`` and record its value. An ``async def`` function is awaited here, another one has a thread."""
        run = _pass_of("step.run")
        return _answer(run, Function(run, Work(id, "run", fn, args, kwargs, self._options)))

    def transaction(
        self, id: str, fn: Callable[Concatenate[Any, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, T]:
        """Call ``fn`` with a SQLAlchemy session on the durable database: what it writes commits with the record."""
        run = _pass_of("step.transaction")
        return _answer(run, Function(run, Work(id, "transaction", fn, args, kwargs, self._options)))

    async def on_rollback(self, id: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Have ``fn``, which may be an ``async def``, called if the run fails or is cancelled from here on."""
        run = _pass_of("step.on_rollback")
        register(run, Work(id, "undo", awaited(fn), args, kwargs, self._options))

    def call(self, id: str, signature: Any, /) -> Coroutine[None, None, Any]:
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


class AsyncStateVerbs:
    """``step.state``: each use is a step."""

    def get(self, key: str, default: Any = None) -> Coroutine[None, None, Any]:
        """The value, or the default."""
        run = _pass_of("step.state.get")
        return _answer(run, getting(run, key, default))

    def set(self, key: str, value: Any, *, ttl: Duration | None = None) -> Coroutine[None, None, None]:
        """Keep a value, for good or for a while."""
        run = _pass_of("step.state.set")
        return _answer(run, setting(run, key, value, ttl))

    def delete(self, key: str) -> Coroutine[None, None, bool]:
        """Forget a value; whether there was one."""
        run = _pass_of("step.state.delete")
        return _answer(run, deleting(run, key))

    def increment(self, key: str, by: float = 1) -> Coroutine[None, None, Any]:
        """Add to a number, which is 0 at first, and return the new one. No addition is lost."""
        run = _pass_of("step.state.increment")
        return _answer(run, incrementing(run, key, by))


def _writing(verb: str) -> Pass:
    """The pass, once what has happened before is recorded."""
    run = _pass_of(verb)
    assert run.tasks is not None
    run.tasks.keep()
    return run


@asynccontextmanager
async def _locked(run: Pass, id: str, turn: NewTurn) -> AsyncIterator[None]:
    await _answer(run, Lock(run, id, turn))
    failed = True
    try:
        yield
        failed = False
    finally:
        if run.unwinding is None:  # else the run is parked, and holds it
            await _answer(run, Unlock(run, id, failed))


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

    def sleep(self, *args: Any) -> Coroutine[None, None, None]:
        """Sleep for a duration: ``await step.sleep("cool-down", "1h")`` or ``await step.sleep("1h")``."""
        run = _pass_of("step.sleep")
        return _answer(run, Sleep.lasting(run, *named(run, "sleep", args)))

    @overload
    def sleep_until(self, id: str, when: Moment, /) -> Coroutine[None, None, None]: ...

    @overload
    def sleep_until(self, when: Moment, /) -> Coroutine[None, None, None]: ...

    def sleep_until(self, *args: Any) -> Coroutine[None, None, None]:
        """Sleep until a point in time."""
        run = _pass_of("step.sleep_until")
        return _answer(run, Sleep.till(run, *named(run, "sleep_until", args)))

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: None = None,
        on_timeout: OnTimeout = "none",
        **others: Unpack[WaitOptions],
    ) -> Coroutine[None, None, Event]: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: Duration | None = None,
        on_timeout: Literal["fail", "cancel"],
        **others: Unpack[WaitOptions],
    ) -> Coroutine[None, None, Event]: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "none",
        **others: Unpack[WaitOptions],
    ) -> Coroutine[None, None, Event | None]: ...

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
    ) -> Any:
        """Wait until an event of this name (the id, unless told) and key comes, and return it."""
        run = _pass_of("step.wait_for_event")
        wait = Wait.checked(id if event is None else event, key, timeout, on_timeout, match, form, prompt)
        return _answer(run, EventWait(run, id, wait))

    def emit(self, id: str, event: str, payload: Any = None, *, key: str | None = None) -> Coroutine[None, None, str]:
        """Publish an event, once whatever happens to the run, and return its id."""
        run = _pass_of("step.emit")
        return _answer(run, Emit(run, id, event, payload, key))

    def now(self) -> Coroutine[None, None, datetime]:
        """The time of the first pass that came here, as an aware UTC ``datetime``."""
        run = _pass_of("step.now")
        return _answer(run, Drawn(run, "now", lambda: as_datetime(run.now())))

    def random(self) -> Coroutine[None, None, float]:
        """A random number from 0 to 1, drawn once."""
        run = _pass_of("step.random")
        return _answer(run, Drawn(run, "random", random.random))

    def uuid4(self) -> Coroutine[None, None, uuid.UUID]:
        """A random UUID, drawn once."""
        run = _pass_of("step.uuid4")
        return _answer(run, Drawn(run, "uuid4", uuid.uuid4))

    @property
    def state(self) -> AsyncStateVerbs:
        """Values that outlive a run, shared by all runs of the task: ``await step.state.get("cursor")``."""
        return AsyncStateVerbs()

    def lock(self, id: str, name: str, *, ttl: Duration | None = None) -> AbstractAsyncContextManager[None]:
        """``async with step.lock("exclusive", "account-7", ttl="10m"):`` one run at a time is in the block."""
        return _locked(_pass_of("step.lock"), id, checked_turn(name, ttl))

    async def patched(self, change_id: str, /) -> bool:
        """``True`` in runs that get here for the first time, ``False`` in those that were past this point before."""
        return patched(_writing("step.patched"), change_id)

    async def deprecate_patch(self, change_id: str, /) -> None:
        """In the place of :meth:`patched`, once its old side is removed: a run that still needs that is paused."""
        require_patch(_writing("step.deprecate_patch"), change_id)

    async def set_progress(self, value: Any, total: Any = None, note: str | None = None) -> None:
        """Say how far the run has come, for whoever looks: ``Durable(app).get(run_id).progress``."""
        report(_writing("step.set_progress"), value, total, note)

    async def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Begin the body again with these arguments and an empty history, under the same run id."""
        run = _writing("step.continue_as_new")
        run.leave(ContinueAsNew(run.dispatcher.arguments(args, kwargs)))

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
