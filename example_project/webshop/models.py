"""What the shop keeps. How far an order or a sign-up has come is not here: the run knows."""

from __future__ import annotations

from django.db import models


class Customer(models.Model):
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=100)
    verified_at = models.DateTimeField(null=True)
    unlocked = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.email


class Product(models.Model):
    sku = models.CharField(max_length=20, primary_key=True)
    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.name


class Sale(models.Model):
    """What an order takes from the stock."""

    order = models.CharField(max_length=40, primary_key=True)
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField()
    total = models.DecimalField(max_digits=10, decimal_places=2)

    def __str__(self) -> str:
        return self.order
