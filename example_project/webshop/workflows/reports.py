"""The sales of all products: one call for each, at once, on whichever workers are free."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.db.models import Sum
from pydantic import BaseModel

from celery_durable import DurableTask, step

from .. import mails
from ..celery import app
from ..models import Product, Sale


class Line(BaseModel):
    sku: str
    sold: int
    total: Decimal


@app.task(name="shop.sales_of")
def sales_of(sku: str) -> dict[str, Any]:
    """An ordinary Celery task; its answer comes back without a result backend."""
    found = Sale.objects.filter(product=sku).aggregate(sold=Sum("quantity"), total=Sum("total"))
    return {"sku": sku, "sold": found["sold"] or 0, "total": f"{found['total'] or 0:.2f}"}


@app.task(base=DurableTask, name="shop.report_sales")
def report_sales() -> list[Line]:
    skus = step.run("products", list_skus)
    with step.parallel() as p:
        sales = [p.options(returns=Line).call(f"sales-of-{sku}", sales_of.s(sku)) for sku in skus]
    lines: list[Line] = [sale.result() for sale in sales]
    step.run("mail", mails.send_report, [f"{line.sku}: {line.sold} sold, {line.total} dollars" for line in lines])
    return lines


def list_skus() -> list[str]:
    return list(Product.objects.order_by("sku").values_list("sku", flat=True))
