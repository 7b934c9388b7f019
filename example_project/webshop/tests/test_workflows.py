"""The workflows in memory, with a clock that the test moves: a week passes at once, and there is no worker."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from celery_durable import NonRetryable
from celery_durable.testing import DurableEnv
from example_project.webshop import payments
from example_project.webshop.models import Customer, Product, Sale
from example_project.webshop.payments import Charge
from example_project.webshop.workflows import Order, onboard, process_order, report_sales

pytestmark = pytest.mark.django_db

SEEDS = Order(id="o-1", email="ada@example.com", sku="seeds", quantity=3, price=Decimal("3.20"))
JUICERS = Order(id="o-2", email="ada@example.com", sku="juicer", quantity=2, price=Decimal("89.00"))
PAID = Charge(id="ch_1", state="paid")


def stock(sku: str) -> int:
    return Product.objects.get(sku=sku).stock


def subjects(mailoutbox: list[Any]) -> list[str]:
    return [mail.subject for mail in mailoutbox]


# -- Onboarding


def verified(env: DurableEnv, customer: Customer) -> None:
    env.emit("email.verified", {"customer": customer.pk}, key=f"customer:{customer.pk}")


def test_who_clicks_is_unlocked_and_asked_after_three_days(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    run = durable_env.start(onboard, "ada@example.com", "Ada")
    ada = Customer.objects.get(email="ada@example.com")
    assert not ada.unlocked

    verified(durable_env, ada)
    run.assert_completed("unlocked")
    ada.refresh_from_db()
    assert ada.unlocked

    durable_env.advance("3d")
    assert subjects(mailoutbox) == ["Is this your address?", "How was the free box?"]


def test_who_does_not_click_within_a_day_is_reminded(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    run = durable_env.start(onboard, "ada@example.com", "Ada")
    durable_env.advance("24h")
    assert subjects(mailoutbox) == ["Is this your address?", "Your account still waits"]
    verified(durable_env, Customer.objects.get(email="ada@example.com"))
    run.assert_completed("unlocked")


def test_who_never_clicks_is_forgotten(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    run = durable_env.start(onboard, "ada@example.com", "Ada")
    durable_env.advance("7d")
    run.assert_completed("forgotten")
    assert not Customer.objects.exists()


def test_who_signs_up_twice_gets_one_mail(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    durable_env.start(onboard, "ada@example.com", "Ada")
    durable_env.start(onboard, "ada@example.com", "Ada").assert_completed("known")
    assert len(mailoutbox) == 1


# -- Orders


def test_an_order_is_charged_and_shipped(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    durable_env.mock(payments.charge, returns=PAID)
    run = durable_env.start(process_order, SEEDS)
    run.assert_completed("PARCEL-o-1")
    run.assert_steps("validate", "reserve", "charge", "ship", "confirm")
    assert stock("seeds") == 497
    assert Sale.objects.get(order="o-1").total == Decimal("9.60")
    assert subjects(mailoutbox) == ["Your order is on its way"]


def test_a_payment_service_that_is_down_is_tried_again(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    durable_env.mock(payments.charge, returns=PAID)
    durable_env.fail_once("charge", ConnectionError("503"))
    run = durable_env.start(process_order, SEEDS)
    run.assert_waiting_on("attempt 2 of step 'charge'")
    durable_env.advance("2s")
    run.assert_completed()


def test_a_refused_card_undoes_all_that_was_done(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    durable_env.mock(payments.charge, raises=NonRetryable("the card is refused"))
    refund = durable_env.mock(payments.refund, returns=0)
    run = durable_env.start(process_order, SEEDS)
    run.assert_failed("the card is refused")
    assert refund.calls[0].args == ("o-1",)
    assert stock("seeds") == 500
    assert not Sale.objects.exists()
    assert subjects(mailoutbox) == ["Your order came to nothing"]


def test_a_refund_is_tried_until_it_works(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    durable_env.mock(payments.charge, raises=NonRetryable("no answer"))
    refund = durable_env.mock(payments.refund, side_effect=[*[ConnectionError("503")] * 9, 1])
    run = durable_env.start(process_order, SEEDS)
    run.assert_waiting_on("attempt 2 of step 'refund'")
    assert mailoutbox == [], "nobody is told that it was paid back before it is"
    durable_env.run_until_idle()
    run.assert_failed("no answer")
    assert refund.call_count == 10
    assert subjects(mailoutbox) == ["Your order came to nothing"]


def test_a_pending_charge_waits_for_the_payment_service(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    durable_env.mock(payments.charge, returns=Charge(id="ch_1", state="pending"))
    run = durable_env.start(process_order, SEEDS)
    run.assert_waiting_on("payment.settled")
    durable_env.emit("payment.settled", {"id": "ch_1"}, key="o-1")
    run.assert_completed()


def test_a_person_approves_a_large_order(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    durable_env.mock(payments.charge, returns=PAID)
    run = durable_env.start(process_order, JUICERS)
    run.assert_waiting_on("order.approval")
    durable_env.emit("order.approval", {"approved": True}, key="o-2")
    run.assert_completed()


@pytest.mark.parametrize("answer", [{"approved": False, "note": "too many"}, None])
def test_what_nobody_approves_is_put_back(
    durable_env: DurableEnv, mailoutbox: list[Any], answer: dict[str, Any] | None
) -> None:
    run = durable_env.start(process_order, JUICERS)
    if answer is None:
        durable_env.advance("2d")
    else:
        durable_env.emit("order.approval", answer, key="o-2")
    run.assert_failed("too many" if answer else "nobody has looked at it")
    assert stock("juicer") == 5
    assert subjects(mailoutbox) == ["Your order came to nothing"]


def test_nothing_is_sold_that_is_not_there(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    order = SEEDS.model_copy(update={"quantity": 501})
    durable_env.start(process_order, order).assert_failed("fewer than 501 are left")
    assert stock("seeds") == 500


# -- The rest


def test_a_report_asks_for_all_products_at_once(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    Sale.objects.create(order="o-1", product_id="seeds", quantity=3, total="9.60")
    run = durable_env.start(report_sales)
    run.assert_steps("products", *(f"sales-of-{sku}" for sku in ("celeriac", "celery", "juicer", "seeds")), "mail")
    assert run.result[-1] == {"sku": "seeds", "sold": 3, "total": Decimal("9.60")}
    assert "seeds: 3 sold, 9.60 dollars" in mailoutbox[0].body


def test_the_workflows_replay(durable_env: DurableEnv, mailoutbox: list[Any]) -> None:
    """Killed after every record, each comes to the same."""
    durable_env.mock(payments.charge, returns=PAID)
    approve = {"approved": True}
    durable_env.check_replay(
        process_order, JUICERS, script=lambda env: env.emit("order.approval", approve, key=JUICERS.id)
    )
    durable_env.check_replay(onboard, "eve@example.com", "Eve")
    durable_env.check_replay(report_sales)
