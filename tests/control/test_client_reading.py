"""Finding runs, and reading what there is of them: on every database alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_durable import Retry, step
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND, as_datetime
from celery_durable.core.ids import fingerprint
from celery_durable.core.redaction import redact_value
from celery_durable.engine.events import new_event
from celery_durable.errors import RunNotFound
from celery_durable.model import Page, Run
from celery_durable.store.lines import Line
from celery_durable.store.link import Link
from celery_durable.store.records import Claim, Deed, NewRun, Parent
from celery_durable.store.store import Store
from tests.store.calling import called
from tests.store.making import put, taken

from .operating import LEASE, Clerk, begin, driver_of, emitted, ended, fail

LONG_AGO = 1_600_000_000 * SECOND


def ids(page: Page[Run]) -> list[str]:
    return sorted(run.id for run in page)


@pytest.fixture
def many(store: Store, link: Link) -> Store:
    """Runs of all kinds, one second after the other."""
    begin(store, link, "pending")
    called(store, link, "child", parent="caller")
    for name in ("failed", "completed", "waiting"):
        begin(store, link, name)
    begin(store, link, "other", task="ship", args=("o-42", {"to": "ÄÖ_ü"}))
    event = new_event("e-1", "customer.created", {}, None, max_payload=1000)
    store.emit(link, event, SECOND)
    found = store.event(link, "e-1")
    assert found is not None
    begin(store, link, "triggered", event=found.seq)
    for number, name in enumerate(("pending", "caller", "child", "failed", "completed", "waiting", "other")):
        put(store, link, name, created_at=LONG_AGO + number * SECOND)
    bodies: dict[str, Callable[[], Any]] = {
        "failed": lambda: step.options(retry=Retry(max_attempts=1)).run("s", fail, "Grüße, 100%_fail"),
        "completed": lambda: {"said": 'She said "hi" \\ bye', "name": "Zoë 日本 😀"},
        "waiting": lambda: step.wait_for_event("w", "order.paid", key="k"),
    }
    for name, body in bodies.items():
        driver_of(store, body).one_pass(name)
    return store


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"status": "pending"}, ["child", "other", "pending", "triggered"]),
    ({"status": "failed"}, ["failed"]),
    ({"status": ("failed", "completed")}, ["completed", "failed"]),
    ({"status": {"suspended": 1}.keys()}, ["caller", "waiting"]),
    ({"status": "cancelled"}, []),
    ({"task": "ship"}, ["other"]),
    ({"task": "shi"}, []),
    ({"since": as_datetime(LONG_AGO + 5 * SECOND)}, ["other", "triggered", "waiting"]),
    ({"until": as_datetime(LONG_AGO + 2 * SECOND)}, ["caller", "pending"]),
    ({"since": LONG_AGO // SECOND + 1, "until": LONG_AGO // SECOND + 3}, ["caller", "child"]),
    ({"parent": "caller"}, ["child"]),
    ({"parent": "child"}, []),
    ({"waiting_on": "order.paid"}, ["waiting"]),
    ({"waiting_on": "event 'ORDER"}, ["waiting"]),
    ({"waiting_on": "order_paid"}, []),
    ({"waiting_on": "%"}, []),
    ({"event": "e-1"}, ["triggered"]),
    ({"event": "e-2"}, []),
    ({"status": "suspended", "task": "t", "waiting_on": "paid", "search": "wait"}, ["waiting"]),
    ({"status": "pending", "task": "t", "parent": "caller", "until": as_datetime(LONG_AGO)}, []),
]


def test_each_filter_finds_its_runs(many: Store) -> None:
    clerk = Clerk(many)
    assert {str(which): ids(clerk.runs(**which)) for which, _ in FILTERS} == {str(which): ids for which, ids in FILTERS}


def test_a_filter_for_no_status_finds_no_run(many: Store) -> None:
    assert ids(Clerk(many).runs(status=[])) == []


TEXTS: dict[str, list[str]] = {
    "o-42": ["other"],
    "O-42": ["other"],
    "ÄÖ_ü": ["other"],
    "ÄÖ%ü": [],
    "ship": ["other"],
    "Zoë": ["completed"],
    "zoë": ["completed"],
    "日本 😀": ["completed"],
    "日": ["completed"],
    '"hi"': ["completed"],
    "\\ bye": ["completed"],
    "Grüße, 100%_fail": ["failed"],
    "100%": ["failed"],
    "%_": ["failed"],
    "1_0": [],
    "1%0": [],
    "x/": [],
    "/%": [],
    "ValueError": ["failed"],
    "riggere": ["triggered"],
    "nothing of the kind": [],
    "'; DROP TABLE durable_run; --": [],
}


def test_a_text_is_found_wherever_it_is(many: Store) -> None:
    clerk = Clerk(many)
    assert {text: ids(clerk.runs(search=text)) for text in TEXTS} == TEXTS


@pytest.mark.parametrize("name", ["bestellung-ä", "BESTELLUNG-Ä", "łódź", "ŁÓDŹ"])
def test_an_id_of_any_alphabet_is_found_by_its_text(store: Store, link: Link, clerk: Clerk, name: str) -> None:
    begin(store, link, f"{name}-1")
    assert ids(clerk.runs(search=name)) == [f"{name}-1"]


class Reverse:
    """A codec that hides what it is given, and not well."""

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    def decode(self, data: bytes) -> bytes:
        return data[::-1]


@pytest.fixture
def sealed(database_url: str) -> Iterator[Store]:
    opened = Store(database_url, sealer=Reverse())
    opened.migrate()
    yield opened
    opened.engine.dispose()


def test_in_a_sealed_store_ids_alone_are_searched_and_all_is_read(sealed: Store) -> None:
    clerk = Clerk(sealed)
    with sealed.link() as link:
        begin(sealed, link, "order-1", args=("needle",))
        driver_of(sealed, lambda _: {"found": "needle"}).one_pass("order-1", "needle")
    assert ids(clerk.runs(search="needle")) == []
    assert ids(clerk.runs(search="ORDER")) == ["order-1"]
    (found,) = clerk.runs(search="order")
    assert (found.args, found.result) == (["needle"], {"found": "needle"})
    copy = clerk.replay("order-1", task_id="copy", reason="again")
    assert (copy.args, clerk.get("order-1").audit[0].details) == (["needle"], {"run": "copy"})


# -- Pages


def test_pages_are_complete_and_have_no_run_twice_while_new_ones_come(store: Store, link: Link, clerk: Clerk) -> None:
    for number in range(25):
        begin(store, link, f"r{number:02}")
        put(store, link, f"r{number:02}", created_at=LONG_AGO + number // 4)  # four at each moment
    seen: list[str] = []
    after = None
    for turn in range(100):
        page = clerk.runs(limit=3, after=after)
        assert len(page) <= 3
        seen += [run.id for run in page]
        begin(store, link, f"late-{turn}")
        if page.next is None:
            break
        after = page.next
    assert seen == [f"r{number:02}" for number in sorted(range(25), key=lambda n: (n // 4, n), reverse=True)]
    assert len(clerk.runs(limit=34)) == 34
    assert clerk.runs(limit=34).next is None  # 25 and 9: exactly one page


def test_a_page_says_whether_there_is_more(store: Store, link: Link, clerk: Clerk) -> None:
    assert clerk.runs() == ()
    assert clerk.runs().next is None
    for name in ("a:1", "b:2"):  # a colon is in what a page hands over, too
        begin(store, link, name)
        put(store, link, name, created_at=LONG_AGO)
    first = clerk.runs(limit=1)
    assert [run.id for run in first] == ["b:2"]
    assert [run.id for run in clerk.runs(limit=1, after=first.next)] == ["a:1"]
    assert clerk.runs(limit=2).next is None


REFUSED: list[tuple[dict[str, Any], type[Exception]]] = [
    *(({"limit": limit}, ValueError) for limit in (0, 1001, True, "5")),
    *(({"after": after}, ValueError) for after in ("yesterday", "12")),
    ({"status": "done"}, ValueError),
    ({"status": ["failed", "broken"]}, ValueError),
    ({"task": ""}, ValueError),
    ({"search": 5}, ValueError),
    ({"queue": "q"}, TypeError),
]


def test_what_can_t_be_meant_is_refused(clerk: Clerk) -> None:
    for given, error in REFUSED:
        with pytest.raises(error):
            clerk.runs(**given)


# -- One run


def test_a_run_tells_where_it_comes_from_and_what_came_of_it(store: Store, link: Link, clerk: Clerk) -> None:
    def body() -> Any:
        step.set_progress(1, 2, "half")
        first = step.run("first", lambda: 1)
        step.call("call", "below")
        return first

    driver = driver_of(store, body)
    driver.start("root")
    driver.one_pass("root")
    (child,) = clerk.get("root").children
    assert (clerk.get(child).parent, clerk.get(child).parent_step) == ("root", "call")
    fork = clerk.fork("root", "call", task_id="forked", by="ann", reason="look")
    clerk.replay("root", task_id="replayed", by="bob")
    root = clerk.get("root")
    assert root.copies == ("forked", "replayed")
    assert [(deed.action, deed.actor, deed.reason) for deed in root.audit] == [
        ("fork", "ann", "look"),
        ("replay", "bob", None),
    ]
    assert (fork.forked_from, fork.forked_at, fork.replayed_from, fork.parent) == ("root", "call", None, None)
    replayed = clerk.get("replayed")
    assert (replayed.forked_from, replayed.forked_at, replayed.replayed_from) == (None, None, "root")
    assert root.progress is not None
    assert (root.progress.value, root.progress.total, root.progress.note) == (1, 2, "half")
    assert [(one.id, one.kind, one.status, one.child) for one in root.steps] == [
        ("first", "run", "completed", None),
        ("call", "call", "waiting", child),
    ]
    assert (root.generation, root.restarts, root.started_by, root.cancelling) == (0, 0, None, None)


def test_the_event_that_started_a_run_is_told_of_it_and_of_its_copies(many: Store) -> None:
    clerk = Clerk(many)
    assert clerk.get("triggered").started_by == "e-1"
    assert clerk.replay("triggered", task_id="again").started_by == "e-1"
    assert clerk.get("waiting").started_by is None


def test_a_run_that_is_not_there_is_not_found(clerk: Clerk) -> None:
    for ask in (clerk.get, clerk.logs, clerk.cancel, clerk.pause, clerk.resume, clerk.retry, clerk.replay):
        with pytest.raises(RunNotFound, match="'nowhere'"):
            ask("nowhere")
    with pytest.raises(RunNotFound, match="'nowhere'"):
        clerk.fork("nowhere", "s")


def test_secrets_are_not_shown_in_inputs(store: Store, link: Link) -> None:
    def body(*_: Any) -> None:
        step.run("log-in", lambda **_: None, password="hunter2", user="ann")

    clerk = Clerk(store, redact_value)
    begin(store, link, args=({"api_key": "k-123", "amount": 5},))
    driver_of(store, body).one_pass()
    run = clerk.get("r1")
    assert run.args == [{"api_key": "***", "amount": 5}]
    assert clerk.runs()[0].args == run.args
    assert run.steps[0].input == [[], {"password": "***", "user": "ann"}]
    # What a copy is started with is not what is shown:
    clerk.replay("r1", task_id="copy")
    kept = Clerk(store).get("copy")
    assert kept.args == [{"api_key": "k-123", "amount": 5}]


# -- Figures, and who did what


def test_figures_count_what_there_is(many: Store, link: Link) -> None:
    clerk = Clerk(many)
    stats = clerk.stats()
    assert stats.statuses == {
        "pending": 4, "running": 0, "suspended": 2, "paused": 0, "completed": 1, "failed": 1, "cancelled": 0,
    }  # fmt: skip
    assert stats.tasks["ship"] == {"pending": 1}
    assert sum(stats.tasks["t"].values()) == 7
    assert (stats.queued, stats.undispatched_events, stats.sweeper) == (0, 1, None)
    put(many, link, "pending", due_at=many.now(link) - 90 * SECOND)
    assert 89 < clerk.stats().lag < 120
    assert many.take_lease(link, "sweeper", "w/1", LEASE)
    assert clerk.stats().sweeper == "w/1"
    line = Line("t", 1)
    assert isinstance(many.claim(link, "pending", worker="w", lease=LEASE, line=line), Claim)
    many.claim(link, "child", worker="w", lease=LEASE, line=line)
    assert (clerk.stats().queued, clerk.stats().statuses["running"]) == (1, 1)


def test_ordinary_tasks_are_neither_listed_nor_counted(store: Store, link: Link, clerk: Clerk) -> None:
    called(store, link, "plain", kind="task")
    assert ids(clerk.runs()) == ["r1"]
    assert clerk.stats().statuses["pending"] == 0
    assert clerk.get("r1").children == ("plain",)


def test_the_audit_log_is_read_newest_first_and_in_pages(store: Store, link: Link, clerk: Clerk) -> None:
    begin(store, link)
    for number in range(4):
        clerk.pause("r1", by=f"ann-{number}", reason="x" * 600)
        clerk.resume("r1", by=f"bob-{number}")
    seen, after = [], None
    while True:
        page = clerk.audit(limit=3, after=after)
        seen += [(deed.action, deed.actor) for deed in page]
        if page.next is None:
            break
        after = page.next
    told = [(action, f"{who}-{n}") for n in range(4) for action, who in (("pause", "ann"), ("resume", "bob"))]
    assert seen == told[::-1]
    assert [(deed.action, deed.actor) for deed in clerk.get("r1").audit] == told
    assert {len(deed.reason or "") for deed in clerk.audit()} == {0, 500}
    for wrong in ({"limit": 0}, {"after": "x"}):
        with pytest.raises(ValueError):
            clerk.audit(**wrong)


def test_who_did_it_is_told_where_nobody_says(store: Store, link: Link, clerk: Clerk) -> None:
    begin(store, link)
    clerk.cancel("r1")
    (deed,) = clerk.get("r1").audit
    assert "@" in deed.actor
    assert (deed.action, deed.reason, deed.details) == ("cancel", "cancelled by hand", None)


def test_what_a_task_keeps_in_its_state_is_read(store: Store) -> None:
    clerk = Clerk(store)

    def body() -> Any:
        step.state.set("ä", {"x": (1, 2)})
        step.state.increment("n", 3)
        step.state.set("gone", 1)
        return step.state.delete("gone")

    driver = driver_of(store, body)
    driver.start()
    assert driver.value() is True
    assert clerk.state("t") == {"n": 3, "ä": {"x": (1, 2)}}
    assert clerk.state("other") == {}


def test_a_run_that_an_event_woke_is_found_by_it(store: Store, link: Link, clerk: Clerk) -> None:
    driver = driver_of(store, lambda: step.wait_for_event("w", "paid", key="k"))
    driver.start()
    driver.one_pass()
    assert emitted(store, link, "paid", "k", "e-9") == ["r1"]
    assert ids(clerk.runs(event="e-9")) == ["r1"]
    assert clerk.event("e-9").woke == ("r1",)


def test_a_child_is_shown_with_its_parent(store: Store, link: Link, clerk: Clerk) -> None:
    claim = taken(store, link, "top")
    arguments = encode([[], {}])
    child = NewRun("below", "t", arguments, fingerprint(arguments), "{}", parent=Parent("top", "c"))
    store.start(link, child)
    ended(store, link, claim)
    assert clerk.get("below").parent == "top"
    assert clerk.get("top").children == ("below",)
    assert store.pause_by_hand(link, "below", Deed("pause", "x"))
    assert [run.parent for run in clerk.runs(status="paused")] == ["top"]
