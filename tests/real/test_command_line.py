"""The command line beside real workers: a run is followed as it goes on, and the doctor finds nothing wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.real.control_tasks import asleep
from tests.real.stage import ROOT, Stage
from tests.real.tasks import twice_parked

COMMAND = (sys.executable, "-m", "celery", "-A", "tests.real.app", "durable")


def durable(*words: str) -> Any:
    return subprocess.Popen([*COMMAND, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(command: Any, exit_code: int) -> str:
    out, errors = command.communicate(timeout=60)
    assert command.returncode == exit_code, out + errors
    return str(out)


def test_a_run_is_followed_to_its_end(shared_stage: Stage) -> None:
    run = twice_parked.delay(1)
    lines = said(durable("watch", run.id), 0).splitlines()
    assert [line.split()[3] for line in lines[:-1]] == ["begin", "first", "middle", "second", "end"]
    assert lines[-1].endswith(", 5 steps  2")


def test_a_run_that_fails_is_followed_to_its_end(shared_stage: Stage) -> None:
    run = twice_parked.delay(1, fail=True)
    assert said(durable("watch", run.id), 1).splitlines()[-1] == "  ValueError: failed with 1"


def test_a_run_is_cancelled_while_it_is_followed(shared_stage: Stage) -> None:
    run = asleep.delay()
    shared_stage.wait_for(run, "suspended")
    watching = durable("watch", run.id, "--json")
    said(durable("cancel", run.id, "--reason", "not wanted"), 0)
    assert json.loads(said(watching, 1).splitlines()[-1])["run"]["status"] == "cancelled"


def test_the_doctor_finds_nothing_wrong(shared_stage: Stage) -> None:
    told = json.loads(said(durable("doctor", "--json"), 0))
    assert {check["check"]: check["found"] for check in told["checks"] if check["state"] != "ok"} == {}
