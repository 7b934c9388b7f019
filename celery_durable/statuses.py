"""The statuses of runs, steps and the schema: what the store needs of the model, without pydantic."""

from __future__ import annotations

from typing import Literal

__all__ = ["FINISHED", "RunStatus", "SchemaState", "StepStatus"]

RunStatus = Literal["pending", "running", "suspended", "paused", "completed", "failed", "cancelled"]
SchemaState = Literal["missing", "old", "current", "newer"]
StepStatus = Literal["started", "waiting", "completed", "failed", "cancelled"]

FINISHED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
