from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_durable import errors
from celery_durable.core.duration import SECOND
from celery_durable.core.retry import Retry, next_delay
from celery_durable.errors import DurableError, NonRetryable, RetryAfter, StepTimeout

STEADY = Retry(jitter=False)


def delays(policy: Retry, error: BaseException, luck: float = 0.5) -> list[float | None]:
    """The delays after each failed attempt, in seconds."""
    found: list[float | None] = []
    for attempt in range(1, policy.max_attempts + 1):
        delay = next_delay(policy, attempt, error, luck)
        found.append(None if delay is None else delay / SECOND)
    return found


def test_the_schedule() -> None:
    assert delays(STEADY, ValueError()) == [1, 2, 4, None]
    assert delays(Retry(6, "10s", 3, "2m", jitter=False), ValueError()) == [10, 30, 90, 120, 120, None]
    assert delays(Retry(3, timedelta(seconds=5), 1, jitter=False), ValueError()) == [5, 5, None]
    assert delays(Retry(3, 0, jitter=False), ValueError()) == [0, 0, None]
    assert delays(Retry(2, "1h", max_delay="1m", jitter=False), ValueError()) == [60, None]
    assert delays(Retry(1), ValueError()) == [None]


def test_jitter_is_from_half_to_all_of_the_delay() -> None:
    policy = Retry(delay="10s", backoff=1)
    assert next_delay(policy, 1, ValueError(), 0.0) == 5 * SECOND
    assert next_delay(policy, 1, ValueError(), 1.0) == 10 * SECOND


def test_on_and_never() -> None:
    policy = Retry(on=(OSError, ValueError), never=(UnicodeError,), jitter=False)
    assert next_delay(policy, 1, ConnectionError(), 0) == SECOND
    assert next_delay(policy, 1, ValueError(), 0) == SECOND
    assert next_delay(policy, 1, UnicodeError(), 0) is None  # a ValueError, too
    assert next_delay(policy, 1, KeyError(), 0) is None


def test_one_type_may_stand_alone() -> None:
    policy = Retry(on=OSError, never=FileNotFoundError)  # type: ignore[arg-type]
    assert (policy.on, policy.never) == ((OSError,), (FileNotFoundError,))


def test_non_retryable_ends_it_whatever_the_policy() -> None:
    assert next_delay(Retry(on=(NonRetryable,)), 1, NonRetryable("no"), 0) is None


def test_retry_after_sets_the_delay_and_not_the_number_of_attempts() -> None:
    error = RetryAfter("1h")
    assert next_delay(Retry(3, never=(RetryAfter,)), 1, error, 0) == 3_600 * SECOND
    assert next_delay(Retry(3, max_delay="1s"), 2, error, 0) == 3_600 * SECOND
    assert next_delay(Retry(3), 3, error, 0) is None
    with pytest.raises(ValueError, match="no duration"):
        next_delay(Retry(3), 1, RetryAfter("soon"), 0)


@pytest.mark.parametrize(
    "name",
    [name for name in errors.__all__ if isinstance(getattr(errors, name), type)],
)
def test_own_errors_are_never_retried(name: str) -> None:
    kind = getattr(errors, name)
    if issubclass(kind, DurableError) and kind is not StepTimeout:
        assert next_delay(Retry(on=(Exception,)), 1, kind("x"), 0) is None


def test_a_timeout_is_retried_like_any_error() -> None:
    assert next_delay(STEADY, 1, StepTimeout("slow"), 0) == SECOND
    assert next_delay(Retry(never=(StepTimeout,)), 1, StepTimeout("slow"), 0) is None
    assert next_delay(Retry(on=(OSError,)), 1, StepTimeout("slow"), 0) is None


def test_so_many_attempts_that_a_float_is_not_enough() -> None:
    assert next_delay(Retry(10**9, jitter=False), 10**8, ValueError(), 0) == 600 * SECOND
    assert next_delay(Retry(10**9, backoff=1e300, jitter=False), 10**8, ValueError(), 0) == 600 * SECOND


def test_no_delay_stays_none_however_often() -> None:
    assert next_delay(Retry(10**9, delay=0, backoff=1e300, jitter=False), 10**8, ValueError(), 0) == 0


@given(
    attempt=st.integers(1, 10**6),
    delay=st.floats(0, 1e6),
    backoff=st.floats(1, 1e6),
    most=st.floats(0, 1e6),
    jitter=st.booleans(),
    luck=st.floats(0, 1),
)
def test_no_delay_is_above_the_highest(
    attempt: int, delay: float, backoff: float, most: float, jitter: bool, luck: float
) -> None:
    policy = Retry(10**7, delay, backoff, most, jitter)
    found = next_delay(policy, attempt, ValueError(), luck)
    assert found is not None
    assert 0 <= found <= round(most * SECOND) + 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"max_attempts": 0}, ValueError),
        ({"max_attempts": True}, ValueError),
        ({"max_attempts": 2.5}, ValueError),
        ({"backoff": 0.5}, ValueError),
        ({"backoff": float("nan")}, ValueError),
        ({"backoff": "2"}, ValueError),
        ({"delay": "soon"}, ValueError),
        ({"delay": -1}, ValueError),
        ({"max_delay": None}, TypeError),
        ({"on": ("ValueError",)}, TypeError),
        ({"never": int}, TypeError),
    ],
)
def test_a_wrong_policy_is_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Retry(**wrong)
