"""``step``: the verbs of a durable task, as users write them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from ..core.duration import Duration, Moment, as_datetime
from ..core.retry import Retry
from ..errors import NotInDurableTask
from ..store.records import NewTurn
from .block import Policy
from .branch import complete
from .calls import Call
from .changing import patched, require_patch
from .control import ContinueAsNew
from .current import current_step, pass_of
from .events import Emit, EventWait, OnTimeout, Wait, WaitOptions
from .parallel import Block, mapped, named
from .passing import Pass
from .performing import Drawn, Function
from .saying import report
from .sharing import Lock, Unlock, checked_turn, deleting, getting, incrementing, setting
from .sleeping import Sleep
from .together import settle_block
from .undoing import awaited, register
from .where import caller
from .work import Options, StepContext, Work
from .wrapping import Wrapped, decorated

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

    from ..model import Event

__all__ = ["Step", "step"]

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Verbs:
    """The verbs that can be given options."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()

    def run(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` and record its value; a later pass returns the record without calling it.

        An error of ``fn`` is raised here once its attempts are used up (:class:`~celery_durable.Retry`), as its own
        type or as ``StepFailed``. Raises ``DuplicateStep`` where the id was used in this pass before, and
        ``NotSerializable`` for a value that can't be stored.
        """
        run = pass_of("step.run")
        return complete(run, Function(run, Work(id, "run", fn, args, kwargs, self._options)))  # type: ignore[no-any-return]

    def transaction(self, id: str, fn: Callable[Concatenate[Any, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` with a SQLAlchemy session on the durable database.

        What it writes and the step's record commit together, so its effect there is exactly once. ``fn`` need not
        commit; an error rolls back what it has written, and is raised here as by :meth:`run`.
        """
        run = pass_of("step.transaction")
        return complete(run, Function(run, Work(id, "transaction", fn, args, kwargs, self._options)))  # type: ignore[no-any-return]

    def call(self, id: str, signature: Any, /) -> Any:
        """Call another Celery task and return its result: a signature of a task or of a whole canvas, or a name.

        It is executed by whichever worker takes its message, and this run is parked meanwhile. Raises the error that
        it failed of, or ``CallFailed`` where that can't be rebuilt or it was cancelled; with
        ``options(timeout=...)`` ``StepTimeout``.
        """
        run = pass_of("step.call")
        return complete(run, Call(run, id, run.dispatcher.target(signature, self._options.queue), self._options))

    def on_rollback(self, id: str, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have ``fn`` called if the run fails or is cancelled from here on: the undos of a run are done in reverse
        order, each as a step with its retries."""
        run = pass_of("step.on_rollback")
        register(run, Work(id, "undo", awaited(fn), args, kwargs, self._options))

    def map(self, id: str, fn: Callable[[A], T], items: Iterable[A], /, *, limit: int | None = None) -> list[T]:
        """Call ``fn`` with each item, at once, and return the values in order: one step for each, ``id[0]`` and so on.

        ``limit`` bounds how many are at work at once.
        """
        run = pass_of("step.map")
        group = mapped(run, id, fn, items, limit, self._options)
        settle_block(run, group)
        return group.answer()  # type: ignore[no-any-return]

    def parallel(
        self,
        *,
        limit: int | None = None,
        settle: bool = False,
        min_done: int | None = None,
        max_failed: int | None = None,
    ) -> Block:
        """A block whose branches are at work at once: ``with step.parallel() as p``, and in it ``p.run(...)``.

        ``limit`` bounds how many. One that fails for good cancels the others and is raised at the end of the block,
        unless ``max_failed`` allows for so many; with ``settle`` all end, and their futures tell how. ``min_done``
        ends the block once so many have succeeded.
        """
        return Block("step.parallel", Policy(limit, settle, min_done, max_failed), self._options)

    def race(self, *, limit: int | None = None) -> Block:
        """A block that ends when its first branch does: ``with step.race() as r``; ``r.winner`` is its future.

        The others are cancelled: waits are withdrawn, called runs are cancelled, and a function that works on a thread
        is left to itself.
        """
        return Block("step.race", Policy(limit, first=True), self._options)

    def wrap(self, id: str, obj: T) -> T:
        """A proxy of ``obj``: every call of one of its methods is a step, ``id.method#1`` and so on.

        Make it anew in each pass, as the body does: the object itself is not recorded, only what its methods return.
        """
        return Wrapped(id, obj, self._options, pass_of, complete)  # type: ignore[return-value]


class StateVerbs:
    """``step.state``: each use is a step."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default."""
        run = pass_of("step.state.get")
        return complete(run, getting(run, key, default))

    def set(self, key: str, value: Any, *, ttl: Duration | None = None) -> None:
        """Keep a value, for good or, with a ``ttl``, for a while."""
        run = pass_of("step.state.set")
        complete(run, setting(run, key, value, ttl))

    def delete(self, key: str) -> bool:
        """Forget a value; whether there was one."""
        run = pass_of("step.state.delete")
        return complete(run, deleting(run, key))  # type: ignore[no-any-return]

    def increment(self, key: str, by: float = 1) -> Any:
        """Add to a number, which is 0 at first, and return the new one. No addition is lost."""
        run = pass_of("step.state.increment")
        return complete(run, incrementing(run, key, by))


@contextmanager
def _locked(run: Pass, id: str, turn: NewTurn) -> Iterator[None]:
    complete(run, Lock(run, id, turn))
    failed = True
    try:
        yield
        failed = False
    finally:
        if run.unwinding is None:  # else the run is parked, and holds it
            complete(run, Unlock(run, id, failed))


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
        """The same verbs, configured for one use: ``step.options(timeout="5s").run(...)``.

        ``retry``: how often an attempt is made, and when. ``timeout`` bounds one attempt, which fails with
        ``StepTimeout`` then. ``returns`` is the type of the result where the function has no annotation. ``queue``
        is where a call goes. ``at_most_once`` records the start before the function is called: where the worker dies
        inside, ``StepInterrupted`` is raised instead of calling it again.
        """
        return Verbs(Options(retry, timeout, returns, queue, at_most_once))

    @overload
    def sleep(self, id: str, duration: Duration, /) -> None: ...

    @overload
    def sleep(self, duration: Duration, /) -> None: ...

    def sleep(self, *args: Any) -> None:
        """Park the run for a duration: ``step.sleep("cool-down", "1h")`` or ``step.sleep("1h")``.

        A duration is ``"30s"``, ``"5m"``, ``"1h30m"``, ``"3d"``, ``"2w"``, a ``timedelta`` or a number of seconds.
        """
        run = pass_of("step.sleep")
        step_id, duration = named(run, "sleep", args)
        complete(run, Sleep.lasting(run, step_id, duration))

    @overload
    def sleep_until(self, id: str, when: Moment, /) -> None: ...

    @overload
    def sleep_until(self, when: Moment, /) -> None: ...

    def sleep_until(self, *args: Any) -> None:
        """Park the run until a point in time; one already past returns at once.

        It is an aware ``datetime``, ISO 8601 with an offset, or seconds since the epoch; a naive one is a
        ``ValueError``.
        """
        run = pass_of("step.sleep_until")
        step_id, when = named(run, "sleep_until", args)
        complete(run, Sleep.till(run, step_id, when))

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: None = None,
        on_timeout: OnTimeout = "none",
        **others: Unpack[WaitOptions],
    ) -> Event: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: Duration | None = None,
        on_timeout: Literal["fail", "cancel"],
        **others: Unpack[WaitOptions],
    ) -> Event: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "none",
        **others: Unpack[WaitOptions],
    ) -> Event | None: ...

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
        """Park the run until an event of this name (the id, unless told) and key comes, and return it.

        One that was emitted since the run started and that it has not had yet counts as well. ``match`` is a
        mapping of payload paths to values. When the time is up: ``on_timeout="none"`` returns ``None``,
        ``"fail"`` raises ``EventTimeout``, ``"cancel"`` cancels the run. With a ``form`` the payload is
        validated, and an instance of it.
        """
        run = pass_of("step.wait_for_event")
        wait = Wait.checked(id if event is None else event, key, timeout, on_timeout, match, form, prompt)
        return complete(run, EventWait(run, id, wait))

    def emit(self, id: str, event: str, payload: Any = None, *, key: str | None = None) -> str:
        """Publish an event, once whatever happens to the run, and return its id.

        It wakes the runs that wait for ``event`` with this ``key``, and starts those that it triggers.
        """
        run = pass_of("step.emit")
        return complete(run, Emit(run, id, event, payload, key))  # type: ignore[no-any-return]

    def now(self) -> datetime:
        """The time of the first pass that came here, as an aware UTC ``datetime``."""
        run = pass_of("step.now")
        return complete(run, Drawn(run, "now", lambda: as_datetime(run.now())))  # type: ignore[no-any-return]

    def random(self) -> float:
        """A random number from 0 to 1, drawn once."""
        run = pass_of("step.random")
        return complete(run, Drawn(run, "random", random.random))  # type: ignore[no-any-return]

    def uuid4(self) -> uuid.UUID:
        """A random UUID, drawn once."""
        run = pass_of("step.uuid4")
        return complete(run, Drawn(run, "uuid4", uuid.uuid4))  # type: ignore[no-any-return]

    @property
    def state(self) -> StateVerbs:
        """Values that outlive a run, shared by all runs of the task: ``step.state.get("cursor")``."""
        return StateVerbs()

    def lock(self, id: str, name: str, *, ttl: Duration | None = None) -> AbstractContextManager[None]:
        """``with step.lock("exclusive", "account-7", ttl="10m"):`` one run at a time is in the block, of whatever task.

        Waiting for it parks the run. It is held while the run is parked in the block, and given back when the block is
        left, when the run ends, or when ``ttl`` is over.
        """
        return _locked(pass_of("step.lock"), id, checked_turn(name, ttl))

    def patched(self, change_id: str, /) -> bool:
        """``True`` in runs that get here for the first time, ``False`` in those that were past this point before the
        change was deployed: ``if step.patched("v2"): new() else: old()``."""
        return patched(pass_of("step.patched"), change_id)

    def deprecate_patch(self, change_id: str, /) -> None:
        """In the place of :meth:`patched`, once its old side is removed: a run that still needs that is paused."""
        require_patch(pass_of("step.deprecate_patch"), change_id)

    def set_progress(self, value: Any, total: Any = None, note: str | None = None) -> None:
        """Say how far the run has come, for whoever looks: ``Durable(app).get(run_id).progress``.

        It takes no step. What earlier passes have said is not said again.
        """
        report(pass_of("step.set_progress"), value, total, note)

    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Begin the body again with these arguments and an empty history, under the same run id.

        What it waits for and what it has called is given up, its locks are given back; its undos are forgotten. What
        is behind it in the body is not reached.
        """
        run = pass_of("step.continue_as_new")
        run.leave(ContinueAsNew(run.dispatcher.arguments(args, kwargs)))

    def current(self) -> StepContext:
        """Inside a step's function: which step, run and attempt this is. Elsewhere it raises ``NotInDurableTask``."""
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
            return decorated(fn, options, pass_of, complete)
        return lambda function: decorated(function, options, pass_of, complete)


step = Step()
