"""The options of a durable task and the settings of operating runs: what is refused, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_durable import Concurrency, ConfigurationError, Durable, DurableTask, get_logger, step
from celery_durable.core.duration import SECOND
from celery_durable.engine.settings import Settings, read_settings
from tests.waiting import wait_until
from tests.worker.conftest import Desk

DAY = 86_400 * SECOND


def settings_of(**given: Any) -> Settings:
    app = Celery("settings", set_as_current=False)
    app.conf.update(given)
    return read_settings(app.conf.get)


# ------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("concurrency", 3, r"a Concurrency\(limit, key=...\) is expected"),
        ("concurrency", "tenant", r"a Concurrency\(limit, key=...\) is expected"),
        ("concurrency", Concurrency(1, key="tennant"), "none of the task's parameters, which are: "),
        ("run_timeout", "soon", "no duration"),
        ("run_timeout", -1, "negative"),
        ("run_timeout", True, "no duration"),
        ("run_timeout", 0, "run_timeout"),
        ("retention", "long", "no duration"),
        ("retention", timedelta(days=-1), "negative"),
        ("retention", [1], "no duration"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_declared(app: Celery, option: str, value: Any, says: str) -> None:
    @app.task(shared=False, base=DurableTask, name="named", **{option: value})
    def named() -> None: ...

    with pytest.raises(ConfigurationError, match=f"the task named has {option}=.*{says}"):
        app.finalize()


@pytest.mark.parametrize("value", ["1h", 3600, 3600.0, timedelta(hours=1)])
def test_durations_are_written_as_everywhere(app: Celery, value: Any) -> None:
    @app.task(shared=False, base=DurableTask, run_timeout=value, retention=value)
    def named() -> None: ...

    assert (named.length_of("run_timeout"), named.length_of("retention")) == (3600 * SECOND, 3600 * SECOND)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Concurrency(0), "from 1 on"),
        (lambda: Concurrency(True), "from 1 on"),
        (lambda: Concurrency("2"), "from 1 on"),  # type: ignore[arg-type]
        (lambda: Concurrency(1, key=7), "a parameter's name or a function"),  # type: ignore[arg-type]
        (lambda: Concurrency(1, key=""), "a parameter's name or a function"),
    ],
)
def test_a_wrong_limit_is_refused(make: Callable[[], Concurrency], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        make()


# ------------------------------------------------------------------- settings


def test_the_defaults() -> None:
    found = settings_of()
    assert (found.retention, found.store_logs, found.redaction.active, found.redaction.hook) == (
        30 * DAY,
        False,
        True,
        None,
    )


def test_what_may_be_said() -> None:
    assert settings_of(durable_retention="1w").retention == 7 * DAY
    assert settings_of(durable_store_logs=True).store_logs is True
    assert settings_of(durable_redact=False).redaction.active is False
    assert settings_of(durable_redact=str.lower).redaction.text("ABC") == "abc"
    assert settings_of(durable_redact=f"{__name__}.without_names").redaction.text("Ann paid") == "*** paid"


def without_names(text: str) -> str:
    return text.replace("Ann", "***")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("durable_retention", "long", "no duration"),
        ("durable_retention", 0, "at least"),
        ("durable_retention", -1, "negative"),
        ("durable_store_logs", "yes", "True or False"),
        ("durable_store_logs", 1, "True or False"),
        ("durable_redact", "no.such.function", "can't be loaded"),
        ("durable_redact", "nowhere", "can't be loaded"),
        ("durable_redact", 7, "a function that takes a string"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*{says}"):
        settings_of(**{name: value})


# ------------------------------------------------------------------- what they do


def fails(app: Celery) -> Any:
    @app.task(shared=False, base=DurableTask, name="fails")
    def fail(password: str, name: str) -> None:
        step.run("say", str, name)
        raise ValueError(f"password={password} of {name}")

    return fail


@pytest.mark.parametrize("redact", [True, False, without_names])
def test_secrets(app: Celery, redact: Any) -> None:
    app.conf.durable_redact = redact
    fails(app).apply(("hunter2", "Ann"), task_id="r1")
    run = Durable(app).get("r1")
    assert run.error is not None
    shown = "***" if redact is without_names else "Ann"
    secret = "hunter2" if redact is False else "***"
    assert run.error.message == f"password={secret} of {shown}"
    assert run.args == ["hunter2", shown], "positional arguments have no names"
    assert run.steps[0].input == [[shown], {}]


def test_secrets_by_name(app: Celery) -> None:
    fails(app).apply(kwargs={"password": "hunter2", "name": "Ann"}, task_id="r1")
    assert Durable(app).get("r1").kwargs == {"password": "***", "name": "Ann"}


@pytest.mark.parametrize("of_task", [True, False])
def test_a_finished_run_is_kept_for_a_while(app: Celery, desk: Desk, of_task: bool) -> None:
    app.conf.durable_retention = "30d" if of_task else "300ms"
    options = {"retention": "300ms"} if of_task else {}

    @app.task(shared=False, base=DurableTask, name="short", **options)
    def short() -> None: ...

    @app.task(shared=False, base=DurableTask, retention="1h", name="long")
    def long() -> None: ...

    short.apply(task_id="short")
    long.apply(task_id="long")
    row = desk.row("short")
    assert row["keep_until"] - row["finished_at"] == 300_000
    assert desk.row("long")["keep_until"] - desk.row("long")["finished_at"] == 3600 * SECOND

    def forget() -> bool:
        with desk.store.link() as link:
            desk.store.forget_runs(link)
        return desk.row("short") is None

    wait_until(forget, 5, "it is forgotten")
    assert desk.row("long") is not None
    assert desk.durable.prune(older_than=0) == 1
    assert [run.id for run in desk.durable.runs()] == []


def test_a_run_is_not_forgotten_before_celery_has_its_result(app: Celery, desk: Desk) -> None:
    """Its worker died right after it had ended: another one has yet to tell."""

    @app.task(shared=False, base=DurableTask, retention="100ms", name="short")
    def short() -> None: ...

    short.apply_async(task_id="r1")
    with desk.store.link() as link:
        claimed: Any = desk.store.claim(link, "r1", worker="test", lease=60 * SECOND)
        assert desk.store.finish(
            link, claimed.fence, status="completed", now=claimed.now, lease=SECOND, result="7", retention=1
        )
        assert desk.store.forget_runs(link) == 0
    assert desk.row("r1")["status"] == "completed"


def test_logs_are_kept_only_if_it_is_asked_for(app: Celery, desk: Desk) -> None:
    @app.task(shared=False, base=DurableTask, name="says")
    def says() -> None:
        get_logger("says").warning("hello")

    says.apply(task_id="s1").get()
    assert desk.durable.logs("s1") == ()
