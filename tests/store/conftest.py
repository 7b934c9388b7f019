from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from celery_durable.store.link import Link
from celery_durable.store.store import Store


@pytest.fixture
def postgresql_url(postgresql_url: str) -> str:
    """Here what can go beneath psycopg's cursor does so at once, and elsewhere in the suite after five times."""
    return make_url(postgresql_url).update_query_dict({"prepare_threshold": "0"}).render_as_string(hide_password=False)


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


@pytest.fixture
def link(store: Store) -> Iterator[Link]:
    with store.link() as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql", "postgresql serializable", "mysql", "mysql read committed"])
def racing(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store, also where the server's transactions are isolated in another way than by default."""
    name, _, isolation = request.param.partition(" ")
    url = make_url(request.getfixturevalue(f"{name}_url"))
    if isolation and name == "postgresql":
        options = url.query.get("options", "")
        url = url.update_query_dict({"options": f"{options} -cdefault_transaction_isolation={isolation}"})
    elif isolation:
        url = url.update_query_dict({"init_command": f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation.upper()}"})
    opened = Store(url.render_as_string(hide_password=False))
    opened.migrate()
    yield opened
    opened.engine.dispose()
