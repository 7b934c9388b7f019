"""The parts that the tests here run on. Copy this folder, and put your app where ``shop`` is said.

Where a Docker engine answers they are containers, and elsewhere processes of this machine; ``SHOP_TEST_PARTS=local``
asks for the second kind in any case. The rest is pytest-celery's.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import signals

# pytest-celery has a fixture celery_worker, too, which hides this one: what a conftest imports is what is meant.
from celery.contrib.pytest import celery_worker
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
    celery_backend_cluster_config,
    celery_broker_cluster_config,
    celery_setup,
    celery_setup_app,
    celery_setup_config,
    celery_setup_name,
)
from redis import Redis, RedisError

from .docker_parts import (
    docker_answers,
    docker_database,
    docker_network,
    docker_redis,
    docker_worker,
    docker_worker_environment,
    docker_worker_image,
)
from .local_parts import RunningServer, WorkerProcess
from .shop_setup import ShopJournal, ShopSetup, worker_command, worker_environment

__all__ = [  # fixtures, which pytest finds here
    "celery_backend_cluster_config",
    "celery_broker_cluster_config",
    "celery_setup",
    "celery_setup_app",
    "celery_setup_config",
    "celery_setup_name",
    "celery_worker",
    "docker_database",
    "docker_network",
    "docker_redis",
    "docker_worker",
    "docker_worker_environment",
    "docker_worker_image",
]

REPOSITORY = Path(__file__).parents[2]


@functools.cache
def in_docker() -> bool:
    return os.environ.get("SHOP_TEST_PARTS") != "local" and docker_answers()


# ----------------------------------------------------------------- of the session


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shop keeps its journal, and local workers their logs."""
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest, shop_settings: dict[str, Any]) -> Iterator[Any]:
    """The broker and the result backend."""
    if in_docker():
        yield request.getfixturevalue("docker_redis")
        return
    url = redis_url()
    yield RunningServer("redis", url)
    with Redis.from_url(url) as client:
        for key in client.scan_iter(shop_settings["broker_transport_options"]["global_keyprefix"] + "*"):
            client.delete(key)


@pytest.fixture(scope="session")
def durable_database(request: pytest.FixtureRequest, shop_folder: Path) -> Any:
    """Of the session, because an app opens its durable database once."""
    if in_docker():
        return request.getfixturevalue("docker_database")
    return RunningServer("sqlite", f"sqlite:///{shop_folder / 'durable.db'}")


@pytest.fixture(scope="session")
def shop_settings() -> dict[str, Any]:
    """What is other than in production, in the tests' process and in the workers."""
    prefix = {"global_keyprefix": f"shop-test-{secrets.token_hex(4)}:"}  # the Redis may have other users
    return {
        "broker_transport_options": prefix,
        "result_backend_transport_options": prefix,
        "durable_auto_migrate": True,
        "durable_lease": "2s",  # how long the run of a killed worker waits
    }


def redis_url() -> str:
    """Where Redis answers. If it does not, the test is skipped; in CI it fails, so that nothing is left out unseen."""
    __tracebackhide__ = True
    url = os.environ.get("DURABLE_TEST_REDIS") or "redis://127.0.0.1:6379"
    reason = trouble_with(url)
    if reason is None:
        return url
    message = f"Redis does not answer: start it on 127.0.0.1:6379, or set DURABLE_TEST_REDIS ({reason})"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def trouble_with(url: str) -> str | None:
    try:
        with Redis.from_url(url, socket_connect_timeout=3) as client:
            client.ping()
    except RedisError as error:
        return str(error)
    return None


# ----------------------------------------------------- pytest-celery's, overridden


@pytest.fixture
def celery_setup_cls() -> type[ShopSetup]:
    return ShopSetup


@pytest.fixture
def celery_broker_cluster(redis_server: Any) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(redis_server))


@pytest.fixture
def celery_backend_cluster(redis_server: Any) -> CeleryBackendCluster:
    return CeleryBackendCluster(CeleryTestBackend(redis_server))


@pytest.fixture
def celery_worker_cluster_config(
    celery_broker_cluster_config: dict[str, Any],
    celery_backend_cluster_config: dict[str, Any],
    durable_database: Any,
    shop_settings: dict[str, Any],
) -> dict[str, Any]:
    return {
        "celery_broker_cluster_config": celery_broker_cluster_config,
        "celery_backend_cluster_config": celery_backend_cluster_config,
        "durable_database_config": durable_database.celeryconfig,
        "shop_settings": shop_settings,
    }


@pytest.fixture
def celery_worker_cluster(shop_worker: Any, celery_setup_app: Any) -> CeleryWorkerCluster:
    return CeleryWorkerCluster(CeleryTestWorker(shop_worker, celery_setup_app))


@pytest.fixture
def shop_worker(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("docker_worker" if in_docker() else "local_worker")


@pytest.fixture
def local_worker(shop_folder: Path, celery_worker_cluster_config: dict[str, Any]) -> Iterator[WorkerProcess]:
    worker = WorkerProcess("shop", "celery", shop_folder)
    command = worker_command(worker.hostname, worker.worker_queue())
    try:
        worker.start(command, worker_environment(celery_worker_cluster_config, str(shop_folder)), REPOSITORY)
        yield worker
    finally:
        worker.teardown()


@pytest.fixture
def journal(shop_folder: Path) -> ShopJournal:
    return ShopJournal(shop_folder)


# ----------------------------------------------------------- celery.contrib.pytest


@pytest.fixture
def celery_config(tmp_path: Path) -> dict[str, Any]:
    """For ``celery_session_app`` this has to be of the session, with ``tmp_path_factory``."""
    return {"durable_database_url": f"sqlite:///{tmp_path / 'durable.db'}"}


@pytest.fixture
def celery_worker_parameters() -> Iterator[dict[str, Any]]:
    """None. But the worker sets up logging where nobody hears this signal, and tests that follow miss warnings then."""
    signals.setup_logging.connect(leave_logging_alone)
    yield {}
    signals.setup_logging.disconnect(leave_logging_alone)


def leave_logging_alone(**_: Any) -> None: ...
