from __future__ import annotations

from django.urls import include, path

from . import views

urlpatterns = [
    path("durable/", include("celery_durable.contrib.django.urls")),
    path("verify/<user>", views.verify),
    path("things/<name>", views.save_thing),
    path("savepoints/<name>", views.save_in_savepoint),
    path("notes/<name>", views.save_and_note),
    path("starts/<run>", views.start),
    path("shared/<value>", views.start_shared),
]
