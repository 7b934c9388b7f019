"""Threads for the attempts of one block: greenlets where gevent or eventlet has taken the place of threads."""

from __future__ import annotations

import contextvars
import queue
import threading

from .branch import Attempt, Branch

__all__ = ["Crew", "Job"]


class Job:
    """An attempt that is under way on a thread of its own."""

    def __init__(self, branch: Branch, attempt: Attempt) -> None:
        self.branch = branch
        self.attempt = attempt
        self.error: BaseException | None = None

    def raise_error(self) -> None:
        """Raise here what no attempt keeps to itself: what carries the pass out of the body, an interrupt."""
        if self.error is not None:
            raise self.error


class Crew:
    """Starts attempts and hands over those that have ended."""

    def __init__(self, *, uses_threads: bool = True) -> None:
        self._uses_threads = uses_threads
        # Not a SimpleQueue, which is written in C and knows of no greenlets.
        self._ended: queue.Queue[Job] = queue.Queue()
        self.busy: dict[str, Job] = {}

    def start(self, branch: Branch, attempt: Attempt) -> None:
        """Begin an attempt, with a copy of this thread's context variables."""
        job = Job(branch, attempt)
        self.busy[branch.id] = job
        context = contextvars.copy_context()
        if not self._uses_threads:
            self._work(job, context)
            return
        name = f"celery-durable {branch.id}"[:60]
        threading.Thread(target=self._work, args=(job, context), name=name, daemon=True).start()

    def _work(self, job: Job, context: contextvars.Context) -> None:
        try:
            context.run(job.attempt.call)
        except BaseException as error:
            job.error = error
        finally:
            self._ended.put(job)

    def ended(self, seconds: float | None) -> list[Job]:
        """All that have ended; waits for the first, but not longer than this."""
        found: list[Job] = []
        try:
            found.append(self._ended.get(timeout=seconds))
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        # What was abandoned is not busy any more, and not heard.
        return [job for job in found if self.busy.pop(job.branch.id, None) is not None]
