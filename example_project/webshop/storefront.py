"""The Flask storefront: products, orders, the door for the payment service, and a console.

It keeps its orders with Flask-SQLAlchemy, in the database that Django has as its default one. How far an order has come
is not among them: that is asked of its run.
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID, uuid4

import django
from flask import Flask, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import IntegrityError

from celery_durable import Durable, RunNotFound, StartConflict, WrongStatus
from celery_durable.contrib.flask import console_blueprint, events_blueprint

from .celery import app as celery
from .settings import DATABASE_URL, SITE_URL

django.setup()  # the tasks use its models: they are started here from the same code that the worker executes

from .workflows import Order, process_order  # noqa: E402

durable = Durable(celery)
site = Flask(__name__)
site.config["SQLALCHEMY_DATABASE_URI"] = DATABASE_URL
site.jinja_env.globals["site_url"] = SITE_URL
db = SQLAlchemy(site)
site.register_blueprint(events_blueprint(celery), url_prefix="/hooks")  # /hooks/events/payment.settled
site.register_blueprint(console_blueprint(celery), url_prefix="/console")  # with the tokens of settings.py


class Product(db.Model):  # type: ignore[name-defined]
    """Django's table."""

    __tablename__ = "webshop_product"
    sku = db.Column(db.String, primary_key=True)
    name = db.Column(db.String)
    price = db.Column(db.Numeric(8, 2))
    stock = db.Column(db.Integer)


class PlacedOrder(db.Model):  # type: ignore[name-defined]
    __tablename__ = "storefront_order"
    id = db.Column(db.String(40), primary_key=True)
    placed_at = db.Column(db.DateTime, nullable=False, server_default=db.func.now())
    what = db.Column(db.String(200), nullable=False)


def create_tables() -> None:
    with site.app_context():
        db.metadata.create_all(db.engine, tables=[PlacedOrder.__table__])


@site.get("/")
def shelf() -> ResponseReturnValue:
    products = db.session.scalars(db.select(Product).order_by(Product.sku)).all()
    placed = db.session.scalars(db.select(PlacedOrder).order_by(PlacedOrder.placed_at.desc()).limit(10)).all()
    return render_template("storefront/shelf.html", products=products, placed=placed, status_of=status_of, new_id=uuid4)


@site.post("/orders")
def place() -> ResponseReturnValue:
    form = request.form
    product = db.get_or_404(Product, form.get("sku", ""))
    try:
        order = Order(
            id=str(UUID(form.get("id", ""))),  # made by the form: sent twice by a double click, it is one order
            email=form.get("email", ""),
            sku=product.sku,
            quantity=form.get("quantity", 0, type=int),
            price=product.price,
        )
    except ValueError as error:
        abort(400, str(error))
    try:
        db.session.add(PlacedOrder(id=order.id, what=f"{order.quantity} x {product.name} for {order.email}"))
        process_order.apply_async((order,), task_id=order.id, session=db.session)
        db.session.commit()  # the row and the run, or neither
    except (IntegrityError, StartConflict):
        db.session.rollback()
    return redirect(url_for("show", order_id=order.id))


@site.get("/orders/<order_id>")
def show(order_id: str) -> ResponseReturnValue:
    placed = db.get_or_404(PlacedOrder, order_id)
    try:
        run = durable.get(order_id)
    except RunNotFound:  # older than durable_retention
        abort(404)
    return render_template("storefront/order.html", placed=placed, run=run, over=run.finished_at is not None)


@site.post("/orders/<order_id>/cancel")
def cancel(order_id: str) -> ResponseReturnValue:
    placed = db.get_or_404(PlacedOrder, order_id)
    with suppress(RunNotFound, WrongStatus):  # over already
        durable.cancel(placed.id, reason="the customer has cancelled the order")
    return redirect(url_for("show", order_id=order_id))


def status_of(order_id: str) -> str:
    try:
        return durable.get(order_id, values=False).status
    except RunNotFound:
        return "long ago"
