from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from . import views

urlpatterns = [
    path("", views.sign_up, name="sign-up"),
    path("signed-up/", views.signed_up, name="signed-up"),
    path("verify/<str:token>/", views.verify, name="verify"),
    path("reports/", views.reports, name="reports"),
    path("reports/new/", views.new_report, name="new-report"),
    path("admin/", admin.site.urls),
    path("operate/", include("celery_durable.contrib.django.console")),  # for the staff
]
