from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models

PRODUCTS = [
    ("celeriac", "Celeriac", "2.50", 40),
    ("celery", "A bunch of celery", "1.90", 100),
    ("juicer", "A juicer", "89.00", 5),
    ("seeds", "Celery seeds", "3.20", 500),
]


def stock_up(apps, schema_editor):
    product = apps.get_model("webshop", "Product")
    for sku, name, price, stock in PRODUCTS:
        product.objects.create(sku=sku, name=name, price=price, stock=stock)


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Customer",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("email", models.EmailField(max_length=254, unique=True)),
                ("name", models.CharField(max_length=100)),
                ("verified_at", models.DateTimeField(null=True)),
                ("unlocked", models.BooleanField(default=False)),
            ],
        ),
        migrations.CreateModel(
            "Product",
            [
                ("sku", models.CharField(max_length=20, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=100)),
                ("price", models.DecimalField(decimal_places=2, max_digits=8)),
                ("stock", models.PositiveIntegerField()),
            ],
        ),
        migrations.CreateModel(
            "Sale",
            [
                ("order", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("quantity", models.PositiveIntegerField()),
                ("total", models.DecimalField(decimal_places=2, max_digits=10)),
                ("product", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="webshop.product")),
            ],
        ),
        migrations.RunPython(stock_up, migrations.RunPython.noop),
    ]
