"""Views whose transactions commit, or fail: ``{"fail": true}`` in the request's body."""

from __future__ import annotations

import json
from typing import Any

from django.db import transaction
from django.http import HttpRequest, JsonResponse

import celery_durable
from celery_durable import ConfigurationError
from celery_durable.contrib.django import emit

from .celery import tasks
from .models import Thing
from .tasks import shared


class Broken(Exception):
    """What goes wrong in a view."""


def verify(request: HttpRequest, user: str) -> JsonResponse:
    """Without a transaction."""
    celery_durable.emit("email.verified", {"user": user}, key=f"user:{user}")
    return JsonResponse({})


@transaction.atomic
def save_thing(request: HttpRequest, name: str) -> JsonResponse:
    """A row, whose signal is an event."""
    Thing(name=name).save()
    if _given(request).get("fail"):
        raise Broken("the view fails after it")
    return JsonResponse({})


@transaction.atomic
def save_and_note(request: HttpRequest, name: str) -> JsonResponse:
    """A row and an event of the view's own."""
    Thing(name=name).save()
    try:
        emit("thing.noted", _given(request).get("payload"), key=name, using=_given(request).get("using"))
    except ConfigurationError as error:
        transaction.set_rollback(True)
        return JsonResponse({"refused": str(error)}, status=409)
    if _given(request).get("fail"):
        raise Broken("the view fails after both")
    return JsonResponse({})


@transaction.atomic
def save_in_savepoint(request: HttpRequest, name: str) -> JsonResponse:
    """Both in a savepoint that is rolled back, within a transaction that commits."""
    Thing(name=f"{name}-outer").save()
    emit("thing.noted", "outer", key=f"{name}-outer")
    try:
        with transaction.atomic():
            Thing(name=f"{name}-inner").save()
            emit("thing.noted", "inner", key=f"{name}-inner")
            _wait_for().apply_async_on_commit(("thing.noted", name), task_id=f"{name}-inner", queue="unserved")
            raise Broken("the savepoint fails")
    except Broken:
        return JsonResponse({})


def start(request: HttpRequest, run: str) -> JsonResponse:
    """A row and the start of a run in one transaction; with a queue, under an id of the request's."""
    queue = _given(request).get("queue")
    try:
        with transaction.atomic():
            Thing(name=run).save()
            if queue:
                result = _wait_for().apply_async_on_commit(("thing.noted", run), task_id=run, queue=queue)
            else:
                result = _wait_for().delay_on_commit("thing.noted", run)
            if _given(request).get("fail"):
                raise Broken("the transaction fails after both")
    except Broken:
        return JsonResponse({"run": result.id}, status=500)
    return JsonResponse({"run": result.id})


def start_shared(request: HttpRequest, value: str) -> JsonResponse:
    with transaction.atomic():
        return JsonResponse({"run": shared.delay_on_commit(value).id})


def _wait_for() -> Any:
    return tasks["wait_for"]


def _given(request: HttpRequest) -> Any:
    return json.loads(request.body or b"{}")
