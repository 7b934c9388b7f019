"""The door for events: ``path("durable/", include("celery_durable.contrib.django.urls"))``."""

from __future__ import annotations

from django.urls import path

from .views import events

app_name = "celery_durable"
urlpatterns = [path("events/<str:name>", events, name="events")]
