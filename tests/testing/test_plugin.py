"""The pytest plugin, in a pytest of its own: as users have it, with whatever other plugins are installed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Project = Callable[..., str]

SHOP = """
    from celery import Celery
    from celery_durable import DurableTask, emit, step

    app = Celery("shop", broker="redis://nowhere:1", backend="redis://nowhere:1")

    def charge(amount):
        raise AssertionError("the real one was called")

    @app.task(base=DurableTask)
    def order(amount=5):
        step.run("charge", charge, amount)
        event = step.wait_for_event("shipped", timeout="3d")
        return event and event.payload

    def view(amount):
        return order.delay(amount).id

    def hook():
        emit("shipped", 1)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Runs tests beside the shop, and returns what pytest printed."""

    def run(
        tests: str, *options: str, conftest: str = "", passes: bool = True, alone: bool = True, **files: str
    ) -> str:
        texts = {"shop": SHOP, "test_shop": tests, "conftest": conftest} | files
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
        environ = dict(os.environ)
        if alone:  # without the plugins that are installed besides, which take their time
            environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            command += ["-p", "celery_durable.testing.plugin"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280, check=False
        )
        printed = done.stdout + done.stderr
        assert (done.returncode == 0) is passes, printed
        return printed

    return run


def test_the_fixture_beside_what_is_installed(project: Project) -> None:
    project(
        """
        from shop import order, charge

        def test_order(durable_env):
            mock = durable_env.mock(charge, returns="c1")
            run = durable_env.start(order, 7)
            assert run.status == "suspended"
            durable_env.emit("shipped", {"n": 1})
            assert run.result == {"n": 1}
            assert mock.calls[0].args == (7,)

        def test_another_one_knows_nothing_of_it(durable_env):
            assert durable_env.runs == []
        """,
        alone=False,
    )


def test_what_a_view_does_before_a_run_is_started_stays_here(project: Project) -> None:
    project("""
        import shop

        def test_view(durable_env):
            durable_env.mock("charge")
            run = durable_env.run(shop.view(7))
            run.assert_waiting_on("shipped")
            shop.hook()
            run.assert_completed(1)

        def test_hook(durable_env):
            shop.hook()
            assert [event.name for event in durable_env.durable.events()] == ["shipped"]
    """)


def test_another_app(project: Project) -> None:
    project(
        """
        import celery
        import shop

        def test_app(durable_env, durable_app):
            assert durable_env.app is durable_app
            assert durable_env.app.main == "other"
        """,
        conftest="""
        import celery, pytest

        @pytest.fixture
        def durable_app():
            return celery.Celery("other", set_as_current=False)
        """,
    )


def test_no_app_at_all(project: Project) -> None:
    project("""
        def test_nothing(durable_env):
            assert durable_env.now.tzinfo is not None
    """)


def test_an_unused_mock_fails_the_test(project: Project) -> None:
    printed = project(
        """
        from shop import order

        def test_order(durable_env):
            durable_env.mock("charge", returns=1)
            durable_env.mock("chagre", returns=1)
            durable_env.start(order)
        """,
        passes=False,
    )
    assert "nothing was called that the mock of 'chagre' stands in for. Did you mean 'charge'?" in printed
    assert "1 failed" in printed
    assert "error" not in printed.splitlines()[-1]


def test_a_failure_is_told_once_and_with_the_table(project: Project) -> None:
    printed = project(
        """
        from shop import order

        def test_order(durable_env):
            durable_env.mock("charge", returns=1)
            durable_env.mock("later", returns=1)
            durable_env.start(order).assert_completed()
        """,
        passes=False,
    )
    assert "the run is suspended, not completed" in printed
    assert "charge   run" in printed
    assert "UnusedMock" not in printed
    assert "1 failed" in printed


def test_a_skipped_test_has_no_unused_mocks(project: Project) -> None:
    printed = project("""
        import pytest

        def test_order(durable_env):
            durable_env.mock("charge")
            pytest.skip("not today")
    """)
    assert "1 skipped" in printed


def test_test_cases_and_classes(project: Project) -> None:
    project("""
        import unittest
        import pytest
        from shop import order

        class TestOrder:
            def test_order(self, durable_env):
                durable_env.mock("charge")
                durable_env.start(order).assert_status("suspended")

        class OrderCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _env(self, durable_env):
                self.env = durable_env

            def test_order(self):
                self.env.mock("charge")
                self.env.start(order).assert_status("suspended")
    """)


def test_nothing_is_imported_while_it_is_unused(project: Project) -> None:
    project(
        """
        import sys

        def test_nothing():
            loaded = {"celery", "kombu", "sqlalchemy", "pydantic", "alembic"} & set(sys.modules)
            assert not loaded
            ours = {name for name in sys.modules if name.startswith("celery_durable.")}
            assert all(name == "celery_durable.errors" or ".testing" in name for name in ours), ours
        """
    )


def test_it_is_shown_among_the_fixtures(project: Project) -> None:
    printed = project("def test_nothing(): ...", "--fixtures")
    assert "durable_env" in printed
    assert "Durable tasks without a broker" in printed


def test_beside_celerys_own_plugin(project: Project) -> None:
    project(
        """
        from shop import order

        def test_order(durable_env, celery_config):
            durable_env.mock("charge")
            durable_env.start(order).assert_status("suspended")
        """,
        "-p",
        "celery.contrib.pytest",
    )


def test_beside_pytest_asyncio(project: Project) -> None:
    """A test that is a coroutine: the bodies that it starts have event loops of their own."""
    project(
        """
        import asyncio, pytest
        from shop import order, pay

        @pytest.mark.asyncio
        async def test_order(durable_env):
            await asyncio.sleep(0)
            run = durable_env.start(pay, 7)
            durable_env.emit("paid", 1)
            durable_env.advance("1h")
            run.assert_completed([7, 1])
            durable_env.check_replay(pay, 7, script=lambda env: env.emit("paid", 1))
        """,
        "-p",
        "pytest_asyncio.plugin",
        shop=SHOP
        + """
    import asyncio
    from celery_durable import aio

    @app.task(base=DurableTask)
    async def pay(amount):
        nap = aio.step.sleep("nap", "1h")
        charged, _ = await asyncio.gather(aio.step.run("charge", abs, -amount), nap)
        event = await aio.step.wait_for_event("paid", timeout="3d")
        return [charged, event and event.payload]
    """,
    )


def test_beside_pytest_django(project: Project) -> None:
    project(
        """
        from shop import order

        def test_order(durable_env, db):
            durable_env.mock("charge")
            durable_env.start(order).assert_status("suspended")
        """,
        "-p",
        "pytest_django.plugin",
        "--ds=project_settings",
        project_settings="""
        SECRET_KEY = "x"
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        """,
    )


def test_with_django(project: Project) -> None:
    """The app is configured by Django's settings, and tasks are shared ones."""
    project(
        """
        import tasks

        def test_order(durable_env):
            run = durable_env.start(tasks.order)
            run.assert_completed(7)
            assert durable_env.app.main == "proj"
            durable_env.check_replay(tasks.order)
        """,
        conftest="""
        import os
        os.environ["DJANGO_SETTINGS_MODULE"] = "project_settings"
        import django
        django.setup()
        from celery import Celery
        app = Celery("proj")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        """,
        tasks="""
        from celery import shared_task
        from celery_durable import DurableTask, step

        @shared_task(base=DurableTask)
        def order():
            return step.run("work", abs, -7)
        """,
        project_settings="""
        SECRET_KEY = "x"
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        CELERY_BROKER_URL = "redis://nowhere:1"
        CELERY_TASK_ALWAYS_EAGER = True
        """,
    )
