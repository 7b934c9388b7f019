"""The codec that encrypts: alone, in each database, and as a setting."""

from __future__ import annotations

import base64
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Connection, select, text

from celery_durable.codecs import Fernet
from celery_durable.engine.settings import read_settings
from celery_durable.errors import ConfigurationError
from celery_durable.store.link import Link
from celery_durable.store.records import Claim, NewEvent
from celery_durable.store.store import Store

from .making import LEASE, a_step, claimed, lease_of, new_run, run_row, step_rows, taken

# Fixed ones: tests are named by them, and two processes that share the tests have to agree on the names.
OLD, NEW, OTHER = (base64.urlsafe_b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
VARIABLE = "CELERY_DURABLE_KEYS"

Opener = Callable[[Any], Store]

# -- The codec alone


@pytest.mark.parametrize("data", [b"", b"x", b'{"a":1}', bytes(range(256)) * 100])
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    codec = Fernet(OLD)
    assert codec.decode(codec.encode(data)) == data


def test_what_is_encoded_shows_nothing_and_is_not_base64_already() -> None:
    encoded = Fernet(OLD).encode(b"secret" * 100)
    assert b"secret" not in encoded
    assert encoded[0] == 0x80
    assert len(encoded) < 700
    assert Fernet(OLD).encode(b"the same") != Fernet(OLD).encode(b"the same")


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (OLD, "<Fernet with 1 key>"),
        (OLD.encode(), "<Fernet with 1 key>"),
        (f"{NEW}, {OLD}\n", "<Fernet with 2 keys>"),
        (f"{NEW},{OLD}".encode(), "<Fernet with 2 keys>"),
        ([NEW, OLD.encode()], "<Fernet with 2 keys>"),
        ((key for key in (NEW, OLD, OTHER)), "<Fernet with 3 keys>"),
    ],
)
def test_keys_are_given_in_any_form_and_never_shown(keys: Any, shown: str) -> None:
    codec = Fernet(keys)
    assert repr(codec) == str(codec) == shown
    assert codec.decode(codec.encode(b"x")) == b"x"


def test_the_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{NEW},{OLD}")
    assert Fernet().decode(Fernet(OLD).encode(b"x")) == b"x"
    assert Fernet(NEW).decode(Fernet().encode(b"x")) == b"x"


def test_the_first_key_writes_and_all_read() -> None:
    before, rotated, after = Fernet(OLD), Fernet([NEW, OLD]), Fernet(NEW)
    assert rotated.decode(before.encode(b"x")) == b"x"
    assert after.decode(rotated.encode(b"x")) == b"x"
    with pytest.raises(ConfigurationError):
        after.decode(before.encode(b"x"))


@pytest.mark.parametrize(
    ("keys", "says"),
    [(NEW, "its key does not fit: .* another key, or changed"), ([NEW, OTHER], "none of its 2 keys fits: ")],
)
def test_an_unknown_key_is_explained(keys: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Fernet(keys).decode(Fernet(OLD).encode(b"x"))


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[::-1], lambda data: b"", bytes.upper])
def test_what_was_changed_is_noticed(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ConfigurationError, match="changed after it was written"):
        Fernet(OLD).decode(spoil(Fernet(OLD).encode(b"x" * 100)))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("", "key 1 of 1 in keys is empty"),
        ([], "empty list of keys"),
        (f"{OLD},", "key 2 of 2 in keys is empty"),
        (f",{OLD}", "key 1 of 2 in keys is empty"),
        ([OLD, "hunter2"], r"key 2 of 2 in keys is no Fernet key \(.*; this has 7\)"),
        (f"{OLD} {NEW}", r"key 1 of 1 in keys is no Fernet key \(.*; this has 89\)"),
        ([OLD, NEW + "hunter2"], "key 2 of 2 in keys is no Fernet key"),
        ("é" * 44, "key 1 of 1 in keys is no Fernet key"),
        ([OLD, 2], "key 2 of 2 in keys is no string but int"),
        (2, "takes a key or a list of keys, not int"),
    ],
)
def test_a_wrong_key_is_named_by_its_place_and_not_shown(keys: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        Fernet(keys)
    assert "Fernet.generate_key().decode()" in str(caught.value)
    assert caught.value.__cause__ is None
    assert not any(secret in str(caught.value) for secret in (OLD, NEW, "hunter2", "é"))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, f"{VARIABLE} is not set in this process"),
        ("", f"key 1 of 1 in {VARIABLE} is empty"),
        (f"{OLD},nonsense", f"key 2 of 2 in {VARIABLE} is no Fernet key"),
    ],
)
def test_a_wrong_environment_is_named(value: str | None, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ConfigurationError, match=says) as caught:
        Fernet()
    assert "Fernet.generate_key().decode()" in str(caught.value)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigurationError, match=r'pip install "celery-durable\[encryption\]"'):
        Fernet(OLD)


def test_threads_share_a_codec() -> None:
    codec, wrong = Fernet([NEW, OLD]), []

    def work(number: int) -> None:
        for turn in range(200):
            data = f"{number}/{turn}".encode()
            if codec.decode(codec.encode(data)) != data:
                wrong.append(data)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_forked_processes_go_on_with_a_codec() -> None:
    """And do not repeat what their parent made random."""
    codec = Fernet(OLD)
    written = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, codec.encode(b"x"))
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            written.append(pipe.read())
    assert [codec.decode(data) for data in written] == [b"x", b"x"]
    assert written[0] != written[1] != codec.encode(b"x")


def test_a_spawned_process_can_be_given_a_codec() -> None:
    codec = Fernet(OLD)
    assert pickle.loads(pickle.dumps(codec)).decode(codec.encode(b"x")) == b"x"


# -- In each database


@pytest.fixture
def sealing(store: Store) -> Iterator[Opener]:
    """Opens the same database with keys."""
    opened: list[Store] = []

    def with_keys(keys: Any) -> Store:
        opened.append(Store(store.engine.url.render_as_string(hide_password=False), sealer=Fernet(keys)))
        return opened[-1]

    yield with_keys
    for one in opened:
        one.engine.dispose()


def test_what_is_stored_can_not_be_read_without_the_key(store: Store, link: Link, sealing: Opener) -> None:
    own = sealing(OLD)
    with own.link() as sealed:
        claim = taken(own, sealed, arguments='"hunter2"', message='"hunter2"')
        step = a_step(
            input='"hunter2"', result='"hunter2"', error='"hunter2"', heartbeat='"hunter2"', tries='"hunter2"'
        )
        own.record(sealed, claim.fence, step, lease_of(claim))
        own.emit(sealed, NewEvent("e1", "n", None, '"hunter2"', "h"), due_in=0)
        own.finish(sealed, claim.fence, status="completed", now=claim.now, lease=LEASE, result='"hunter2"')
        assert run_row(own, sealed)["arguments"] == run_row(own, sealed)["result"] == '"hunter2"'
        read = step_rows(own, sealed)["s"]
        assert {read[name] for name in ("input", "result", "error", "heartbeat", "tries")} == {'"hunter2"'}
        payload = select(own.tables.event.c.payload)
        assert sealed.run(lambda connection: connection.execute(payload).scalar()) == '"hunter2"'
    raw = everything(store, link)
    assert "hunter2" not in raw
    assert raw.count("sealed:") == 9  # arguments, message, five of the step, the event's payload, the run's result


def test_rows_from_before_the_codec_are_read_and_replaced(store: Store, link: Link, sealing: Opener) -> None:
    claim = taken(store, link)
    store.record(link, claim.fence, a_step("plain", result='"before"'), lease_of(claim))
    store.suspend(link, claim.fence, wake_at=None, due_at=None, waiting_on="x")
    own = sealing(OLD)
    with own.link() as sealed:
        claim = claimed(own, sealed)
        assert (claim.arguments, claim.history["plain"].result) == ("[[1],{}]", '"before"')
        own.record(sealed, claim.fence, a_step("sealed", result='"after"', position=1), lease_of(claim))
        assert {row["result"] for row in step_rows(own, sealed).values()} == {'"before"', '"after"'}
    assert "before" in everything(store, link)
    assert "after" not in everything(store, link)


def test_keys_are_rotated_under_a_run(store: Store, link: Link, sealing: Opener) -> None:
    with sealing(OLD).link() as sealed:
        before = sealing(OLD)
        claim = taken(before, sealed)
        before.record(sealed, claim.fence, a_step("old", result='"old"'), lease_of(claim))
        before.suspend(sealed, claim.fence, wake_at=None, due_at=None, waiting_on="x")
    rotated = sealing([NEW, OLD])
    with rotated.link() as sealed:
        claim = claimed(rotated, sealed)
        assert (claim.arguments, claim.history["old"].result) == ("[[1],{}]", '"old"')
        rotated.record(sealed, claim.fence, a_step("new", result='"new"', position=1), lease_of(claim))
        rotated.start(sealed, new_run("r2"))
    after = sealing(NEW)
    with after.link() as sealed:
        assert claimed(after, sealed, "r2").arguments == "[[1],{}]"
        with pytest.raises(ConfigurationError, match="Give this process the key"):
            after.get(sealed, "r1")


def test_a_run_of_another_key_is_set_aside_and_not_lost(store: Store, link: Link, sealing: Opener) -> None:
    right, wrong = sealing(OLD), sealing([NEW, OTHER])
    with right.link() as first, wrong.link() as second:
        right.start(first, new_run("sealed"))
        wrong.start(second, new_run("other"))
        found = wrong.claim(second, "sealed", worker="w", lease=LEASE)
        assert not isinstance(found, Claim)
        row = run_row(store, link, "sealed")
        assert row["status"] == "paused"
        assert row["waiting_on"].startswith("codec: durable_codec (Fernet) can't read a stored value")
        assert "none of its 2 keys fits" in row["waiting_on"]
        assert row["waiting_on"].endswith("Give this process the key that the value was written with.")
        assert isinstance(wrong.claim(second, "other", worker="w", lease=LEASE), Claim)
        assert right.reconsider(first, ["t"]) == 1
        assert claimed(right, first, "sealed").arguments == "[[1],{}]"


def test_the_sweeper_sets_such_a_run_aside_too(store: Store, link: Link, sealing: Opener) -> None:
    right, wrong = sealing(OLD), sealing(NEW)
    with right.link() as first, wrong.link() as second:
        right.start(first, new_run("sealed"))
        wrong.start(second, new_run("other"))
        assert [due.fence.run_id for due in wrong.due(second, 10)] == ["other"]
    row = run_row(store, link, "sealed")
    assert (row["status"], "its key does not fit" in row["waiting_on"]) == ("paused", True)


def everything(store: Store, link: Link) -> str:
    """All rows of all tables as the database has them, past every type of ours."""
    names = [table.name for table in store.tables.metadata.sorted_tables]

    def read(connection: Connection) -> str:
        return repr([connection.execute(text(f"SELECT * FROM {name}")).all() for name in names])

    return link.run(read)


# -- As a setting


def setting(value: Any) -> Any:
    app = Celery("codecs", set_as_current=False)
    app.conf.durable_codec = value
    return read_settings(app.conf.get).sealer


@pytest.mark.parametrize("value", ["celery_durable.codecs.Fernet", Fernet([NEW, OLD]), Fernet(OLD)])
def test_it_is_named_or_made(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, OLD)
    sealer = setting(value)
    assert isinstance(sealer, Fernet)
    assert sealer.decode(Fernet(OLD).encode(b"x")) == b"x"


def test_without_keys_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigurationError, match=f"durable_codec: .*{VARIABLE} is not set"):
        setting("celery_durable.codecs.Fernet")


def test_a_shown_configuration_has_no_keys() -> None:
    app = Celery("codecs", set_as_current=False)
    app.conf.durable_codec = Fernet([NEW, OLD])
    shown = app.conf.humanize(with_defaults=False) + repr(app.conf.table()) + repr(dict(app.conf))
    assert "<Fernet with 2 keys>" in shown
    assert NEW not in shown
    assert OLD not in shown
