"""The database's clock decides what is due: it goes on evenly, whatever happens to the local time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, select, text

from celery_durable.store.dialects import dialect_of
from tests.chaos.servers import MariaDB, missing
from tests.services import give_up

SUMMER_TIME_ENDS = 1_792_890_000
"""On 25 October 2026 at 01:00 UTC it is 03:00 in Berlin, and 02:00 again."""


class BerlinServer(MariaDB):
    def environment(self) -> dict[str, str]:
        return {"TZ": "CET-1CEST,M3.5.0,M10.5.0/3"}


@pytest.fixture
def berlin() -> Iterator[Engine]:
    lacking = missing(BerlinServer)
    if lacking:
        give_up(f"a server in another time zone can't be started: {', '.join(lacking)} not found")
    with tempfile.TemporaryDirectory(prefix="durable-clock-") as made:
        folder = Path(made)
        folder.chmod(0o711)  # the server's user goes through it
        server = BerlinServer(folder)
        server.start()
        engine = create_engine(server.url(server.port), isolation_level="AUTOCOMMIT")
        yield engine
        engine.dispose()
        server.stop()


def test_an_hour_that_comes_twice_is_two_hours(berlin: Engine) -> None:
    clock = select(dialect_of(berlin).now(), text("NOW()"))
    told = []
    with berlin.connect() as connection:
        for minutes in (-30, 30):
            connection.execute(text(f"SET timestamp = {SUMMER_TIME_ENDS + 60 * minutes}.25"))
            told.append(connection.execute(clock).one())
    (before, local_before), (after, local_after) = told
    assert local_before == local_after, "the server has daylight saving time"
    assert [before, after] == [(SUMMER_TIME_ENDS + 60 * minutes) * 1_000_000 + 250_000 for minutes in (-30, 30)]
