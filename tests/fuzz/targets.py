"""What is given anything, and has to return a value or raise the error that it is documented to raise.

Each target is a hypothesis test: pytest runs it with a few examples, and ``make fuzz`` for hours with a fuzzer that is
led by what the code does (``__main__.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.fernet import Fernet as Key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_durable.client.histories import read_history
from celery_durable.client.views import error_of, value_of
from celery_durable.codecs import Fernet
from celery_durable.core.codec import decode, decode_arguments, encode
from celery_durable.core.duration import micros, moment
from celery_durable.core.faults import read_error, summary, with_notes
from celery_durable.core.match import check_match, check_pattern, covers, matches
from celery_durable.core.redaction import DEFAULT
from celery_durable.core.tries import read_tries, with_try
from celery_durable.errors import ConfigurationError, DamagedRecord, DurableError, NotSerializable
from celery_durable.store.dialects import SQLITE
from celery_durable.store.sealing import Sealed
from celery_durable.store.tables import unbounded

from .strategies import json_values, near_json, records

__all__ = ["TARGETS"]

TARGETS: dict[str, Callable[[], None]] = {}
EXAMPLES = 60


def target(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a function that is given anything a target, by its name."""

    def make(check: Callable[..., None]) -> Callable[[], None]:
        limits = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        test: Callable[[], None] = limits(given(*strategies)(check))
        TARGETS[check.__name__] = test
        return test

    return make


@contextmanager
def allowed(*errors: type[BaseException]) -> Iterator[None]:
    """An error of these kinds may come, if it says something, and not all that was given."""
    try:
        yield
    except errors as error:
        said = len(str(error))
    else:
        return
    assert 0 < said < 2_000, "an error says something, and does not repeat all that it was given"


# -- Values and errors


@target(near_json)
def codec(text: str) -> None:
    """A stored value. What is read is written again, and then stays what it is."""
    with allowed(DamagedRecord):
        value = decode(text)
        with allowed(NotSerializable):  # it is nested too deeply, or has too large a number
            again = encode(value)
            assert encode(decode(again)) == again
    assert isinstance(value_of(text), object)
    with allowed(DamagedRecord):
        args, kwargs = decode_arguments(text)
        assert type(args) is list
        assert all(type(name) is str for name in kwargs)


_types = st.sampled_from(
    ["builtins:ValueError", "builtins:OSError", "os:system", "celery:Celery", "nowhere:Error", "", ":", "a.b:c.d"]
)


@target(
    records(
        type=_types | st.text(max_size=30), message=st.text(max_size=20), args=near_json, notes=st.lists(st.text()),
        lost=st.lists(st.text()), state=st.dictionaries(st.text(), near_json, max_size=3), traceback=st.text(),
    )
)  # fmt: skip
def faults(text: str) -> None:
    """A stored error."""
    for read in (read_error, summary, lambda record: with_notes(record, ["a note"])):
        with allowed(DamagedRecord):
            found = read(text)
            assert not isinstance(found, BaseException) or isinstance(found, Exception)
    assert error_of(text).message is not None


@target(near_json, near_json)
def tries(text: str, error: str) -> None:
    """The failed attempts of a step, and one more."""
    assert isinstance(read_tries(text), list)
    with allowed(DamagedRecord):  # of the error: what was there before stops nothing
        assert read_tries(with_try(text, 3, 1, 2, error))[-1].number >= 3


@target(records(celery_durable_history=st.just(1), run=json_values, steps=st.lists(json_values, max_size=3)))
def history(text: str) -> None:
    """An exported history."""
    with allowed(DurableError):
        run, steps = read_history(text)
        assert isinstance(run, dict)
        assert isinstance(steps, list)


# -- What people and other programs write


_written = st.sampled_from(
    ["1h30m", "5 m", "1.5h", "-1s", "1e9d", "9" * 400 + "w", "2026-01-01T00:00:00Z", "0001-01-01"]
)


@target(json_values | _written | st.text("0123456789.smhdw ", max_size=30))
def durations(value: Any) -> None:
    with allowed(ValueError, TypeError):
        assert 0 <= micros(value) <= 100 * 366 * 86_400 * 1_000_000
    with allowed(ValueError, TypeError):
        assert isinstance(moment(value), int)


@target(json_values, near_json, st.text(max_size=20))
def match(pattern: Any, payload: str, name: str) -> None:
    with allowed(ValueError, TypeError):
        assert isinstance(covers(check_pattern(pattern), name), bool)
    with allowed(DamagedRecord):
        value = decode(payload)
        with allowed(TypeError, NotSerializable):
            assert isinstance(matches(check_match(pattern), value), bool)


@target(json_values)
def redaction(value: Any) -> None:
    """Nothing but texts and numbers go: what is shown has the shape of what there was."""

    def shape(of: Any) -> Any:
        if isinstance(of, dict):
            return len(of)
        return [type(item) is list for item in of] if isinstance(of, list) else None

    shown = DEFAULT.value(value)
    assert shape(shown) == shape(value)
    json.dumps(shown)


# -- What is sealed


_fernet = Fernet(Key.generate_key())
_sealed = Sealed(unbounded(), _fernet)


@target(st.binary(max_size=200), near_json, st.integers(0, 400))
def sealing(data: bytes, text: str, place: int) -> None:
    """An encrypted value, of which a character was changed."""
    with allowed(ConfigurationError):
        _fernet.decode(data)
    if text.isascii():
        stored = _sealed.process_bind_param(text, SQLITE)  # type: ignore[arg-type]
        assert stored is not None
        assert _sealed.process_result_value(stored, SQLITE) == text  # type: ignore[arg-type]
        spoilt = stored[: place % len(stored)] + "!" + stored[place % len(stored) + 1 :]
        with allowed(ConfigurationError):
            _sealed.process_result_value(spoilt, SQLITE)  # type: ignore[arg-type]
