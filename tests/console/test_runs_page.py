from __future__ import annotations

from werkzeug.test import Client


def test_the_list_has_each_run_with_its_status_and_what_it_waits_for(client: Client) -> None:
    text = client.get("/").text
    assert ">order-new<" in text
    assert "the event &#39;order.approved&#39; with the key &#39;o-36&#39;" in text
