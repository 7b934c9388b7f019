"""Reading and operating runs, whatever executes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..core.codec import decode_arguments, encode
from ..core.duration import Duration, micros
from ..core.ids import check_run_id, fingerprint
from ..errors import DurableError, RunNotFound, StepNotFound, WrongStatus
from ..model import Handled, Page, Run, RunStatus, SchemaState
from ..store.finding import COUNTED_AT_MOST
from ..store.link import Link
from ..store.records import Aftermath, Columns, Deed, NewRun, Origin
from .answering import Answering
from .deeds import deed_by, this_user
from .reading import filtered

__all__ = ["BULK_STATUSES", "COUNTED_AT_MOST", "Client", "this_user"]

_GRACE = 3_000_000
_UNDONE = "was rolled back: what its steps did has been undone"
BULK_STATUSES: dict[str, tuple[RunStatus, ...]] = {
    "cancel": ("pending", "running", "suspended", "paused"),
    "retry": ("failed",),
    "resume": ("paused",),
}
"""The runs that an operation on many is about where no status is named."""

Act = Callable[[Link, str], tuple[str | None, Aftermath]]
"""Does something to a run: why it could not be done, and what is to be done about other runs."""


class Client(Answering):
    """Operations on one app's runs. Every one of them can be done twice, and leaves a row in the audit log.

    ``by`` is who does it, the user of this process if nothing is said, and ``reason`` why.
    """

    def migrate(self) -> bool:
        """Make or upgrade the tables; whether there was anything to do."""
        return self._store.migrate()

    def schema(self) -> SchemaState:
        """Where the tables stand, seen from this code: ``current``, ``missing``, ``old``, or ``newer``."""
        return self._store.schema_state()

    # ------------------------------------------------------------------ act

    def cancel(
        self, run_id: str, *, force: bool = False, reason: str = "cancelled by hand", by: str | None = None
    ) -> Run:
        """Cancel a run: its body gets ``RunCancelled`` where it has come to, and may clean up with steps; its undos are
        done, and what it has called is cancelled, too. A step that is being executed is let finish before. One that has
        not begun ends at once, as does any with ``force``, which leaves its undos undone.

        Can be done twice; a run that has ended otherwise raises ``WrongStatus``.
        """
        return self._do(run_id, self._cancelling(force, reason, by))

    def pause(self, run_id: str, *, reason: str | None = None, by: str | None = None) -> Run:
        """Stop a run, until ``resume``. A step that is being executed is let finish, and recorded. Events that come
        meanwhile are kept for it."""
        return self._do(run_id, self._pausing(reason, by))

    def resume(self, run_id: str, *, reason: str | None = None, by: str | None = None) -> Run:
        """Let a paused run go on from its last recorded step, whatever it was paused for."""
        return self._do(run_id, self._resuming(reason, by))

    def retry(self, run_id: str, *, reason: str | None = None, by: str | None = None) -> Run:
        """Let a failed run go on from the step that it failed of, which has all its attempts again; finished steps are
        kept. A paused run is resumed."""
        return self._do(run_id, self._retrying(reason, by))

    def _do(self, run_id: str, act: Act) -> Run:
        with self._store.link() as link:
            refused, aftermath = act(link, run_id)
        self._follow(aftermath)
        run = self.get(run_id)
        if refused is not None:
            raise WrongStatus(refused)
        return run

    # ----------------------------------------------------------------- copy

    def fork(
        self,
        run_id: str,
        from_step: str,
        *,
        task_id: str | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Run:
        """Start a new run that reuses the steps which came before ``from_step``, and does that one and all later ones
        anew. The original is left as it is. ``task_id`` is the new run's id: with one, doing it twice starts one run.
        """
        return self._copy(Origin(run_id, from_step), task_id, deed_by("fork", reason, by))

    def replay(
        self,
        run_id: str,
        *,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        task_id: str | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Run:
        """Start a new run of the same task, with the same input or another one: ``args`` and ``kwargs`` each take the
        place of the original's, where they are given. ``task_id`` as for :meth:`fork`."""
        deed = deed_by("replay", reason, by)
        return self._copy(Origin(run_id), task_id, deed, given=(args, kwargs))

    def _copy(
        self,
        origin: Origin,
        task_id: str | None,
        deed: Deed,
        given: tuple[Iterable[Any] | None, dict[str, Any] | None] = (None, None),
    ) -> Run:
        run_id = origin.run_id
        new_id = check_run_id(task_id or self._new_id())

        def copy_of(original: Columns) -> NewRun:
            arguments = original["arguments"]
            if given != (None, None):
                args, kwargs = decode_arguments(arguments)
                args = args if given[0] is None else list(given[0])
                arguments = self._arguments(original["task"], args, kwargs if given[1] is None else given[1])
            message = self._message_of_copy(original["message"])
            return NewRun(new_id, original["task"], arguments, fingerprint(arguments), message, due_in=_GRACE)

        with self._store.link() as link:
            found = self._store.start_copy(
                link, origin, copy_of, self._with_details(deed, run=new_id, step=origin.step_id)
            )
        if found == "missing":
            raise RunNotFound(f"there is no run {run_id!r} of a durable task in {self._where()}")
        if found == "undone":
            raise WrongStatus(f"run {run_id!r} {_UNDONE}, so it can't be forked. Start it anew with replay()")
        if found == "no step":
            raise StepNotFound(
                f"run {run_id!r} has recorded no step {origin.step_id!r}, so there is nothing to fork from: "
                "Durable(app).get(...).steps lists what it has"
            )
        self._follow(Aftermath(wake=(new_id,)))
        return self.get(new_id)

    # ----------------------------------------------------------------- many

    def cancel_all(
        self,
        *,
        force: bool = False,
        reason: str = "cancelled by hand",
        by: str | None = None,
        limit: int = 1000,
        after: str | None = None,
        **which: Any,
    ) -> Page[Handled]:
        """Cancel the runs that a filter holds for, newest first: ``task``, ``status`` and the others of :meth:`runs`.

        At most ``limit`` of them; what was done to each is returned, and ``after=page.next`` goes on.
        """
        return self._each(self._cancelling(force, reason, by), which, BULK_STATUSES["cancel"], limit, after)

    def retry_all(
        self,
        *,
        reason: str | None = None,
        by: str | None = None,
        limit: int = 1000,
        after: str | None = None,
        **which: Any,
    ) -> Page[Handled]:
        """Retry the failed runs that a filter holds for, in the same way."""
        return self._each(self._retrying(reason, by), which, BULK_STATUSES["retry"], limit, after)

    def resume_all(
        self,
        *,
        reason: str | None = None,
        by: str | None = None,
        limit: int = 1000,
        after: str | None = None,
        **which: Any,
    ) -> Page[Handled]:
        """Resume the paused runs that a filter holds for, in the same way."""
        return self._each(self._resuming(reason, by), which, BULK_STATUSES["resume"], limit, after)

    def _each(
        self, act: Act, which: dict[str, Any], statuses: tuple[RunStatus, ...], limit: int, after: str | None
    ) -> Page[Handled]:
        if not any(value not in (None, [], ()) for value in which.values()):
            raise ValueError(f"which runs? Name what they have in common, such as task=... or status={statuses[0]!r}")
        unknown = set(which) - {"status", "task", "since", "until", "search", "parent", "waiting_on", "event"}
        if unknown:
            raise TypeError(f"there is no filter {sorted(unknown)[0]!r}: the filters are those of runs()")
        wanted = filtered(
            status=which.pop("status", None) or statuses,
            since=which.pop("since", None),
            until=which.pop("until", None),
            **which,
        )
        handled: list[Handled] = []
        aftermath = Aftermath()
        with self._store.link() as link:
            while True:  # a page of a search may be short, or empty, and not the last
                rows, after = self._page(wanted, limit - len(handled), after)
                for row in rows:
                    try:
                        refused, more = act(link, row["id"])
                    except RunNotFound as gone:  # forgotten meanwhile
                        refused, more = str(gone), Aftermath()
                    handled.append(Handled(run_id=row["id"], done=refused is None, why_not=refused))
                    aftermath += more
                if after is None or len(handled) == limit:
                    break
        self._follow(aftermath)
        return Page(handled, after)

    # ------------------------------------------------------------------ acts

    def _cancelling(self, force: bool, reason: str, by: str | None) -> Act:
        deed = deed_by("cancel", reason, by)
        if force:
            deed = self._with_details(deed, force=True)

        def act(link: Link, run_id: str) -> tuple[str | None, Aftermath]:
            aftermath = self._store.cancel(link, run_id, reason, force=force, deed=deed)
            if aftermath is not None:
                return None, aftermath
            status = self._status(link, run_id)
            refused = f"run {run_id!r} is {status}: it has ended and can't be cancelled any more"
            return refused if status in ("completed", "failed") else None, Aftermath()

        return act

    def _pausing(self, reason: str | None, by: str | None) -> Act:
        deed = deed_by("pause", reason, by)

        def act(link: Link, run_id: str) -> tuple[str | None, Aftermath]:
            if self._store.pause_by_hand(link, run_id, deed):
                return None, Aftermath()
            status = self._status(link, run_id)
            refused = f"run {run_id!r} is {status}: it has ended and can't be paused any more"
            return None if status == "paused" else refused, Aftermath()

        return act

    def _resuming(self, reason: str | None, by: str | None) -> Act:
        deed = deed_by("resume", reason, by)

        def act(link: Link, run_id: str) -> tuple[str | None, Aftermath]:
            if self._store.resume_by_hand(link, run_id, deed):
                return None, Aftermath(wake=(run_id,))
            status = self._status(link, run_id)
            going_on = status in ("pending", "running", "suspended")
            instead = "retry() lets a failed one go on" if status == "failed" else "replay() starts it anew"
            refused = f"run {run_id!r} is {status}: only a paused run can be resumed; {instead}"
            return None if going_on else refused, Aftermath()

        return act

    def _retrying(self, reason: str | None, by: str | None) -> Act:
        deed = deed_by("retry", reason, by)
        resume = self._resuming(reason, by)

        def act(link: Link, run_id: str) -> tuple[str | None, Aftermath]:
            found = self._store.retry_failed(link, run_id, deed)
            if found == "retried":
                return None, Aftermath(wake=(run_id,))
            if found == "paused":
                return resume(link, run_id)
            if found == "undone":
                return f"run {run_id!r} {_UNDONE}, so it can't be retried. Start it anew with replay()", Aftermath()
            if found == "missing":
                self._status(link, run_id)  # raises, unless it is an ordinary task
            going_on = found in ("pending", "running", "suspended")
            refused = (
                f"run {run_id!r} is {found}: only a failed run can be retried; fork() or replay() starts a new one"
            )
            return None if going_on else refused, Aftermath()

        return act

    def _status(self, link: Link, run_id: str) -> str:
        status = self._store.status(link, run_id)
        if status is None:
            raise self._not_found(run_id)
        return status

    # ---------------------------------------------------------------- forget

    def prune(self, older_than: Duration = "30d", *, reason: str | None = None, by: str | None = None) -> int:
        """Delete finished runs with all their rows, in batches, if they ended longer ago than that; how many there
        were. Each batch leaves a row in the audit log. Workers do this by themselves when ``durable_retention`` is
        over."""
        age, forgotten = micros(older_than), 0
        deed = deed_by("prune", reason, by)

        def deed_of(runs: int) -> Deed:
            return self._with_details(deed, older_than=str(older_than), runs=runs)

        with self._store.link() as link:
            while batch := self._store.forget_runs(link, older_than=age, deed_of=deed_of):
                forgotten += batch
        return forgotten

    # ----------------------------------------------------------------- hooks

    @staticmethod
    def _with_details(deed: Deed, **details: Any) -> Deed:
        told = {name: value for name, value in details.items() if value is not None}
        return Deed(deed.action, deed.actor, deed.reason, encode(told))

    def _follow(self, aftermath: Aftermath) -> None:
        """Other runs have something to do: they are due, and the sweeper of a worker sends their messages."""

    def _arguments(self, task: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        """A run's input as it is recorded."""
        return encode([args, kwargs], f"an argument of {task}")

    def _message_of_copy(self, message: str) -> str:
        """What is kept of a run's message for one that starts anew, and has no callbacks."""
        return message

    @staticmethod
    def _new_id() -> str:
        raise DurableError("a new run needs a task_id here")
