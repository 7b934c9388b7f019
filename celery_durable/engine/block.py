"""``step.parallel`` and ``step.race``: which branches there are, and when that is enough.

A block is a tree: its members are branches, and blocks in it. Nothing is done until the outermost block is left;
then ``together.py`` brings its branches to their answers. What is here is a function of the history: the answers that
there are, in the order in which they were given, decide whether a block is over, on the first pass and on every later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..core.ids import MAX_ID
from ..errors import DurableError, RunCancelled, StepCancelled, add_note
from .branch import Branch

__all__ = ["Future", "Group", "Leaf", "Member", "Policy"]

T = TypeVar("T")


class Future(Generic[T]):
    """The answer of a branch. After its block all are done."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._closed = False
        self._value: T | None = None
        self._error: BaseException | None = None

    @property
    def id(self) -> str:
        """The step's id."""
        return self._member.id

    def done(self) -> bool:
        """Whether its block is over."""
        return self._closed

    def cancelled(self) -> bool:
        """Whether it was given up: a sibling failed, or the block was over without it."""
        return self._closed and isinstance(self._error, StepCancelled)

    def result(self) -> T:
        """The step's value; raises its error, or ``StepCancelled``."""
        self._check_closed()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def exception(self) -> BaseException | None:
        """The step's error, or ``None``."""
        self._check_closed()
        return self._error

    def _check_closed(self) -> None:
        if not self._closed:
            raise DurableError(
                f"the future of step {self.id!r} was asked before the end of its block: its branches run when the "
                "block is left. Ask after the with statement"
            )

    def _close(self) -> None:
        try:
            self._value = self._member.answer()
        except Exception as error:
            self._error = error
        self._closed = True

    def __repr__(self) -> str:
        state = "open" if not self._closed else "cancelled" if self.cancelled() else "done"
        return f"<Future of step {self.id!r}: {state}>"


class Member(Protocol):
    """What a block is made of."""

    id: str

    def join(self, group: Group) -> None:
        """It is a member of this block."""

    def place(self) -> int | None:
        """Where its end stands in the order of all answers; ``None`` while it has none."""

    def failure(self) -> BaseException | None:
        """How it failed, once it has ended."""

    def answer(self) -> Any:
        """Its value, or its error is raised."""

    def leaves(self) -> Iterator[Leaf]:
        """All branches in it."""

    def wanted(self) -> Iterator[Leaf]:
        """The branches that are to be at work now."""

    def close(self) -> None:
        """The outermost block is over: the futures have their answers."""


class Leaf:
    """A branch as a member of a block."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.id = branch.id
        self.future: Future[Any] = Future(self)
        self._error: BaseException | None = None

    def join(self, group: Group) -> None:
        self.branch.block = group

    def place(self) -> int | None:
        record = self.branch.run.history.get(self.id)
        return record.seen if record is not None and self.branch.is_done() and record.status != "cancelled" else None

    def failure(self) -> BaseException | None:
        record = self.branch.run.history[self.id]
        if record.status == "failed" and self._error is None:
            self._error = self.branch.error()
        return self._error

    def answer(self) -> Any:
        if not self.branch.is_done():
            raise self.branch.cancelled_error()
        if self._error is not None:
            raise self._error
        return self.branch.answer()

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def wanted(self) -> Iterator[Leaf]:
        if not self.branch.is_done():
            yield self

    def close(self) -> None:
        self.future._close()


@dataclass(frozen=True)
class Policy:
    """When a block is over."""

    limit: int | None = None
    settle: bool = False
    min_done: int | None = None
    max_failed: int | None = None
    first: bool = False
    """The first that ends ends it: a race."""

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("min_done", 1), ("max_failed", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}={value!r}: a whole number from {least} on is expected")

    def tolerated(self, members: int) -> int:
        """How many members may fail without the block failing."""
        if self.max_failed is not None:
            return self.max_failed
        if self.settle:
            return members
        return members - self.min_done if self.min_done is not None else 0


class Group:
    """A block, as far as it is a matter of its members."""

    def __init__(self, kind: str, id: str, policy: Policy, then: Callable[[Group], Any] | None = None) -> None:
        self.kind = kind
        self.id = id
        self.policy = policy
        self.members: list[Member] = []
        self.future: Future[Any] = Future(self)
        self._around: Group | None = None
        self._path: str | None = None
        self._then = then
        self._verdict: tuple[int, BaseException | None] | None = None
        self._ended: dict[int, int] = {}
        """The members that have ended, by their number, with their places in the order."""
        self._at_work: list[int] | None = None
        """The members that can have ended since the last look; at the first look, all."""
        self._first_open = 0

    def add(self, member: Member) -> None:
        """One member more."""
        member.join(self)
        self.members.append(member)

    def path(self) -> str:
        """How the rows of its branches tell it, after those around it: by its kind and the position of its first
        branch. Asked once all have been added. What is nested so deep that it can't be told is told as what is around
        it."""
        if self._path is None:
            first = next(self.leaves())
            own = f"{self.kind}:{first.branch.run.recorded_position(first.id)}"
            around = "" if self._around is None else self._around.path()
            path = f"{around}/{own}" if around else own
            self._path = path if len(path) <= MAX_ID else around
        return self._path

    # ----------------------------------------------------------------- verdict

    def verdict(self) -> tuple[int, BaseException | None] | None:
        """The place at which the block was over, and how it failed, if it did; ``None`` while it goes on."""
        if self._verdict is None and self._has_news():
            ended = sorted((place, number) for number, place in self._ended.items())
            self._verdict = self._decide([(place, self.members[number]) for place, number in ended])
        return self._verdict

    def _has_news(self) -> bool:
        first = self._at_work is None
        looked_at = range(len(self.members)) if self._at_work is None else self._at_work
        news = {number: place for number in looked_at if (place := self.members[number].place()) is not None}
        self._ended |= news
        self._at_work = [number for number in looked_at if number not in news]
        return first or bool(news)

    def _decide(self, ended: list[tuple[int, Member]]) -> tuple[int, BaseException | None] | None:
        policy, total = self.policy, len(self.members)
        failed: list[Member] = []
        for number, (place, member) in enumerate(ended, start=1):
            error = member.failure()
            failed += [member] if error is not None else []
            if policy.first:
                return place, None
            if error is not None and len(failed) > policy.tolerated(total):
                return place, None if policy.settle else _told(error, failed)
            if policy.min_done is not None and number - len(failed) >= policy.min_done:
                return place, None
        if len(ended) == total:
            return ended[-1][0] if ended else 0, None
        return None

    @property
    def winner(self) -> Future[Any] | None:
        """The future of the member that ended first, once the block is over."""
        if self.verdict() is None or not self._ended:
            return None
        return _future_of(self.members[min(self._ended, key=self._ended.__getitem__)])

    # ------------------------------------------------------------- as a member

    def join(self, group: Group) -> None:
        self._around = group

    def place(self) -> int | None:
        verdict = self.verdict()
        return None if verdict is None else verdict[0]

    def failure(self) -> BaseException | None:
        verdict = self.verdict()
        return None if verdict is None else verdict[1]

    def answer(self) -> Any:
        if self.verdict() is None:
            raise StepCancelled(f"the block {self.id!r} was cancelled: the one around it was over without it")
        error = self.failure()
        if error is not None:
            raise error
        return None if self._then is None else self._then(self)

    def leaves(self) -> Iterator[Leaf]:
        for member in self.members:
            yield from member.leaves()

    def wanted(self) -> Iterator[Leaf]:
        if self.verdict() is not None:
            return
        while self._first_open in self._ended:
            self._first_open += 1
        at_work: list[int] = []
        for number in range(self._first_open, len(self.members)):
            if number in self._ended:
                continue
            if self.policy.limit is not None and len(at_work) >= self.policy.limit:
                break
            at_work.append(number)
            yield from self.members[number].wanted()
        self._at_work = at_work

    def lost(self, first: bool = False) -> Iterator[tuple[Leaf, bool]]:
        """The branches of blocks that are over, and whether a race was: those of the others that run are waited for."""
        first = first or (self.policy.first and self.verdict() is not None)
        for member in self.members:
            if isinstance(member, Group):
                yield from member.lost(first)
            elif isinstance(member, Leaf) and self.verdict() is not None:
                yield member, first

    def needs_all(self) -> bool:
        """Whether every answer is needed, so that one alone is no reason to look."""
        return (
            not self.policy.first
            and self.policy.min_done is None
            and self.policy.limit is None
            and all(isinstance(member, Leaf) or member.needs_all() for member in self.members)  # type: ignore[attr-defined]
        )

    def close(self) -> None:
        for member in self.members:
            member.close()
        self.future._close()


def _future_of(member: Member) -> Future[Any]:
    future: Future[Any] = member.future  # type: ignore[attr-defined]
    return future


def _told(error: BaseException, failed: Iterable[Member]) -> BaseException:
    """The error that ends a block, with the others that there were."""
    others = [member.id for member in failed][:-1]
    if others and not isinstance(error, RunCancelled):
        add_note(error, f"celery_durable: in the same block failed before: {', '.join(map(repr, others[:20]))}")
    return error
