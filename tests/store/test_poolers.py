"""A pooler of transactions, such as PgBouncer, may give each statement another connection of the server's: nothing can
be prepared there. Psycopg prepares what it executes often, and takes a number where a URL has text."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from celery_durable.errors import ConfigurationError
from celery_durable.store.link import Link
from celery_durable.store.store import Store


@pytest.mark.parametrize(("threshold", "prepared"), [("none", False), ("2", True)])
def test_a_url_says_whether_statements_are_prepared(postgresql_url: str, threshold: str, prepared: bool) -> None:
    url = make_url(postgresql_url).update_query_dict({"prepare_threshold": threshold})
    store = Store(url.render_as_string(hide_password=False))
    try:
        with store.link() as link:
            link.run(lambda connection: [connection.exec_driver_sql("SELECT 1").all() for _ in range(9)])
            assert (names_prepared(link) > 0) is prepared
    finally:
        store.engine.dispose()


def names_prepared(link: Link) -> int:
    asked = "SELECT count(*) FROM pg_prepared_statements"
    return int(link.run(lambda connection: connection.exec_driver_sql(asked).scalar_one()))


def test_what_is_no_threshold_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="prepare_threshold=never: a number or none is expected"):
        Store("postgresql+psycopg://user@host/name?prepare_threshold=never")
