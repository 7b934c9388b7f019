"""docker-compose.yml says what the code says. It is not started here: that needs Docker."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_all_parts_are_there() -> None:
    assert set(SERVICES) == {"postgres", "redis", "set-up", "worker", "django", "flask", "payments", "mailbox"}
    assert set(SERVICES) - set(OURS) == {"postgres", "redis"}


@pytest.mark.parametrize("name", OURS)
def test_what_is_started_exists(name: str) -> None:
    service = OURS[name]
    assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    modules = [word.partition(":")[0] for word in service["command"] if word.startswith("example_project.")]
    assert modules
    assert all(importlib.util.find_spec(module) for module in modules)


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_waited_for_exists(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] in ("service_healthy", "service_completed_successfully")
        assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


def test_what_is_set_is_read() -> None:
    code = "".join(file.read_text() for file in FOLDER.glob("webshop/**/*.py") if "tests" not in file.parts)
    read = {f"SHOP_{name}" for name in re.findall(r'env\("(\w+)"', code)} | set(re.findall(r'"(SHOP_\w+)"', code))
    given = {variable for service in OURS.values() for variable in service["environment"]}
    assert given <= read, given - read


def test_the_parts_find_each_other() -> None:
    """What names a service and a port in an address is a service of that port."""
    addresses = [str(value) for service in OURS.values() for value in service["environment"].values()]
    ports = {"postgres": "5432", "redis": "6379", "flask": "8001", "payments": "8002", "mailbox": "8004"}
    found = {place for address in addresses for place in re.findall(rf"\b({'|'.join(SERVICES)}):(\d+)", address)}
    assert found == set(ports.items())


def test_only_this_machine_is_let_in() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(published) == [f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002, 8003)]
