"""All that the shop needs before its first customer; again and again, if you like."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, call_command

from ... import storefront


class Command(BaseCommand):
    help = "Make the tables, those of runs and events among them, and the user 'staff' with SHOP_STAFF_PASSWORD."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        storefront.create_tables()
        if settings.STAFF_PASSWORD:
            staff, _ = get_user_model().objects.get_or_create(username="staff", is_staff=True, is_superuser=True)
            staff.set_password(settings.STAFF_PASSWORD)
            staff.save()
