"""The parts as containers, where a Docker engine answers: pytest-celery's Redis, a database, and the shop's worker.

The servers live as long as the session: the shop's app is a module's, and keeps its connections from test to test. A
worker lives as long as a test.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException
from pytest_celery import CeleryTestContainer, CeleryWorkerContainer, RedisContainer
from pytest_docker_tools import build, container, fxtr, network

from .shop_setup import worker_command, worker_environment

REPOSITORY = Path(__file__).parents[2]
FOLDER = "/var/shop"
PASSWORD = "shop"
START_LIMIT = 60


def docker_answers() -> bool:
    try:
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            return bool(client.ping())
    except (DockerException, OSError):  # requests' errors are of the second kind
        return False


class PostgresContainer(CeleryTestContainer):
    """The durable database. Celery does not know this part, so that all that is asked for is its address."""

    ready_prompt = "database system is ready to accept connections"

    @property
    def celeryconfig(self) -> dict[str, str]:
        host, port = self.get_addr("5432/tcp")
        return {"url": self._url(self.attrs["Config"]["Hostname"], 5432), "host_url": self._url(host, port)}

    @staticmethod
    def _url(host: str, port: int) -> str:
        return f"postgresql+psycopg://postgres:{PASSWORD}@{host}:{port}/postgres"


class ShopWorkerContainer(CeleryWorkerContainer):
    """A worker of the shop's image and app: pytest-celery's own would run an app that it writes itself."""

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        return [*worker_command(f"{cls.worker_name()}@%h", cls.worker_queue()), *args]

    @classmethod
    def worker_name(cls) -> str:
        return "shop"


@pytest.fixture
def docker_worker_environment(celery_worker_cluster_config: dict[str, Any]) -> dict[str, str]:
    return worker_environment(celery_worker_cluster_config, FOLDER)


docker_network = network(scope="session")

docker_redis = container(
    scope="session",
    image="redis:7",
    command=lambda: RedisContainer.command(),  # a list that is given as it stands loses its empty words
    ports=RedisContainer.ports(),
    network="{docker_network.name}",
    wrapper_class=RedisContainer,
    timeout=START_LIMIT,
)

docker_database = container(
    scope="session",
    image="postgres:17",
    environment={"POSTGRES_PASSWORD": PASSWORD},
    ports={"5432/tcp": None},
    network="{docker_network.name}",
    wrapper_class=PostgresContainer,
    timeout=START_LIMIT,
)

docker_worker_image = build(
    path=str(REPOSITORY),
    dockerfile="example_project/tests/Dockerfile",
    tag="celery-durable/shop-worker:tests",
)

docker_worker = container(
    image="{docker_worker_image.id}",
    command=ShopWorkerContainer.command(),
    environment=fxtr("docker_worker_environment"),
    volumes={"{shop_folder}": {"bind": FOLDER, "mode": "rw"}},  # where the tests read the shop's journal
    network="{docker_network.name}",
    wrapper_class=ShopWorkerContainer,
    timeout=START_LIMIT,
)
