from __future__ import annotations

from django.contrib import admin

from .models import Customer, Product, Sale


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    list_display = ("email", "name", "verified_at", "unlocked")


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ("sku", "name", "price", "stock")


@admin.register(Sale)
class SaleAdmin(admin.ModelAdmin):
    list_display = ("order", "product", "quantity", "total")
