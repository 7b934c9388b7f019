from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_durable import errors
from celery_durable.core.faults import bounded_error, read_error, summary, write_error
from celery_durable.errors import DamagedRecord, DurableError, NonRetryable, RetryAfter, StepFailed


class Declined(Exception):
    def __init__(self, code: str, *, retry: bool) -> None:
        super().__init__(f"declined with {code}")
        self.code = code
        self.retry = retry


class Plain(ValueError):
    pass


class Remote(Exception):
    def __init__(self, message: str, response: object) -> None:
        super().__init__(message)
        self.response = response
        self.status = 502


class Slotted(Exception):
    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        super().__init__()
        self.detail = detail

    def __str__(self) -> str:
        return f"slotted: {self.detail}"


class Holder:
    class Inner(Exception):
        pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def crossed(error: BaseException, note: str | None = None) -> Exception:
    return read_error(write_error(error, note))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 7),
        KeyError("key"),
        Plain("own", (1, 2)),
        Holder.Inner("nested"),
        ZeroDivisionError(),
        FileNotFoundError(2, "No such file or directory", "/nowhere"),
        OSError(5, "Input/output error"),
        PermissionError("by hand"),
        OSError(39, "Directory not empty", "a", None, "b"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        StopIteration(3),
        NonRetryable("no"),
        RetryAfter("30s", "later"),
        ImportError("none", name="thing", path="/p"),
        AttributeError("none", name="thing"),
    ],
    ids=repr,
)
def test_an_error_comes_back_as_its_own_type(error: Exception) -> None:
    back = crossed(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args


OWN = [name for name in errors.__all__ if isinstance(getattr(errors, name), type) and name != "RunCancelled"]


@pytest.mark.parametrize("name", OWN)
def test_own_errors_come_back(name: str) -> None:
    kind = getattr(errors, name)
    back = crossed(kind("what happened"))
    assert type(back) is kind
    assert str(back) == str(kind("what happened"))


def test_attributes_are_rebuilt_though_init_takes_other_arguments() -> None:
    back = crossed(Declined("51", retry=True))
    assert isinstance(back, Declined)
    assert (back.code, back.retry, str(back)) == ("51", True, "declined with 51")


def test_the_slots_of_an_os_error_are_filled() -> None:
    back = crossed(FileNotFoundError(2, "No such file or directory", "/nowhere"))
    assert isinstance(back, FileNotFoundError)
    assert (back.errno, back.strerror, back.filename) == (2, "No such file or directory", "/nowhere")


def test_an_attribute_that_can_not_be_stored_is_dropped_with_a_note() -> None:
    back = crossed(Remote("bad gateway", object()))
    assert isinstance(back, Remote)
    assert back.status == 502
    assert not hasattr(back, "response")
    assert back.__notes__ == ["not kept with the record: the attributes response"]


def test_notes_are_kept_and_one_is_added() -> None:
    error = ValueError("bad")
    errors.add_note(error, "the user's")
    back = crossed(error, "ours")
    assert back.__notes__ == ["the user's", "ours"]


def _locally_made() -> Exception:
    class Local(Exception):
        pass

    return Local("of a function")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_locally_made(), f"{__name__}._locally_made.<locals>.Local: of a function"),
        (ValueError(object), "ValueError: <class 'object'>"),
        (Slotted("lost"), f"{__name__}.Slotted: slotted: lost"),
        (KeyboardInterrupt("stop"), "KeyboardInterrupt: stop"),
        (Unprintable("x"), f"{__name__}.Unprintable: <its message can't be made: RuntimeError>"),
    ],
    ids=["local class", "unstorable args", "state in slots", "no Exception", "unprintable"],
)
def test_what_can_not_be_rebuilt_is_step_failed(error: BaseException, message: str) -> None:
    back = crossed(error)
    if isinstance(error, Unprintable):  # it has all it had, even if that can't be printed
        assert type(back) in (Unprintable, StepFailed)
        return
    assert type(back) is StepFailed
    assert str(back) == message


def test_summary() -> None:
    try:
        raise Declined("51", retry=False)
    except Declined as error:
        found = summary(write_error(error, "a note"))
    assert found["type"] == f"{__name__}.Declined"
    assert found["message"] == "declined with 51"
    assert found["notes"] == ("a note",)
    assert "raise Declined" in found["traceback"]


def test_a_long_traceback_is_cut_in_the_middle() -> None:
    record = json.loads(write_error(ValueError("x" * 100_000)))
    assert len(record["traceback"]) < 17_000


def test_a_cause_that_leads_back_to_itself() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert str(crossed(first)) == "a"


# -- Records that somebody else wrote


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that could be imported, and tells when it is."""
    (tmp_path / "a_trap.py").write_text("raise SystemExit('imported')")
    package = tmp_path / "a_trap_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "inner.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "a_trap"


def record(kind: str, **values: Any) -> str:
    fields = {"type": kind, "message": "m", "args": "[]", "state": {}, "lost": [], "notes": []}
    return json.dumps(fields | values)


@pytest.mark.parametrize(
    "name", ["a_trap:Error", "a_trap_package:Error", "a_trap_package.inner:Error", "a_trap_package.inner:Error.more"]
)
def test_a_record_imports_no_package_that_is_not_used(trap: str, name: str) -> None:
    before = set(sys.modules)
    error = read_error(record(name))
    assert type(error) is StepFailed
    assert not {module for module in set(sys.modules) - before if module.startswith(trap)}


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "builtins:int",
        "builtins:BaseException",
        "builtins:SystemExit",
        "subprocess:Popen",
        "nowhere:Error",
        "",
        ":",
        "builtins:",
        "builtins:ValueError.__init__",
        "sys:modules",
    ],
)
def test_a_record_makes_nothing_but_exceptions(name: str) -> None:
    assert type(read_error(record(name, args='["echo"]'))) is StepFailed


@pytest.mark.parametrize(
    "values",
    [{"args": "not json"}, {"args": "{}"}, {"state": {"x": "not json"}}, {"args": '[{"$":"pickle","v":1}]'}],
)
def test_a_spoilt_record_is_step_failed(values: dict[str, Any]) -> None:
    error = read_error(record("builtins:ValueError", **values))
    assert isinstance(error, (StepFailed, ValueError))
    if values.get("args") != "{}":
        assert type(error) is StepFailed


def test_own_errors_have_a_page() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    codes = [kind.code for kind in kinds if issubclass(kind, DurableError)]
    assert len(set(codes)) == len(codes)


def raised(error: Exception, depth: int) -> Exception:
    """The error with a traceback that goes through so many calls."""

    def call(left: int) -> None:
        if left:
            call(left - 1)
        raise error

    try:
        call(depth)
    except Exception as caught:
        return caught
    raise AssertionError("not reached")


@pytest.mark.parametrize("room", [0, 200, 500])
def test_a_large_record_loses_its_traceback_before_its_type(room: int) -> None:
    """How deep the folders of an installation are must not decide what the body catches."""
    error = raised(LookupError("no seat"), depth=30)
    bare = len(write_error(LookupError("no seat")))
    record = bounded_error(error, bare + room)
    assert len(record) <= bare + room < len(write_error(error))
    assert type(read_error(record)) is LookupError
    assert str(read_error(record)) == "no seat"


def test_what_is_still_too_large_is_a_failed_step() -> None:
    error = bounded_error(LookupError("x" * 5_000), 2_000)
    assert isinstance(read_error(error), StepFailed)
    assert "too large to store" in str(read_error(error))


@pytest.mark.parametrize(
    "part", ['"traceback": []', '"traceback": 7', '"notes": "n"', '"args": {}', '"state": {"a": 1}']
)
def test_a_record_with_a_part_of_another_kind_is_damaged(part: str) -> None:
    text = f'{{"type": "builtins:ValueError", "message": "", {part}}}'
    for read in (summary, read_error):
        with pytest.raises(DamagedRecord):
            read(text)
