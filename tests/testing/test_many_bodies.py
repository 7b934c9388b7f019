"""Bodies that nobody has thought of: whatever is made of verbs alone passes ``check_replay``."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from celery_durable import Retry, aio, step
from celery_durable.testing import DurableEnv

from .conftest import Declare

SEEDS = range(25)
DRAWS = ["random.random", "random.getrandbits"]  # of a generator with a seed: the same each time
OFTEN = Retry(max_attempts=3, delay="1m")


def uncertain(number: int) -> int:
    if step.current().attempt <= number % 4:
        raise ConnectionError(f"attempt {step.current().attempt}")
    return number


async def slowly(number: int) -> int:
    await asyncio.sleep(number * 600)
    return uncertain(number)


def one_step(chance: random.Random, name: str, verbs: Any) -> Any:
    number = chance.randrange(7)
    return chance.choice(
        [
            lambda: verbs.options(retry=OFTEN).run(name, uncertain, number),
            lambda: verbs.options(at_most_once=True).run(name, abs, number),
            lambda: verbs.sleep(name, number * 1000),
            lambda: verbs.wait_for_event(name, "paid", timeout=number * 3000),
        ]
    )()


def body(seed: int) -> Any:
    chance = random.Random(seed)
    found: list[Any] = []
    for number in range(chance.randrange(1, 6)):
        name = f"step-{number}"
        with contextlib.suppress(ConnectionError):
            kind = chance.randrange(7)
            if kind == 0:
                with step.parallel(settle=True) as p:
                    futures = [one_step(chance, f"{name}-{part}", p) for part in range(3)]
                found += [repr(future.exception()) for future in futures]
            elif kind == 1:
                with step.race() as r:
                    for part in range(3):
                        one_step(chance, f"{name}-{part}", r)
            elif kind == 2:
                with step.lock(name, "shop", ttl="2d"):
                    one_step(chance, f"{name}-inside", step)
            elif kind == 3:
                found += [step.state.increment("count"), step.random(), str(step.uuid4()), step.now().isoformat()]
            elif kind == 4:
                found.append(step.emit(name, "told", {"n": number}))
            else:
                found.append(repr(one_step(chance, name, step)))
    return found


async def async_body(seed: int) -> Any:
    chance = random.Random(seed)
    found: list[Any] = []

    async def branch(name: str, length: int, number: int) -> Any:
        for index in range(length):
            with contextlib.suppress(ConnectionError):
                await aio.step.options(retry=OFTEN).run(f"{name}-{index}", slowly, number + index)
            await aio.step.sleep(f"{name}-nap-{index}", 500 * number)
        return name

    for number in range(chance.randrange(1, 4)):
        parts = [(f"{number}-{part}", chance.randrange(3), chance.randrange(6)) for part in range(3)]
        if chance.random() < 0.7:
            found.append(await asyncio.gather(*(branch(*part) for part in parts)))
        else:
            found.append([await branch(*part) for part in parts])
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("made", [body, async_body], ids=["def", "async"])
def test_a_body_of_verbs_passes(env: DurableEnv, durable: Declare, made: Any, seed: int) -> None:
    task = durable(made)

    def script(of: DurableEnv) -> None:
        for number in range(3):
            of.advance("10m")
            of.emit("paid", number)

    run = env.check_replay(task, seed, script=script, allow=DRAWS)
    assert run.status in ("completed", "failed")
