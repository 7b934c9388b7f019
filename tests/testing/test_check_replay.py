"""``check_replay`` finds each of the mistakes that bodies have, and says where."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import random
import re
import secrets
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery_durable import aio, step
from celery_durable.testing import DurableEnv, ReplayError

from .conftest import Declare

SEEN: list[Any] = []


def fetch(value: Any = None) -> Any:
    return value


def connect() -> None:
    with socket.socket() as opened:
        opened.settimeout(0.01)
        opened.connect_ex(("127.0.0.1", 9))


# ------------------------------------------------------------------- mistakes


def random_id() -> Any:
    key = str(uuid.uuid4())
    return step.run("pay", fetch, key)


def random_number() -> Any:
    return step.run("pay", fetch, random.random())


def random_choice() -> Any:
    return step.run("pay", fetch, random.choice([1, 2, 3]))


def a_generator_of_its_own() -> Any:
    return step.run("pay", fetch, random.Random().randint(1, 6))


def secret_token() -> Any:
    return step.run("pay", fetch, secrets.token_hex(4))


def bytes_of_the_system() -> Any:
    return step.run("pay", fetch, os.urandom(4).hex())


def clock_in_a_branch() -> Any:
    if datetime.datetime.now(datetime.timezone.utc).hour < 25:
        return step.run("early", fetch)
    return step.run("late", fetch)


def time_in_a_branch() -> Any:
    return step.run("early" if time.time() > 0 else "late", fetch)


def today() -> Any:
    return step.run("pay", fetch, datetime.date.today().isoformat())  # noqa: DTZ011


def step_id_from_a_timestamp() -> Any:
    return step.run(f"pay-{time.monotonic_ns()}", fetch)


def formatted_time() -> Any:
    return step.run(f"pay-{time.strftime('%H%M')}", fetch)


def http_call() -> Any:
    try:
        with urllib.request.urlopen("http://127.0.0.1:9/", timeout=0.01) as answer:
            json.load(answer)
    except OSError:
        pass
    return step.run("pay", fetch)


def socket_in_a_helper() -> Any:
    connect()
    return step.run("pay", fetch)


def process() -> Any:
    subprocess.run(["true"], check=True)
    return step.run("pay", fetch)


def shell() -> Any:
    os.system("true")
    return step.run("pay", fetch)


def file() -> Any:
    Path("kit.txt").write_text("x")
    return step.run("pay", fetch)


def appended_file() -> Any:
    with open("kit.txt", "a") as opened:  # noqa: PTH123
        opened.write("x")
    return step.run("pay", fetch)


def temporary_file() -> Any:
    with tempfile.NamedTemporaryFile() as opened:
        opened.write(b"x")
    return step.run("pay", fetch)


def set_order() -> Any:
    names = {"a", "b", "c"}
    return [step.run(name, fetch, name) for name in names]


def set_order_of_a_call() -> Any:
    for name in set(["a", "b"]):  # noqa: C405
        step.run(name, fetch, name)


def tags_of(_order: str) -> set[str]:
    return {"cold", "fragile"}


def set_order_of_a_step() -> Any:
    return [step.run(tag, fetch) for tag in step.run("tags", tags_of, "o-1")]


def set_order_of_a_variable() -> Any:
    tags = tags_of("o-1")
    for tag in tags:
        step.run(tag, fetch)


def set_order_of_an_attribute() -> Any:
    basket = SimpleNamespace(tags=tags_of("o-1"))
    return step.map("tags", fetch, basket.tags)


TAGS = frozenset({"cold", "fragile"})


def set_order_of_a_constant() -> Any:
    for tag in TAGS:
        step.run(tag, fetch)


def _each(tags: Any) -> None:
    for tag in tags:
        step.run(tag, fetch)


def set_order_in_a_helper() -> Any:
    _each({"cold", "fragile"})


def sleep_of_a_worker() -> Any:
    time.sleep(0)
    return step.run("pay", fetch)


def thread() -> Any:
    beside = threading.Thread(target=fetch)
    beside.start()
    beside.join()
    return step.run("pay", fetch)


def swallowed() -> Any:
    try:  # noqa: SIM105
        step.sleep("nap", "1h")
    except BaseException:
        pass
    return step.run("pay", fetch)


def swallowed_by_a_bare_except() -> Any:
    for _ in range(2):
        try:
            step.run("pay", fetch)
            step.sleep("1h")
        except:  # noqa: E722
            continue
    return 1


def mutable_default(seen: list[int] = []) -> Any:  # noqa: B006
    seen.append(1)
    return step.run(f"pay-{len(seen)}", fetch)


def global_list() -> Any:
    SEEN.append(1)
    step.run("first", fetch)
    return step.run("second", fetch, len(SEEN))


def counter_of_the_module() -> Any:
    SEEN.append(1)
    if len(SEEN) % 2:
        step.run("odd", fetch)
    step.run("both", fetch)
    return len(SEEN) % 2


MISTAKES: dict[Callable[..., Any], str] = {
    random_id: "os.urandom|uuid",
    random_number: "random.random",
    random_choice: "random.getrandbits",
    a_generator_of_its_own: "random",
    secret_token: "os.urandom",
    bytes_of_the_system: "os.urandom",
    clock_in_a_branch: r"datetime.now",
    time_in_a_branch: r"time\.time",
    today: "datetime.today|date.today",
    step_id_from_a_timestamp: "time.monotonic_ns",
    formatted_time: "time.strftime",
    http_call: "socket",
    socket_in_a_helper: "socket.connect",
    process: "subprocess",
    shell: "os.system",
    file: "for writing",
    appended_file: "for writing",
    temporary_file: "for writing|random",
    set_order: "set",
    set_order_of_a_call: "set",
    set_order_of_a_step: "goes through a set",
    set_order_of_a_variable: "goes through a set",
    set_order_of_an_attribute: "goes through a set",
    set_order_of_a_constant: "goes through a set",
    set_order_in_a_helper: r"_each\(\) goes through a set",
    sleep_of_a_worker: r"time\.sleep",
    thread: "starts a thread",
    swallowed: "BaseException",
    swallowed_by_a_bare_except: "BaseException",
    mutable_default: "pay-",
    global_list: "second",
    counter_of_the_module: "odd|both",
}


@pytest.fixture(autouse=True)
def _nothing_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("body", MISTAKES, ids=lambda body: body.__name__)
def test_a_mistake_is_found(env: DurableEnv, durable: Declare, body: Any) -> None:
    task = durable(body)
    with pytest.raises(ReplayError, match=MISTAKES[body]) as caught:
        env.check_replay(task)
    message = str(caught.value)
    assert message.startswith(f"{body.__name__} does not replay:")
    for line in message.splitlines()[1:]:
        if "outside of a step" in line or "asked for the step" in line:
            assert __file__ in line, "it says where"
        if "outside of a step" in line:
            assert re.search(r":\d+: (take|do|call|let|step\.sleep|its order)", line), "it says what to do"


# ------------------------------------------------------- the same in async def


async def async_random_id() -> Any:
    return await aio.step.run("pay", fetch, str(uuid.uuid4()))


async def async_random_number() -> Any:
    return await aio.step.run("pay", fetch, random.randint(1, 9))


async def async_clock_in_a_branch() -> Any:
    if datetime.datetime.now(datetime.timezone.utc).hour < 25:
        return await aio.step.run("early", fetch)
    return await aio.step.run("late", fetch)


async def async_step_id_from_a_timestamp() -> Any:
    return await aio.step.run(f"pay-{time.time_ns()}", fetch)


async def async_http_call() -> Any:
    with contextlib.suppress(OSError):
        await asyncio.open_connection("127.0.0.1", 9)
    return await aio.step.run("pay", fetch)


async def async_socket() -> Any:
    await aio.step.run("first", fetch)
    connect()
    return await aio.step.run("pay", fetch)


async def async_file() -> Any:
    Path("kit.txt").write_text("x")
    return await aio.step.run("pay", fetch)


async def async_process() -> Any:
    await (await asyncio.create_subprocess_exec("true")).wait()
    return await aio.step.run("pay", fetch)


async def async_set_order() -> Any:
    names = {"a", "b", "c"}
    return await asyncio.gather(*(aio.step.run(name, fetch, name) for name in names))


async def async_set_order_of_a_step() -> Any:
    for tag in await aio.step.run("tags", tags_of, "o-1"):
        await aio.step.run(tag, fetch)


async def async_swallowed() -> Any:
    try:  # noqa: SIM105
        await aio.step.sleep("nap", "1h")
    except BaseException:
        pass
    return await aio.step.run("pay", fetch)


async def async_mutable_default(seen: list[int] = []) -> Any:  # noqa: B006
    seen.append(1)
    return await aio.step.run(f"pay-{len(seen)}", fetch)


async def async_global_list() -> Any:
    SEEN.append(1)
    await aio.step.run("first", fetch)
    return await aio.step.run("second", fetch, len(SEEN))


async def async_in_a_branch() -> Any:
    async def branch(name: str) -> Any:
        return await aio.step.run(name, fetch, time.time())

    return await asyncio.gather(branch("a"), branch("b"))


ASYNC_MISTAKES: dict[Callable[..., Any], str] = {
    async_random_id: "os.urandom|uuid",
    async_random_number: "random.getrandbits",
    async_clock_in_a_branch: "datetime.now",
    async_step_id_from_a_timestamp: "time.time_ns",
    async_http_call: "socket",
    async_socket: "socket.connect",
    async_file: "for writing",
    async_process: "subprocess",
    async_set_order: "set",
    async_set_order_of_a_step: "goes through a set",
    async_swallowed: "BaseException",
    async_mutable_default: "pay-",
    async_global_list: "second",
    async_in_a_branch: r"time\.time",
}


@pytest.mark.parametrize("body", ASYNC_MISTAKES, ids=lambda body: body.__name__)
def test_a_mistake_in_an_async_body_is_found(env: DurableEnv, durable: Declare, body: Any) -> None:
    task = durable(body)
    with pytest.raises(ReplayError, match=ASYNC_MISTAKES[body]):
        env.check_replay(task)


# ---------------------------------------------------------------- more effects


def test_a_task_that_the_body_sends(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def notify(name: str) -> None: ...

    @durable
    def other() -> None: ...

    @durable
    def sends() -> None:
        notify.delay("ann")
        step.run("send", lambda: [bool(notify.delay("bob")), bool(other.delay())])
        step.call("call", notify.s("eve"))

    @durable
    def starts() -> None:
        other.apply_async()
        step.run("first", fetch)

    for task in (sends, starts):
        with pytest.raises(ReplayError, match=rf"{task.__name__}\(\) sends a task \(celery.send_task\)") as caught:
            env.check_replay(task)
        assert str(caught.value).count("outside of a step") == 1
        env.check_replay(task, allow=["celery.send_task"])


def test_a_thread_of_an_async_body(env: DurableEnv, durable: Declare) -> None:
    @durable
    async def threads() -> Any:
        await asyncio.to_thread(connect)
        return await aio.step.run("first", fetch)

    with pytest.raises(ReplayError, match=r"connect\(\) opens a connection"):
        env.check_replay(threads)


# -------------------------------------------------- bodies that would never end


def naps() -> None:
    SEEN.append(1)
    step.sleep(f"nap-{len(SEEN)}", "1h")


def waits() -> None:
    SEEN.append(1)
    step.wait_for_event(f"answer-{len(SEEN)}", "answer", timeout="1h")


def calls() -> Any:
    SEEN.append(1)
    return step.call(f"call-{len(SEEN)}", "elsewhere.task")


def blocks() -> None:
    SEEN.append(1)
    with step.parallel() as p:
        p.run("first", fetch)
        p.sleep(f"nap-{len(SEEN)}", "1h")


async def gathers() -> None:
    SEEN.append(1)
    await asyncio.gather(aio.step.run("first", fetch), aio.step.sleep(f"nap-{len(SEEN)}", "1h"))


@pytest.mark.parametrize("body", [naps, waits, calls, blocks, gathers], ids=lambda body: body.__name__)
def test_a_body_that_waits_for_something_else_each_time_is_found(env: DurableEnv, durable: Declare, body: Any) -> None:
    """It asks for a new step in each pass, and would be woken for ever."""
    if body is calls:
        env.mock("elsewhere.task", returns=1)
    with pytest.raises(ReplayError) as caught:
        env.check_replay(durable(body))
    assert len(SEEN) == 2
    place = rf"\({re.escape(__file__)}, line \d+, in {body.__name__}\)"
    said = rf"the body asked for the step '\w+-2' {place} before it asked for '\w+-1', as it had"
    assert re.search(said, str(caught.value))


def test_a_script_that_fails_for_what_replays_differently(env: DurableEnv, durable: Declare) -> None:
    """The difference is told, and not what the script makes of it."""

    @durable
    def pays() -> Any:
        SEEN.append(1)
        return step.run(f"pay-{len(SEEN)}", fetch, 1)

    with pytest.raises(ReplayError, match="asked for the step 'pay-2'"):
        env.check_replay(pays, script=lambda env, run: run.assert_completed(1))


def test_what_is_given_to_a_step_is_shown_from_both_sides(env: DurableEnv, durable: Declare) -> None:
    @durable
    def pays() -> Any:
        SEEN.append(1)
        step.run("first", fetch)
        return step.run("pay", fetch, len(SEEN))

    with pytest.raises(ReplayError) as caught:
        env.check_replay(pays)
    message = str(caught.value)
    assert "recorded: a 'run' step of" in message
    assert "the code: a 'run' step, given" in message
    assert "has to follow from its arguments and from what steps returned" in message
    assert "deploy" not in message, "it is the same code"
