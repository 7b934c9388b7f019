"""Two short storms. What is checked is the audit: nothing is timed, and any order of what happens is as good."""

from __future__ import annotations

import pytest

from tests.chaos.servers import BROKERS, DATABASES, Backend, missing
from tests.chaos.stage import libfaketime
from tests.chaos.storm import weather
from tests.services import give_up

SECONDS = 30
SEED = 20


@pytest.mark.slow
@pytest.mark.parametrize(("broker", "database"), [("redis", "postgresql"), ("rabbitmq", "mysql")])
def test_all_is_well_after_a_storm(broker: str, database: str) -> None:
    lacking = missing(BROKERS[broker], Backend, DATABASES[database])
    lacking += [] if libfaketime() else ["faketime"]
    if lacking:
        give_up(f"not installed here: {', '.join(lacking)}")
    storm = weather(broker, database, seconds=SECONDS, seed=SEED, rate=2)
    assert not storm.violations, "\n".join(storm.report)
    assert storm.figures["runs"] >= storm.figures["plans"] > 0
    assert storm.figures["deeds"] > 0
