"""Tasks to be called in the tests of calls."""

from __future__ import annotations

from celery import Celery

from celery_durable import DurableTask, step

__all__ = ["Tasks"]


class Tasks:
    """Some tasks of one app."""

    def __init__(self, app: Celery) -> None:
        @app.task(shared=False, name="add")
        def add(a: int, b: int = 0) -> int:
            return a + b

        @app.task(shared=False, name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        @app.task(shared=False, name="fails")
        def fails(message: str) -> None:
            raise ValueError(message)

        @app.task(shared=False, base=DurableTask, name="double")
        def double(value: int) -> int:
            step.sleep("nap", "1h")
            return step.run("double", lambda: value * 2)

        @app.task(shared=False, base=DurableTask, name="fails_durably")
        def fails_durably(message: str) -> None:
            step.sleep("nap", "1h")
            raise KeyError(message)

        self.add, self.total, self.fails = add, total, fails
        self.double, self.fails_durably = double, fails_durably
        app.finalize()
