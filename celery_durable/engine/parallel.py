"""The verbs of a block, as users write them: the same as those of ``step``, each returning a future."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from ..core.duration import Duration
from ..core.retry import Retry
from .block import Future, Group, Leaf, Policy
from .branch import Branch
from .calls import Call
from .current import pass_of
from .events import Emit, EventWait, OnTimeout, Wait, WaitOptions
from .passing import Pass
from .performing import Function
from .sleeping import Sleep
from .together import settle_block
from .work import Options, Work

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

    from ..model import Event

__all__ = ["Block", "BlockVerbs", "mapped", "named"]

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class BlockVerbs:
    """The verbs by which a block gets its branches."""

    def __init__(self, verb: str, group: Group, options: Options) -> None:
        self._verb = verb
        self._group = group
        self._options = options

    def _asked(self) -> Pass:
        return pass_of(self._verb)

    def _add(self, branch: Branch) -> Future[Any]:
        leaf = Leaf(branch)
        self._group.add(leaf)
        return leaf.future

    def _join(self, group: Group) -> Future[Any]:
        self._group.add(group)
        return group.future

    def options(
        self,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        queue: str | None = None,
        at_most_once: bool = False,
    ) -> BlockVerbs:
        """The same verbs, configured for one branch."""
        return BlockVerbs(self._verb, self._group, Options(retry, timeout, returns, queue, at_most_once))

    def run(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """A branch that calls ``fn`` on a thread of this worker."""
        return self._add(Function(self._asked(), Work(id, "run", fn, args, kwargs, self._options)))

    def transaction(
        self, id: str, fn: Callable[Concatenate[Any, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """A branch that calls ``fn`` with a session on the durable database."""
        return self._add(Function(self._asked(), Work(id, "transaction", fn, args, kwargs, self._options)))

    def call(self, id: str, signature: Any, /) -> Future[Any]:
        """A branch that calls another Celery task, executed by whichever worker takes its message."""
        run = self._asked()
        return self._add(Call(run, id, run.dispatcher.target(signature, self._options.queue), self._options))

    def map(self, id: str, fn: Callable[[A], T], items: Iterable[A], /, *, limit: int | None = None) -> Future[list[T]]:
        """A branch for each item, and the future of all their values."""
        return self._join(mapped(self._asked(), id, fn, items, limit, self._options))

    def sleep(self, *args: Any) -> Future[None]:
        """A branch that ends after a duration."""
        run = self._asked()
        return self._add(Sleep.lasting(run, *named(run, "sleep", args)))

    def sleep_until(self, *args: Any) -> Future[None]:
        """A branch that ends at a point in time."""
        run = self._asked()
        return self._add(Sleep.till(run, *named(run, "sleep_until", args)))

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: None = None,
        on_timeout: OnTimeout = "none",
        **others: Unpack[WaitOptions],
    ) -> Future[Event]: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: Duration | None = None,
        on_timeout: Literal["fail", "cancel"],
        **others: Unpack[WaitOptions],
    ) -> Future[Event]: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        event: str | None = None,
        *,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "none",
        **others: Unpack[WaitOptions],
    ) -> Future[Event | None]: ...

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
        """A branch that waits for an event."""
        wait = Wait.checked(id if event is None else event, key, timeout, on_timeout, match, form, prompt)
        return self._add(EventWait(self._asked(), id, wait))

    def emit(self, id: str, event: str, payload: Any = None, *, key: str | None = None) -> Future[str]:
        """A branch that publishes an event."""
        return self._add(Emit(self._asked(), id, event, payload, key))

    def parallel(
        self,
        *,
        limit: int | None = None,
        settle: bool = False,
        min_done: int | None = None,
        max_failed: int | None = None,
    ) -> Block:
        """A block as a branch of this one: its branches are at work with the others."""
        return Block(self._verb, Policy(limit, settle, min_done, max_failed), self._options, around=self)

    def race(self, *, limit: int | None = None) -> Block:
        """A race as a branch of this block."""
        return Block(self._verb, Policy(limit, first=True), self._options, around=self)


class Block(BlockVerbs):
    """``with step.parallel() as p`` and ``with step.race() as r``."""

    def __init__(self, verb: str, policy: Policy, options: Options, around: BlockVerbs | None = None) -> None:
        super().__init__(verb, Group("race" if policy.first else "parallel", "a block", policy), options)
        self._around = around
        self._run: Pass | None = None

    def __enter__(self) -> Block:
        self._run = self._asked()
        if self._around is not None:
            self._around._join(self._group)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An error on the way through the block: nothing of it has begun, and nothing does.
        if kind is None and self._around is None and self._run is not None:
            self._run.enter(self._verb)
            settle_block(self._run, self._group)

    @property
    def winner(self) -> Future[Any] | None:
        """After a race: the future of the branch that ended first, whether it succeeded or failed."""
        return self._group.winner

    def __repr__(self) -> str:
        return f"<{self._verb} of {len(self._group.members)} branches>"


def mapped(
    run: Pass, id: str, fn: Callable[[Any], Any], items: Iterable[Any], limit: int | None, options: Options
) -> Group:
    """The block that a map is."""
    group = Group("map", id, Policy(limit), then=_values)
    for number, item in enumerate(items):
        group.add(Leaf(Function(run, Work(f"{id}[{number}]", "run", fn, (item,), {}, options))))
    return group


def _values(group: Group) -> list[Any]:
    return [member.answer() for member in group.members]


def named(run: Pass, verb: str, args: tuple[Any, ...]) -> tuple[str, Any]:
    """The id and the value of a verb whose id may be left out."""
    if len(args) == 2:
        return args[0], args[1]
    if len(args) == 1:
        return run.next_id(verb), args[0]
    raise TypeError(f"step.{verb} takes an id and a value, or a value: got {len(args)} arguments")
