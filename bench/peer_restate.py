"""Restate doing what ``bench.peers`` asks for, in an environment of its own: ``python -m bench.peer_restate SERVER``.

Its server is started here with a new folder and its defaults, by which each write is synced to the disk. The service is
a process of its own, one event loop, and this process is the client: it speaks HTTP to the server, over one
connection where it does one thing at a time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx  # type: ignore[import-not-found,unused-ignore]  # these three are in its own environment alone
import hypercorn.asyncio  # type: ignore[import-not-found,unused-ignore]
import restate  # type: ignore[import-not-found,unused-ignore]

from bench.order_steps import charge, mail, nothing, reserve, ship
from bench.peer_talk import serve

# mypy: disable-error-code="untyped-decorator,unused-ignore"

AWAKEABLES = "BENCH_AWAKEABLES"
"""Names the folder into which a run that waits writes what it is woken by."""

service = restate.Service("Bench")


def now() -> float:
    return time.time()  # Restate wants a signature, which time.time has not


@service.handler()
async def many_steps(context: restate.Context, count: int) -> None:
    for index in range(count):
        await context.run_typed(f"step-{index}", nothing)


@service.handler()
async def order(context: restate.Context, number: int) -> dict[str, Any]:
    state = await context.run_typed("reserve", reserve, order={"order": number})
    state = await context.run_typed("charge", charge, order=state)
    state = await context.run_typed("ship", ship, order=state)
    return await context.run_typed("mail", mail, order=state)  # type: ignore[no-any-return]


@service.handler()
async def time_of_body(context: restate.Context, _: None) -> float:
    return time.time()


@service.handler()
async def waits(context: restate.Context, key: str) -> float:
    awakeable, event = context.awakeable()
    await context.run_typed("publish", (Path(os.environ[AWAKEABLES]) / key).write_text, data=awakeable)
    await event
    return await context.run_typed("first line", now)  # type: ignore[no-any-return]


@service.handler()
async def naps(context: restate.Context, given: list[int]) -> None:
    count, every = given
    for number in range(1, count + 1):
        if number % every == 0:
            await context.sleep(timedelta(milliseconds=1))
        else:
            await context.run_typed(f"step-{number}", nothing)


@service.handler()
async def asleep(context: restate.Context, seconds: float) -> list[float]:
    asked = await context.run_typed("asked", now)
    await context.sleep(timedelta(seconds=seconds))
    return [asked, await context.run_typed("woke", now)]


# ---------------------------------------------------------------- the server, the service, and what is asked for


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until(answers: Callable[[], Any]) -> None:
    limit = time.monotonic() + 60
    while True:
        try:
            answers()
            return
        except httpx.HTTPError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)


@contextmanager
def started(program: str) -> Iterator[tuple[str, Path]]:
    """The URL of the server with the service, and the folder of awakeables."""
    node, ingress, admin, own = (free_port() for _ in range(4))
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        settings = {
            "RESTATE_BASE_DIR": str(folder / "data"),
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "warn",
            AWAKEABLES: str(folder),
        }
        environment = os.environ | settings
        for command in ([program, "--no-logo"], [sys.executable, "-m", "bench.peer_restate", program, str(own)]):
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ending.callback(process.wait)
            ending.callback(process.kill)
        uri = {"uri": f"http://127.0.0.1:{own}"}
        until(lambda: httpx.post(f"http://127.0.0.1:{admin}/deployments", json=uri, timeout=30).raise_for_status())
        url = f"http://127.0.0.1:{ingress}"
        until(lambda: httpx.post(f"{url}/Bench/time_of_body", json=None, timeout=30).raise_for_status())
        yield url, folder


class Measured:
    """What is asked for."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.client = httpx.Client(base_url=url, timeout=600)
        self.waiting: list[str] = []
        """The runs that wait for an event, the longest first."""
        self.named = 0

    def steps(self, count: int) -> list[float]:
        began = time.perf_counter()
        self._call("many_steps", count)
        return [time.perf_counter() - began]

    def orders(self, count: int) -> list[float]:
        """Asked for at once, each over a connection of its own."""

        async def all_orders() -> float:
            limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
            async with httpx.AsyncClient(base_url=self.url, timeout=600, limits=limits) as client:
                began = time.perf_counter()
                answers = await asyncio.gather(*(client.post("/Bench/order", json=number) for number in range(count)))
                took = time.perf_counter() - began
            assert all(answer.status_code == 200 for answer in answers)
            return took

        return [asyncio.run(all_orders())]

    def starts(self, count: int) -> list[float]:
        found = []
        for _ in range(count):
            began = time.time()
            found.append(self._call("time_of_body", None) - began)
            time.sleep(0.01)
        return found

    def events(self, parked: int, emits: int, pause: float) -> list[float]:
        while len(self.waiting) < parked:
            self.named += 1
            self.waiting.append(f"k{self.named}")
            self._send("waits", self.waiting[-1])
        keys, emitted = self.waiting[:emits], []
        while not all((self.folder / key).exists() for key in self.waiting):
            time.sleep(0.01)
        time.sleep(1)
        for key in keys:
            awakeable = (self.folder / key).read_text()
            emitted.append(time.time())
            self.client.post(f"/restate/awakeables/{awakeable}/resolve", json=key).raise_for_status()
            time.sleep(pause)
        del self.waiting[:emits]
        return [self._result("waits", key) - at for key, at in zip(keys, emitted, strict=True)]

    def suspends(self, count: int, every: int) -> list[float]:
        began = time.perf_counter()
        self._call("naps", [count, every])
        return [time.perf_counter() - began]

    def sleeps(self, count: int, seconds: float, pause: float) -> list[float]:
        keys = []
        for _ in range(count):
            self.named += 1
            keys.append(f"s{self.named}")
            self._send("asleep", seconds, keys[-1])
            time.sleep(pause)
        return [woke - asked - seconds for asked, woke in (self._result("asleep", key) for key in keys)]

    def _call(self, handler: str, given: Any) -> Any:
        answer = self.client.post(f"/Bench/{handler}", json=given).raise_for_status()
        return answer.json() if answer.content else None

    def _send(self, handler: str, given: Any, key: str | None = None) -> None:
        headers = {"idempotency-key": key or given}
        self.client.post(f"/Bench/{handler}/send", json=given, headers=headers).raise_for_status()

    def _result(self, handler: str, key: str) -> Any:
        return self.client.get(f"/restate/invocation/Bench/{handler}/{key}/attach").raise_for_status().json()


def main() -> None:
    if len(sys.argv) > 2:
        config = hypercorn.Config()
        config.bind = [f"127.0.0.1:{sys.argv[2]}"]
        asyncio.run(hypercorn.asyncio.serve(restate.app([service]), config))  # type: ignore[arg-type,unused-ignore]
        return
    with started(sys.argv[1]) as (url, folder):
        measured = Measured(url, folder)
        asked = ("steps", "orders", "starts", "events", "suspends", "sleeps")
        serve({name: getattr(measured, name) for name in asked})


if __name__ == "__main__":
    main()
