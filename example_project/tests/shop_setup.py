"""pytest-celery's set-up, made one of the shop: its app, its durable database, and how its workers are started."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestSetup

from celery_durable import Durable, Run
from example_project.demo import Journal
from example_project.shop import app

LIMIT = 30.0
"""Seconds after which a test gives up: far more than anything takes here, so that only a fault runs into it."""


class ShopSetup(CeleryTestSetup):
    """What a test gets as ``celery_setup``."""

    @classmethod
    def config(cls, celery_worker_cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The app's configuration in the process of the tests."""
        return _with_settings(
            super().config(celery_worker_cluster_config=celery_worker_cluster_config),
            celery_worker_cluster_config,
            url="host_url",
        )

    @classmethod
    def create_setup_app(cls, celery_setup_config: dict[str, Any], celery_setup_app_name: str) -> Celery:
        """The shop's own app, and not a new one: the tasks that the tests start are bound to it."""
        app.conf.update(celery_setup_config)
        return app

    @property
    def durable(self) -> Durable:
        return Durable(self.app)

    def wait_for(self, run_id: str, status: str) -> Run:
        """The run, as soon as it has that status."""
        wait_until(lambda: self.durable.get(run_id).status == status, f"the run {run_id} is {status}")
        return self.durable.get(run_id)


class ShopJournal(Journal):
    """What the steps have told, in whichever worker."""

    def count_of(self, order_id: str, what: str, text: str = "") -> int:
        self.news()
        return self.count(what, text)[order_id]


def worker_command(hostname: str, queue: str) -> list[str]:
    command = ["celery", "-A", "example_project.tests.worker_app", "worker", "--hostname", hostname, "--queues", queue]
    return [*command, "--concurrency", "1", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]


def worker_environment(celery_worker_cluster_config: dict[str, Any], folder: str) -> dict[str, str]:
    """How a worker finds the other parts: by the addresses they have where it runs."""
    brokers = celery_worker_cluster_config["celery_broker_cluster_config"]["urls"]
    backends = celery_worker_cluster_config["celery_backend_cluster_config"]["urls"]
    places = {"broker_url": ";".join(brokers), "result_backend": ";".join(backends)}
    config = _with_settings(places, celery_worker_cluster_config, url="url")
    return {
        "SHOP_TEST_CONFIG": json.dumps(config),
        "SHOP_FOLDER": folder,
        "SHOP_CARRIER_SECONDS": "1.5",  # on a slow machine, too, a test can kill the worker meanwhile
    }


def _with_settings(places: dict[str, Any], cluster_config: dict[str, Any], url: str) -> dict[str, Any]:
    return {
        **places,
        **cluster_config["shop_settings"],
        "durable_database_url": cluster_config["durable_database_config"][url],
    }


def wait_until(condition: Callable[[], bool], what: str) -> None:
    __tracebackhide__ = True
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {LIMIT:g} s in vain until {what}")
        time.sleep(0.05)
