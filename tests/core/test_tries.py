from __future__ import annotations

import json

from celery_durable.core.faults import write_error
from celery_durable.core.tries import Try, read_tries, with_try


def test_each_attempt_is_appended() -> None:
    one = with_try(None, 1, 10, 20, write_error(ValueError("no")))
    two = with_try(one, 2, 30, None, write_error(json.JSONDecodeError("what?", "", 0)))
    assert read_tries(two) == [
        Try(1, 10, 20, "ValueError", "no"),
        Try(2, 30, None, "json.decoder.JSONDecodeError", "what?: line 1 column 1 (char 0)"),
    ]
    assert read_tries(None) == []


def test_the_newest_are_kept_and_none_is_long() -> None:
    tries = None
    for number in range(1, 26):
        tries = with_try(tries, number, number, number, write_error(ValueError("ü" * 10_000)))
    assert tries is not None
    assert tries.isascii()
    found = read_tries(tries)
    assert [one.number for one in found] == list(range(6, 26))
    assert {one.message for one in found} == {"ü" * 497 + "..."}
    assert read_tries(with_try(None, 1, 1, 1, write_error(ValueError("x" * 500))))[0].message == "x" * 500


def test_they_are_counted_on_where_the_attempts_begin_again() -> None:
    tries = None
    for attempt in (1, 2, 1, 1):
        tries = with_try(tries, attempt, None, None, write_error(ValueError("no")))
    assert [one.number for one in read_tries(tries)] == [1, 2, 3, 4]
    old = with_try(None, 3, None, None, write_error(ValueError("no")))  # the first two were not kept yet
    assert [one.number for one in read_tries(old)] == [3]
