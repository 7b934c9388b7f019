from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.urls import include, path

from celery_durable.contrib.django.console import console_urls

urlpatterns = [
    path("admin/", admin.site.urls),
    path("sign-in/", LoginView.as_view()),
    path("ops/durable/", include("celery_durable.contrib.django.console")),
    path("<slug:team>/shift/", include(console_urls(lambda user: user.groups.filter(name="operators").exists()))),
]
