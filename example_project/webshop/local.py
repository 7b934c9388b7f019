"""The whole shop on this machine, without Docker: ``make example``.

Two services of others, a worker and two sites, each a process of its own with a log. A worker that ends is started
again, as a supervisor would; so it may be killed. What is in the folder stays: the next start goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis, RedisError

HERE = "example_project.webshop"
ROOT = Path(__file__).parents[2]
START_LIMIT = 60.0


class CannotStart(Exception):
    """What is missing, and what to do about it."""


class NoBroker(CannotStart):
    """It is all that has to be there already."""


class Program:
    """A process with a log, told to end as Ctrl-C would."""

    def __init__(self, name: str, port: int | None, arguments: list[str], folder: Path, environment: dict[str, str]):
        self.name = name
        self.log = folder / f"{name}.log"
        self._port = port
        self._command = [sys.executable, "-m", *arguments]
        self._environment = os.environ | environment
        self.process: subprocess.Popen[bytes]  # once it is started

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for this program here, which ends the others in order
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def check(self) -> None:
        if self.ended:
            raise CannotStart(f"{self.name} has ended. The end of {self.log}:\n{self.log.read_text()[-2000:]}")

    def ready(self) -> bool:
        self.check()
        return self._port is None or answers(self._port)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class LocalShop:
    """All of it, at a port and the four that follow, with its database, keys and logs in a folder."""

    def __init__(self, folder: Path, port: int = 8000, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ports = range(port, port + 5)
        django, flask, payments, mailbox, smtp = self.ports
        self.site, self.store, self.payments, self.mailbox = (at(one) for one in self.ports[:4])
        self.environment = {
            "PYTHONUNBUFFERED": "1",
            "SHOP_BROKER_URL": "redis://127.0.0.1:6379/0",
            "SHOP_DATABASE_URL": f"sqlite:///{folder / 'shop.db'}",
            "SHOP_SITE_URL": self.site,
            "SHOP_PAYMENTS_URL": self.payments,
            "SHOP_PAYMENTS_WEBHOOK": f"{self.store}/hooks/events/payment.settled",
            "SHOP_SMTP": f"127.0.0.1:{smtp}",
            "SHOP_SMTP_LISTEN": f"127.0.0.1:{smtp}",
            "SHOP_LEASE": "3s",  # to see at once how a killed worker's orders go on; 30 seconds are the default
            **keys(folder / "keys.json"),
            **{name: os.environ[name] for name in os.environ if name.startswith("SHOP_")},
            **settings,
        }
        self.broker = self.environment["SHOP_BROKER_URL"]
        worker = ["celery", "-A", HERE, "worker", "--loglevel", "INFO", "--concurrency", "4"]
        # One process, so that one SIGKILL ends all of it. In production leave the pool to Celery.
        worker += ["--pool", "threads", "--without-gossip", "--without-mingle", "--hostname", f"worker-{port}@%h"]
        self.worker = self._program("worker", None, worker)
        self.services = [
            self._program("payments", payments, flask_site(f"{HERE}.services.payments", payments)),
            self._program("mailbox", mailbox, flask_site(f"{HERE}.services.mailbox", mailbox)),
        ]
        self.sites = [
            self._program("django", django, ["example_project.manage", "runserver", "--noreload", str(django)]),
            self._program("flask", flask, flask_site(f"{HERE}.storefront", flask)),
        ]
        self._started: list[Program] = []

    def _program(self, name: str, port: int | None, arguments: list[str]) -> Program:
        return Program(name, port, arguments, self.folder, self.environment)

    def start(self) -> None:
        for port in self.ports:
            if answers(port):
                raise CannotStart(
                    f'something is listening at port {port}: choose others, make example ARGS="--port ..."'
                )
        self._check_broker()
        self._start(self.services)  # which need no tables
        self._set_up()
        self._start([self.worker, *self.sites])
        wait_for(lambda: all(program.ready() for program in self._started), "all have started")

    def _start(self, programs: list[Program]) -> None:
        for program in programs:
            program.start()
            self._started.append(program)

    def _check_broker(self) -> None:
        place = urlsplit(self.broker)
        host, port = place.hostname or "127.0.0.1", place.port or {"redis": 6379, "amqp": 5672}.get(place.scheme, 0)
        if not answers(port, host):
            raise NoBroker(
                f"no broker answers at {host}:{port}. Start Redis (redis-server), or say where a broker is:\n"
                "SHOP_BROKER_URL=redis://host:6379/0, or SHOP_BROKER_URL=amqp://user:password@host:5672//"
            )

    def _set_up(self) -> None:
        command = [sys.executable, "-m", "example_project.manage", "set_up_shop"]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CannotStart(f"the tables can't be made:\n{done.stdout}{done.stderr[-2000:]}")

    def supervise(self) -> None:
        """Start the worker again if it was told to end, or killed. Whatever ends by itself ends all of it."""
        for program in self._started:
            if program is self.worker and program.ended and program.process.returncode <= 0:
                print(f"The worker has ended ({reason(program.process.returncode)}).", flush=True)
                program.start()
                print(f"Another one is started: the process {program.process.pid}.", flush=True)
            program.check()

    def stop(self) -> None:
        for program in reversed(self._started):
            program.stop()
        if self._started and self.broker.startswith("redis:"):
            self._clear_redis()

    def _clear_redis(self) -> None:
        """What is under way is in the database, and nothing of ours stays in a Redis that may have other users."""
        prefix = self.environment.get("SHOP_REDIS_PREFIX", "webshop:")
        with suppress(RedisError), Redis.from_url(self.broker) as client:
            for key in client.scan_iter(f"{prefix}*"):
                client.delete(key)


def flask_site(module: str, port: int) -> list[str]:
    return ["flask", "--app", f"{module}:site", "run", "--no-reload", "--port", str(port)]


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def answers(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > end:
            raise CannotStart(f"waited {START_LIMIT:g} s in vain until {what}")
        time.sleep(0.1)


def reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else "it was told to"


def keys(file: Path) -> dict[str, str]:
    """Made once: another key for the links in mails would make those that were sent before worthless."""
    if not file.exists():
        file.touch(0o600)
        names = ("SHOP_SECRET_KEY", "SHOP_WEBHOOK_SECRET", "SHOP_STAFF_PASSWORD")
        file.write_text(json.dumps({name: secrets.token_urlsafe(16) for name in names}))
    made: dict[str, str] = json.loads(file.read_text())
    return made


def say(shop: LocalShop) -> None:
    password = shop.environment["SHOP_STAFF_PASSWORD"]
    print(
        f"""
Orders (Flask)       {shop.store}/
Accounts (Django)    {shop.site}/
The mailbox          {shop.mailbox}/
The payment service  {shop.payments}/
Console in Django    {shop.site}/operate/    sign in as staff, with the password {password}
Console in Flask     {shop.store}/console/   sign in with the token {password}

Sign up, and open the link in the mailbox. Order something; order two juicers, and approve that in a console.
Let the payment service be down, or slow, and meanwhile kill the worker:  kill -9 {shop.worker.process.pid}
Logs, the database and the keys are in {shop.folder}. Ctrl-C ends all, and the next start goes on from there.
""",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make example", description="The shop on this machine.")
    parser.add_argument("--port", type=int, default=8000, help="the first of five ports that follow each other")
    parser.add_argument("--folder", type=Path, default=ROOT / ".example", help="where its data and logs are kept")
    chosen = parser.parse_args()
    shop = LocalShop(chosen.folder.resolve(), chosen.port)
    print("Starting ...", flush=True)
    try:
        shop.start()
        say(shop)
        while True:
            shop.supervise()
            time.sleep(0.3)
    except CannotStart as trouble:
        print(f"The example can't run: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopping ...")
        return 0
    finally:
        shop.stop()


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # they end all of it, as Ctrl-C does
    sys.exit(main())
