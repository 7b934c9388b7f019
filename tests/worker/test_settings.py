"""Settings: where they are read, and what a wrong one says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_durable import ConfigurationError, Retry
from celery_durable.core.duration import SECOND
from celery_durable.engine.settings import Settings, read_settings
from celery_durable.worker.runtime import runtime_of


def settings_of(**given: Any) -> Settings:
    app = Celery("settings", set_as_current=False)
    app.conf.update(given)
    return read_settings(app.conf.get)


def test_the_defaults_are_those_of_the_documentation() -> None:
    found = settings_of()
    assert found.database_url == "sqlite:///celery-durable.db"
    assert (found.table_prefix, found.auto_migrate, found.max_steps) == ("durable_", True, 10_000)
    assert (found.lease, found.sweep_interval, found.eta_horizon) == (30 * SECOND, SECOND, 10 * SECOND)
    assert (found.max_payload, found.max_recoveries, found.suspended_state) == (10**6, 10, "STARTED")
    assert found.step_retry == Retry()


def test_only_sqlite_migrates_by_itself() -> None:
    assert settings_of(durable_database_url="postgresql+psycopg://nowhere/db").auto_migrate is False
    assert settings_of(durable_database_url="mysql+pymysql://nowhere/db", durable_auto_migrate=True).auto_migrate


def test_durations_are_written_as_everywhere() -> None:
    assert settings_of(durable_lease=timedelta(minutes=1)).lease == 60 * SECOND
    assert settings_of(durable_lease=5).lease == 5 * SECOND
    assert settings_of(durable_lease="1m30s").lease == 90 * SECOND


def test_the_horizon_stays_below_half_the_visibility_timeout() -> None:
    short = {"visibility_timeout": 8}
    assert settings_of(broker_transport_options=short).eta_horizon == 4 * SECOND
    assert settings_of(broker_transport_options=short, durable_eta_horizon="2s").eta_horizon == 2 * SECOND
    assert settings_of(durable_eta_horizon="2h").eta_horizon == 1800 * SECOND


def test_a_namespace_such_as_django_has_is_read() -> None:
    app = Celery("django", set_as_current=False)
    app.config_from_object({"CELERY_DURABLE_LEASE": "7s"}, namespace="CELERY")
    assert read_settings(app.conf.get).lease == 7 * SECOND


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("durable_lease", "soon", "no duration"),
        ("durable_lease", "0s", "at least"),
        ("durable_max_payload", "big", "a size is expected"),
        ("durable_max_steps", 0, "from 1 on"),
        ("durable_max_recoveries", True, "from 1 on"),
        ("durable_auto_migrate", "yes", "True or False"),
        ("durable_table_prefix", "a b", "letters"),
        ("durable_step_retry", 3, r"Retry\(...\)"),
        ("durable_codec", "no.such.Codec", "can't be loaded"),
        ("durable_codec", object(), "encode"),
        ("durable_database_url", "", "a string is expected"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*{says}"):
        settings_of(**{name: value})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("oracle://host/db", "oracle"),
        ("not a url", "no database URL"),
        ("postgresql+psycopg2cffi://host/db", "celery-durable"),
    ],
)
def test_a_database_that_can_not_be_used_is_named(url: str, says: str) -> None:
    app = Celery("urls", set_as_current=False)
    app.conf.durable_database_url = url
    with pytest.raises(ConfigurationError, match=says):
        runtime_of(app)


def test_the_settings_of_events() -> None:
    assert (settings_of().queue, settings_of().event_retention) == (None, 7 * 86_400 * SECOND)
    found = settings_of(durable_queue="internal", durable_event_retention="1h")
    assert (found.queue, found.event_retention) == ("internal", 3_600 * SECOND)
    for name in ("durable_queue", "durable_event_retention"):
        with pytest.raises(ConfigurationError, match=name):
            settings_of(**{name: -1})
