"""The beat of a test: it starts what schedules say, as far as the test lets time pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.duration import as_datetime, moment
from ..errors import ConfigurationError
from ..worker.schedules import next_tick, schedules_of, tick_id
from .clock import Clock

__all__ = ["Beat"]


@dataclass
class _Ticking:
    task: Any
    number: int
    trigger: Any
    due_at: int


class Beat:
    """The schedules that are followed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ticking: list[_Ticking] = []

    def follow(self, task: Any) -> None:
        """Start the runs of a task that its ``on_schedule`` triggers say, from now on."""
        schedules = schedules_of(task.triggers)
        if not schedules:
            raise ConfigurationError(f"the task {task.name} has no schedule: triggers=[on_schedule(...)] gives it one")
        for number, trigger in enumerate(schedules):
            self._ticking.append(_Ticking(task, number, trigger, self._after(task, trigger)))

    def _after(self, task: Any, trigger: Any) -> int:
        return int(moment(next_tick(trigger.schedule, as_datetime(self._clock.now), task.app.timezone)))

    @property
    def next_due(self) -> int | None:
        """When the next run is to be started."""
        return min((ticking.due_at for ticking in self._ticking), default=None)

    def start_due(self) -> None:
        """Start what is due."""
        for ticking in self._ticking:
            if ticking.due_at <= self._clock.now:
                task, trigger, number = ticking.task, ticking.trigger, ticking.number
                at = as_datetime(ticking.due_at)
                ticking.due_at = self._after(task, trigger)
                run_id = tick_id(task.name, trigger.schedule, number, at, task.app.timezone)
                task.apply_async(trigger.args, trigger.kwargs, task_id=run_id)
