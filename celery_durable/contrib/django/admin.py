"""The runs and the events in Django's admin: to be read. What can be done to them, the console does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pprint import pformat
from typing import Any
from urllib.parse import quote

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.timezone import localtime

from ...errors import DurableError
from ...model import ErrorInfo, Run
from ...worker.durable import Durable
from .models import DurableEvent, DurableRun
from .project import celery_app, durable_alias

__all__ = ["EventAdmin", "RunAdmin"]

_COUNTED_AT_MOST = 10_000
_STEP_COLUMNS = ("step", "kind", "status", "attempts", "error")


class _BoundedPaginator(Paginator):
    """It does not count a table of millions of rows for each page of a hundred."""

    @cached_property
    def count(self) -> int:
        return int(self.object_list[:_COUNTED_AT_MOST].count())


class _ReadOnly(admin.ModelAdmin):
    """Nothing is added, changed or deleted here."""

    paginator = _BoundedPaginator
    show_full_result_count = False
    actions = None

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).using(durable_alias())


@admin.register(DurableRun)
class RunAdmin(_ReadOnly):
    """The runs."""

    list_display = ("id", "task", "status", "waiting_on", "created", "finished")
    list_filter = ("status",)
    search_fields = ("id__startswith", "task__startswith")
    ordering = ("-created_at", "-id")
    fields = (
        "console",
        "id",
        "task",
        "status",
        "waiting_on",
        "input",
        "result",
        "error",
        "steps",
        "parent_id",
        "created",
        "finished",
    )
    readonly_fields = fields

    @admin.display(ordering="created_at")
    def created(self, run: DurableRun) -> str:
        return _moment(run.created_at)

    @admin.display(ordering="finished_at")
    def finished(self, run: DurableRun) -> str | None:
        return None if run.finished_at is None else _moment(run.finished_at)

    def console(self, run: DurableRun) -> str:
        """Where it can be acted on, if the project has the console."""
        try:
            place = reverse("durable-console")
        except NoReverseMatch:
            return "not among this project's URLs"
        return format_html('<a href="{}run/{}">Open in the console</a>', place, quote(run.id, safe=""))

    def input(self, run: DurableRun) -> str:
        found = _recorded(run)
        if found is None:
            return "-"
        shown = [pformat(value) for value in found.args or ()]
        shown += [f"{name}={pformat(value)}" for name, value in (found.kwargs or {}).items()]
        return _text(", ".join(shown))

    def result(self, run: DurableRun) -> str:
        found = _recorded(run)
        return "-" if found is None or found.status != "completed" else _text(pformat(found.result))

    def error(self, run: DurableRun) -> str:
        found = _recorded(run)
        return "-" if found is None else _error(found.error)

    def steps(self, run: DurableRun) -> str:
        found = _recorded(run)
        steps = found.steps if found is not None else ()
        head = format_html_join("", "<th>{}</th>", ((name,) for name in _STEP_COLUMNS))
        body = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            ((step.id, step.kind, step.status, step.attempts, _error(step.error)) for step in steps),
        )
        return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)


@admin.register(DurableEvent)
class EventAdmin(_ReadOnly):
    """The events."""

    list_display = ("name", "key", "emitted", "dispatched", "event_id")
    search_fields = ("name__startswith", "key__startswith", "event_id__startswith")
    ordering = ("-seq",)
    fields: Sequence[str] = ("event_id", "name", "key", "emitted", "dispatched")
    readonly_fields = fields

    @admin.display(ordering="emitted_at")
    def emitted(self, event: DurableEvent) -> str:
        return _moment(event.emitted_at)

    def dispatched(self, event: DurableEvent) -> str | None:
        return None if event.dispatched_at is None else _moment(event.dispatched_at)


def _recorded(run: DurableRun) -> Run | None:
    """All that is recorded of it, with secrets taken out as everywhere; looked up once for a page."""
    if not hasattr(run, "_recorded"):
        try:
            run._recorded = Durable(celery_app()).get(run.id)
        except DurableError:  # it was deleted a moment ago
            run._recorded = None
    return run._recorded


def _moment(at: int) -> str:
    """To the second, which the formats of most languages leave out."""
    return f"{localtime(datetime.fromtimestamp(at / 1_000_000, timezone.utc)):%Y-%m-%d %H:%M:%S}"


def _text(text: str) -> str:
    return format_html('<pre style="white-space: pre-wrap; margin: 0">{}</pre>', text)


def _error(error: ErrorInfo | None) -> str:
    return "-" if error is None else _text(f"{error.type}: {error.message}")
