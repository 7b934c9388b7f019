"""The whole shop, as ``make example`` starts it: a real broker, worker, SMTP and HTTP, and a worker that is killed.

``SHOP_TEST_BROKER_URL`` and ``SHOP_TEST_DATABASE_URL`` say on what; Redis at its usual port and SQLite otherwise.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from html import unescape
from http.cookiejar import CookieJar
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import pytest

from example_project.webshop.local import LocalShop, NoBroker

LIMIT = 30.0
T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str) -> T:
    """What the condition returns, as soon as it is true."""
    __tracebackhide__ = True
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {LIMIT:g} s in vain until {what}")
        time.sleep(0.05)
    return value


class Browser:
    """As much of one as these pages need: cookies, links and forms."""

    def __init__(self, **headers: str) -> None:
        self._opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))
        self._opener.addheaders = list(headers.items())
        self.url = self.page = ""

    def open(self, url: str, form: dict[str, Any] | None = None) -> str:
        body = None if form is None else urlencode(form).encode()
        # Django and the console want to know that their own page has sent a form.
        with self._opener.open(Request(urljoin(self.url, url), body, {"Referer": self.url} if form else {})) as answer:
            self.url, self.page = answer.url, answer.read().decode()
        return self.page

    def submit(self, **fields: Any) -> str:
        """Send the last form of the page that is to be posted, with what is hidden in it."""
        form = re.findall(r'<form[^>]*method="post".*?</form>', self.page, re.DOTALL)[-1]
        hidden = re.findall(r'<input[^>]*type="hidden"[^>]*>', form)
        values = {attribute(one, "name"): attribute(one, "value") for one in hidden}
        return self.open(attribute(form, "action") or self.url, values | fields)

    def read_json(self, url: str) -> Any:
        return json.loads(self.open(url))


def attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag[: tag.index(">")])
    return unescape(found[1]) if found else ""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalShop]:
    chosen = {
        "SHOP_REDIS_PREFIX": f"webshop-test-{secrets.token_hex(4)}:",
        "SHOP_LEASE": "2s",
        **{f"SHOP_{one}": os.environ.get(f"SHOP_TEST_{one}", "") for one in ("BROKER_URL", "DATABASE_URL")},
    }
    shop = LocalShop(
        tmp_path_factory.mktemp("shop"), free_ports(), **{name: value for name, value in chosen.items() if value}
    )
    try:
        shop.start()
        yield shop
    except NoBroker as trouble:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(trouble))
    finally:
        shop.stop()


def free_ports() -> int:
    """The first of five that follow each other."""
    while True:
        first = 20_000 + secrets.randbelow(10_000)
        try:
            for port in range(first, first + 5):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


@pytest.fixture
def browser() -> Browser:
    return Browser()


def behave(shop: LocalShop, behaviour: str) -> None:
    Browser().open(f"{shop.payments}/behaviour", {"behaviour": behaviour})


def order(shop: LocalShop, browser: Browser, sku: str, quantity: int) -> str:
    """The new order's id."""
    page = browser.open(f"{shop.store}/")
    form = next(form for form in page.split("<form")[1:] if f'value="{sku}"' in form)
    order_id = attribute(form[form.index('<input type="hidden" name="id"') :], "value")
    browser.open("/orders", {"id": order_id, "sku": sku, "quantity": quantity, "email": "ada@example.com"})
    return order_id


def status(shop: LocalShop, order_id: str) -> str:
    page = Browser().open(f"{shop.store}/orders/{order_id}")
    return re.search(r'class="status (\w+)"', page)[1]  # type: ignore[index]


def charges(shop: LocalShop, order_id: str) -> list[str]:
    """The states of the order's charges."""
    found = Browser().read_json(f"{shop.payments}/charges")["charges"]
    return [charge["state"] for charge in found if charge["order"] == order_id]


def requests(shop: LocalShop, order_id: str) -> list[str]:
    """The idempotency keys of the requests to charge it."""
    found = Browser().read_json(f"{shop.payments}/charges")["requests"]
    return [key for key in found if key.startswith(order_id)]


def test_a_customer_signs_up_and_clicks_the_link_of_the_mail(shop: LocalShop, browser: Browser) -> None:
    browser.open(shop.site)
    assert "Look at your mail" in browser.submit(name="Eve", email="eve@example.com")
    mail = wait_until(
        lambda: [m for m in browser.read_json(f"{shop.mailbox}/mails") if m["to"] == "eve@example.com"], "a mail"
    )
    (link,) = re.findall(r"http://\S+", mail[0]["text"])

    assert "Is this you, Eve?" in browser.open(link)
    assert "Thank you, Eve" in browser.submit()
    wait_until(lambda: "your account is open" in browser.open(link), "the account is open")


def test_an_order_survives_its_worker(shop: LocalShop, browser: Browser) -> None:
    behave(shop, "slow")
    order_id = order(shop, browser, "seeds", 2)
    wait_until(lambda: requests(shop, order_id), "the payment service is asked")

    os.kill(shop.worker.process.pid, signal.SIGKILL)
    shop.worker.process.wait()
    behave(shop, "well")
    assert status(shop, order_id) == "running", "as nobody has noticed yet"
    shop.supervise()

    wait_until(lambda: status(shop, order_id) == "completed", "the order is done")
    assert len(requests(shop, order_id)) == 2
    assert len(set(requests(shop, order_id))) == 1
    assert charges(shop, order_id) == ["paid"]


def test_the_payment_service_calls_back(shop: LocalShop, browser: Browser) -> None:
    behave(shop, "pending")
    order_id = order(shop, browser, "celery", 1)
    wait_until(lambda: "payment.settled" in browser.open(f"{shop.store}/orders/{order_id}"), "it waits")

    (charge,) = [one for one in browser.read_json(f"{shop.payments}/charges")["charges"] if one["order"] == order_id]
    browser.open(f"{shop.payments}/charges/{charge['id']}/settle", {})

    wait_until(lambda: status(shop, order_id) == "completed", "the order is done")


def test_a_cancelled_order_is_paid_back(shop: LocalShop, browser: Browser) -> None:
    behave(shop, "pending")
    order_id = order(shop, browser, "celery", 1)
    page = f"{shop.store}/orders/{order_id}"
    wait_until(lambda: "payment.settled" in browser.open(page), "it waits")

    browser.submit()  # the button that cancels

    wait_until(lambda: status(shop, order_id) == "cancelled", "the order is cancelled")
    assert charges(shop, order_id) == ["refunded"]


def test_a_person_approves_a_large_order_in_the_console(shop: LocalShop, browser: Browser) -> None:
    behave(shop, "well")
    order_id = order(shop, browser, "juicer", 2)
    wait_until(lambda: "order.approval" in browser.open(f"{shop.store}/orders/{order_id}"), "it waits")

    staff = Browser()
    staff.open(f"{shop.store}/console/sign-in")
    staff.submit(token=shop.environment["SHOP_STAFF_PASSWORD"])
    assert "ada@example.com orders 2 x juicer for 178.00 dollars" in staff.open(f"/console/run/{order_id}/answer")
    staff.submit(**{"f/approved": "true"})

    wait_until(lambda: status(shop, order_id) == "completed", "the order is done")
