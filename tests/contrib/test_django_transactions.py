"""``step.transaction`` over the ORM: the function's rows and the step's record are one Django transaction."""

from __future__ import annotations

import uuid

import pytest

from tests.contrib.test_django_app import Project, project

__all__ = ["project"]


@pytest.fixture
def number() -> str:
    """An order that no other test has."""
    return uuid.uuid4().hex[:8]


def test_the_orm_writes_in_the_transaction_of_the_step(project: Project, number: str) -> None:
    found = project.scenario("run", "paying", number)
    assert (found["result"], found["paid"]) == (1, 2)  # by the ORM, and by the connection that the function is given
    assert found["steps"] == {"pay": "completed", "pay-by-hand": "completed"}


def test_what_a_failed_function_wrote_is_taken_back(project: Project, number: str) -> None:
    found = project.scenario("run", "refused", number)
    assert (found["result"], found["paid"]) == ("the card was refused", 0)


def test_branches_have_a_transaction_each(project: Project, number: str) -> None:
    found = project.scenario("side_by_side", *(f"{number}-{one}" for one in range(3)))
    assert found == {"result": [1, 1, 1], "paid": [1, 1, 1]}


@pytest.mark.parametrize("task", ["in_time", "awaiting"])
def test_on_whatever_thread_the_function_is_called(project: Project, number: str, task: str) -> None:
    found = project.scenario("run", task, number)
    assert (found["result"], found["paid"]) == (1, 1)


def test_a_function_whose_time_is_up_leaves_nothing(project: Project, number: str) -> None:
    assert project.scenario("late_writes", number) == {"result": "StepTimeout", "paid": 0, "went_on": 1}


@pytest.mark.parametrize(("moment", "steps", "paid"), [("before", [], 0), ("after", ["pay"], 1)])
def test_a_worker_that_dies_at_the_commit_leaves_both_or_neither(
    project: Project, number: str, moment: str, steps: list[str], paid: int
) -> None:
    project.alone("die", moment, number, dies=True)
    found = project.scenario("recover", number)
    assert found["before"] == {"paid": paid, "steps": steps}
    assert (found["result"], found["paid"]) == (1, 2)  # each of the two steps paid once


def test_a_worker_that_has_lost_the_run_takes_its_writes_back(project: Project, number: str) -> None:
    assert project.scenario("overtaken", number) == {"state": "IGNORED", "paid": 0, "steps": []}


def test_inside_a_transaction_of_the_callers_it_refuses(project: Project, number: str) -> None:
    found = project.scenario("inside_atomic", number)
    assert "step.transaction commits by itself" in found["error"]
    assert found["paid"] == 0


def test_in_the_testing_kit_the_rows_are_of_the_test(project: Project, number: str) -> None:
    assert project.scenario("in_the_kit", number) == {"result": 1, "inside": 2, "paid": 0, "runs": 0}
