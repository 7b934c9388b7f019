"""What holds of the door wherever it is mounted: a site's test module has it with the site of its own."""

from __future__ import annotations

from tests.web.conftest import Site
from tests.web.processes import Server
from tests.web.work import TOKEN


def test_a_webhook_with_a_token_counts_once(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "order.paid", name)
    body = {"payload": {"order": 7}, "key": name, "event_id": f"paid-{name}"}
    # When
    answers = [server.post("/durable/events/order.paid", body, {"Authorization": f"Bearer {TOKEN}"}) for _ in "12"]
    # Then
    assert [(answer.status, answer.json["duplicate"]) for answer in answers] == [(202, False), (202, True)]
    assert site.wait_for(run).result == {"order": 7}
    assert len(site.events(name)) == 1
