"""``celery_durable.contrib.django`` among INSTALLED_APPS: migrations, checks, the admin, and the database it finds.

Each scenario is a process of its own, as Django's settings hold for a whole process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, make_url

from celery_durable.store.schema import HEAD
from tests.services import PREFIX, Services

ROOT = Path(__file__).parent.parent.parent


class Project:
    """The Django project of these tests on a database of its own."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url = url
        self._settings = settings
        self._scenarios: subprocess.Popen[str] | None = None

    def django(self, *arguments: str, fails: bool = False) -> str:
        """Do a command of Django's; what it says."""
        return self._python("-m", "django", *arguments, fails=fails)

    def script(self, text: str) -> str:
        return self._python("-c", f"import django; django.setup()\n{text}")

    def scenario(self, *arguments: str) -> Any:
        """What came of a scenario, in a process that does many."""
        if self._scenarios is None:
            self._scenarios = self._start()
        assert self._scenarios.stdin is not None
        assert self._scenarios.stdout is not None
        self._scenarios.stdin.write(json.dumps(arguments) + "\n")
        self._scenarios.stdin.flush()
        return json.loads(self._scenarios.stdout.readline())

    def alone(self, *arguments: str, dies: bool = False) -> Any:
        """The same in a process of its own; one that is killed in it."""
        process = self._start()
        out, _ = process.communicate(json.dumps(arguments), timeout=240)
        assert process.returncode == (9 if dies else 0)
        return None if dies else json.loads(out)

    def close(self) -> None:
        if self._scenarios is not None:
            self._scenarios.communicate(timeout=120)

    def tables(self) -> set[str]:
        engine = create_engine(self.url)
        try:
            return set(inspect(engine).get_table_names())
        finally:
            engine.dispose()

    def but(self, **settings: Any) -> Project:
        """The same with other settings."""
        return Project(self.url, **settings)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.contrib.django_shop.scenarios"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=self._environment(), stdin=pipe, stdout=pipe, text=True)

    def _python(self, *arguments: str, fails: bool = False) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment(), capture_output=True, text=True, timeout=240, check=False
        )
        assert (done.returncode != 0) == fails, done.stderr + done.stdout
        return done.stdout + (done.stderr if fails else "")

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "SHOP_DATABASE": self.url,
            "SHOP_SETTINGS": json.dumps(self._settings),
            "DJANGO_SETTINGS_MODULE": "tests.contrib.django_shop.settings",
        }


@contextmanager
def fresh(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'shop.db'}"
        return
    services: Services = request.getfixturevalue("services")
    with getattr(services, kind).fresh() as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Migrated, on each database."""
    with fresh(request.param, request, tmp_path_factory.mktemp("shop")) as url:
        project = Project(url)
        project.django("migrate", "--verbosity", "0")
        yield project
        project.close()


@pytest.fixture
def new_project(tmp_path: Path) -> Project:
    """Nothing in its database yet."""
    return Project(f"sqlite:///{tmp_path / 'shop.db'}")


# -- Migrations


def test_migrate_makes_the_durable_tables_and_is_content_with_them(project: Project) -> None:
    assert {"durable_run", "durable_step", "durable_event", "django_shop_order"} <= project.tables()
    assert "No migrations to apply" in project.django("migrate")
    assert "No changes detected" in project.django("makemigrations", "--check", "--dry-run")
    assert project.django("check", "--database", "default", "--fail-level", "WARNING").startswith("System check")


def test_the_newest_migration_is_for_the_newest_schema() -> None:
    """A new version of the durable tables needs a migration of Django's, too."""
    folder = ROOT / "celery_durable" / "contrib" / "django" / "migrations"
    newest = max(folder.glob("[0-9]*.py"))
    assert f'MakeDurableTables("{HEAD}")' in newest.read_text()


def test_tables_that_the_command_line_made_are_left_as_they_are(new_project: Project) -> None:
    new_project.script(
        "from tests.contrib.django_shop.celery import app; from celery_durable import Durable\n"
        "assert Durable(app).migrate()"
    )
    new_project.django("migrate", "--verbosity", "0")
    assert "No migrations to apply" in new_project.django("migrate")


def test_the_tables_are_made_in_the_database_that_is_the_durable_one(new_project: Project, tmp_path: Path) -> None:
    """Of two, the other one: Django's own tables and the orders are not there, the durable ones are not here."""
    second = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "second.db")}
    first = {"ENGINE": "django.db.backends.sqlite3", "NAME": make_url(new_project.url).database}
    both = new_project.but(DATABASES={"default": first, "second": second}, CELERY_DURABLE_DATABASE_URL="django:second")
    both.django("migrate", "--verbosity", "0")
    assert "durable_run" not in both.tables()
    both.django("migrate", "celery_durable", "--database", "second", "--verbosity", "0")
    assert "durable_run" in Project(f"sqlite:///{tmp_path / 'second.db'}").tables()


def test_the_tables_have_the_prefix_that_is_set(new_project: Project) -> None:
    prefixed = new_project.but(CELERY_DURABLE_TABLE_PREFIX="flows_")
    prefixed.django("migrate", "--verbosity", "0")
    assert "flows_run" in prefixed.tables()
    assert "No changes detected" in prefixed.django("makemigrations", "--check", "--dry-run")
    prefixed.script("from celery_durable.contrib.django.models import DurableRun; assert not DurableRun.objects.all()")


def test_djangos_test_database_is_the_durable_one_in_a_test_run(project: Project) -> None:
    """Django puts another database in the place of the usual one, and drops it afterwards: the runs of tests are in
    that, and nothing of ours keeps it from being dropped."""
    in_memory = project.url.startswith("sqlite")
    assert project.alone("in_a_test_run", "" if in_memory else f"{PREFIX}_django_{uuid.uuid4().hex[:8]}") == {
        "result": 1,
        "status": "completed",
    }
    assert "in-a-test-run" not in project.scenario("runs")


# -- Checks


def test_missing_tables_are_a_warning_that_says_what_to_do(new_project: Project) -> None:
    out = new_project.django("check", "--database", "default", "--fail-level", "WARNING", fails=True)
    assert "celery_durable.W002" in out
    assert "manage.py migrate celery_durable --database default" in out


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"CELERY_DURABLE_LEASE": "soon"}, ["celery_durable.E001", "durable_lease is 'soon'"]),
        (
            {"CELERY_DURABLE_DATABASE_URL": "django:orders"},
            ["celery_durable.E001", "'django:orders'", "has no 'orders': there is default"],
        ),
        (
            {"CELERY_DURABLE_DATABASE_URL": "sqlite:///elsewhere.db"},
            ["celery_durable.W001", "none of DATABASES", '"django:<alias>"'],
        ),
        (
            {"CELERY_DURABLE_APP": "tests.contrib.no_such_module"},
            ["celery_durable.E001", "CELERY_DURABLE_APP", "can't be loaded"],
        ),
    ],
)
def test_what_is_wrong_is_found_by_check(new_project: Project, settings: dict[str, Any], found: list[str]) -> None:
    out = new_project.but(**settings).django("check", "--fail-level", "WARNING", fails=True)
    assert [text for text in found if text not in out] == [], out


# -- The admin


def test_the_admin_shows_runs_and_events_and_changes_nothing(project: Project) -> None:
    out = project.script(
        "from django.contrib.auth.models import User\n"
        "from django.test import Client\n"
        "from tests.contrib.django_shop import tasks\n"
        "from tests.contrib.django_shop.models import Order\n"
        "from celery_durable.contrib.django import emit\n"
        "Order.objects.create(number='<b>o-1</b>')\n"
        "tasks.refused.apply(['<b>o-1</b>'], task_id='in-the-admin')\n"
        "emit('order.paid', {'order': 'o-1'}, key='o-1', event_id='event-1')\n"
        "client = Client()\n"
        "client.force_login(User.objects.create_superuser('ada'))\n"
        "def page(path, **data):\n"
        "    answer = client.post(path, data) if data else client.get(path)\n"
        "    print(answer.status_code)\n"
        "    return answer.content.decode()\n"
        "runs = page('/admin/celery_durable/durablerun/')\n"
        "assert 'in-the-admin' in runs and 'Add run' not in runs\n"
        "assert 'in-the-admin' in page('/admin/celery_durable/durablerun/?q=in-the')\n"
        "assert 'in-the-admin' not in page('/admin/celery_durable/durablerun/?status=failed')\n"
        "run = page('/admin/celery_durable/durablerun/in-the-admin/change/')\n"
        "assert '<td>pay</td>' in run and 'the card was refused' in run, run\n"
        "assert '/durable/run/in-the-admin' in run and 'Save' not in run\n"
        "assert '<b>' not in run and '&lt;b&gt;o-1' in run\n"
        "assert 'order.paid' in page('/admin/celery_durable/durableevent/')\n"
        "page('/admin/celery_durable/durablerun/in-the-admin/delete/', post='yes')\n"
        "page('/admin/celery_durable/durablerun/in-the-admin/change/', status='failed')\n"
    )
    assert out.split() == ["200", "200", "200", "200", "200", "403", "403"]
