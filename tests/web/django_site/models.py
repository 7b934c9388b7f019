from __future__ import annotations

from django.db import models


class Thing(models.Model):
    """A row of the site's own."""

    name = models.CharField(max_length=100)

    class Meta:
        db_table = "thing"
        managed = False  # the tests make the table
