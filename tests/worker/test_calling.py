"""What a step may call, and how its end is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.app.trace import build_tracer
from celery.canvas import Signature
from kombu import Queue

from celery_durable import Durable, DurableTask, NotSerializable, PayloadTooLarge, Run, step
from celery_durable.core.codec import decode
from celery_durable.engine.passing import GRACE
from celery_durable.store.records import Due
from celery_durable.worker.backlog import Backlog
from celery_durable.worker.calling import CANVAS, target_of
from celery_durable.worker.message import PASS_HEADER, _options
from celery_durable.worker.reporting import REPORT, REPORT_ERROR, end_call, look_after
from celery_durable.worker.runtime import runtime_of
from tests.worker.conftest import Desk

from .called import Tasks


@pytest.fixture
def tasks(app: Celery) -> Tasks:
    return Tasks(app)


def options_of(app: Celery, signature: Any, queue: str | None = None) -> dict[str, Any]:
    """What Celery is asked for when what is called is sent."""
    target = target_of(app, signature, queue)
    return _options(app, target.new_run("child").message, target.name)


def few_bytes(app: Celery) -> None:
    runtime = runtime_of(app)
    runtime.settings = replace(runtime.settings, max_payload=8000)


# ------------------------------------------------------------------- what may be called


def test_a_name_a_signature_and_a_canvas(app: Celery, tasks: Tasks) -> None:
    given = ["add", app.signature("add", args=(1,)), tasks.add.s(1, b=2), tasks.double.s(1), "not.known.here"]
    app.tasks["add"].typing = False  # a name comes without arguments
    targets = [target_of(app, one, None) for one in given]
    assert [target.name for target in targets] == ["add", "add", "add", "double", "not.known.here"]
    assert [target.new_run("c").kind for target in targets] == ["task", "task", "task", None, "task"]
    assert decode(targets[2].given) == {"task": "add", "arguments": [[1], {"b": 2}]}
    canvases = [chain(tasks.add.s(1), tasks.add.s(2)), group(tasks.add.s(1)), tasks.add.chunks([(1,), (2,)], 2)]
    canvases.append(chord([tasks.add.s(1)], tasks.total.s()))
    assert {target_of(app, one, None).name for one in canvases} == {CANVAS}


@pytest.mark.parametrize("what", ["task", "result", "function", "data", "none"])
def test_anything_else_is_refused_with_the_cure(app: Celery, tasks: Tasks, what: str) -> None:
    data = dict(tasks.add.s(1))
    given = {"task": tasks.add, "result": tasks.add.AsyncResult("1"), "function": print, "data": data, "none": None}
    with pytest.raises(TypeError, match=r"a signature is expected, such as task\.s\(1, 2\)"):
        target_of(app, given[what], None)


def test_arguments_are_checked_when_it_is_asked(app: Celery, tasks: Tasks) -> None:
    for signature in (tasks.add.s(), tasks.add.s(1, 2, 3), tasks.double.s(), tasks.double.s(1, other=2), "add"):
        with pytest.raises(TypeError, match="argument"):
            target_of(app, signature, None)


def test_what_can_not_be_stored_is_refused(app: Celery, tasks: Tasks) -> None:
    with pytest.raises(NotSerializable, match="an argument of add"):
        target_of(app, tasks.add.s(object()), None)
    with pytest.raises(NotSerializable):
        target_of(app, chain(tasks.add.s(object()), tasks.add.s(1)), None)


def test_too_many_bytes_are_refused(app: Celery, tasks: Tasks) -> None:
    @app.task(shared=False, base=DurableTask, name="reads")
    def reads(text: str) -> None: ...

    few_bytes(app)
    for signature in (tasks.add.s("x" * 8000), reads.s("x" * 8000), chain(tasks.add.s("x" * 8000))):
        with pytest.raises(PayloadTooLarge, match="durable_max_payload"):
            target_of(app, signature, None)


def test_options_are_carried_over(app: Celery, tasks: Tasks) -> None:
    link, error = tasks.total.s(), tasks.fails.s()
    asked = tasks.add.s(1).set(queue="q", priority=3, headers={"tenant": "t1"}, link=[link], link_error=[error])
    options = options_of(app, asked)
    assert (options["queue"], options["priority"], options["headers"]) == ("q", 3, {"tenant": "t1"})
    assert [one["task"] for one in options["link"]] == ["total", REPORT]
    assert [one["task"] for one in options["link_error"]] == ["fails", REPORT_ERROR]
    assert options["link"][1]["kwargs"] == {"call_id": "child"}
    assert options["link"][1]["options"]["queue"] == app.conf.task_default_queue


def test_a_durable_task_reports_by_itself(app: Celery, tasks: Tasks) -> None:
    options = options_of(app, tasks.double.s(1).set(priority=3, link=[tasks.total.s()]))
    assert options["priority"] == 3
    assert [one["task"] for one in options["link"]] == ["total"]
    assert "link_error" not in options


def test_the_queue_of_the_step_wins(app: Celery, tasks: Tasks) -> None:
    for task in (tasks.add, tasks.double):
        assert options_of(app, task.s(1).set(queue="mine"), "the-steps")["queue"] == "the-steps"
        assert options_of(app, task.s(1).set(queue=Queue("mine")))["queue"] == "mine"


def test_arguments_that_are_named_as_options_are_kept(app: Celery, tasks: Tasks) -> None:
    @app.task(shared=False, name="take")
    def take(**kwargs: Any) -> None: ...

    asked = {"task_id": 1, "parent_id": 2, "root_id": 3, "group_id": 4, "chord": 5, "nested": {"task_id": 6}}
    target = target_of(app, chain(take.si(**asked), take.si()), None)
    (canvas, _), _ = decode(target.new_run("child").arguments)
    assert canvas["kwargs"]["tasks"][0]["kwargs"] == asked


def test_the_ids_of_a_frozen_signature_are_its_own_sending(app: Celery, tasks: Tasks) -> None:
    frozen = tasks.add.s(1)
    frozen.freeze("taken", root_id="root", parent_id="parent", group_id="group", group_index=2)
    target = target_of(app, frozen, None)
    run = target.new_run("child")
    assert run.id == "child"
    kept = _options(app, run.message, "add")
    assert not {"task_id", "root_id", "parent_id", "group_id", "group_index", "reply_to"} & set(kept)
    assert "taken" not in run.arguments + run.message

    canvas = chain(tasks.add.s(1), group(tasks.add.s(2), tasks.add.s(3)))
    before = target_of(app, canvas, None).given
    canvas.freeze("taken")
    assert "taken" not in target_of(app, canvas, None).given
    assert before == target_of(app, chain(tasks.add.s(1), group(tasks.add.s(2), tasks.add.s(3))), None).given


def test_a_countdown_is_when_it_is_due(app: Celery, tasks: Tasks) -> None:
    for task in (tasks.add, tasks.double):
        run = target_of(app, task.s(1).set(countdown=60), None).new_run("child")
        assert run.wake_in == 60_000_000
        assert 0 < run.due_in < 60_000_000
        assert target_of(app, task.s(1), None).new_run("child").due_in == GRACE


# ------------------------------------------------------------------- how it ends


def make_pass(app: Celery, name: str, run_id: str) -> None:
    """One pass of a run, as a worker does it. What Celery would store is in the run, too."""
    task = app.tasks[name]
    task.push_request(
        id=run_id, args=(), kwargs={}, headers={PASS_HEADER: 0}, delivery_info={}, hostname="w", retries=0,
        is_eager=False, called_directly=False,
    )  # fmt: skip
    try:
        with suppress(Exception):
            task()
    finally:
        task.pop_request()


class Caller:
    """A run that waits for an ordinary task that it has called."""

    def __init__(self, desk: Desk, tasks: Tasks) -> None:
        @desk.app.task(shared=False, base=DurableTask, name="caller")
        def caller() -> Any:
            return step.call("it", tasks.add.s(1, 2))

        self.desk = desk
        self.id = caller.delay().id
        desk.messages()
        make_pass(desk.app, "caller", self.id)
        (message,) = desk.messages()
        self.child = message.headers["id"]
        self.links = message.decode()[2]

    def end(self) -> Run:
        make_pass(self.desk.app, "caller", self.id)
        return self.desk.durable.get(self.id)


@pytest.fixture
def caller(desk: Desk, tasks: Tasks) -> Caller:
    return Caller(desk, tasks)


def test_a_call_is_parked_and_its_message_has_the_links(desk: Desk, caller: Caller) -> None:
    assert desk.row(caller.id)["status"] == "suspended"
    assert desk.row(caller.child)["kind"] == "task"
    assert [one["task"] for one in caller.links["callbacks"]] == [REPORT]
    assert [one["task"] for one in caller.links["errbacks"]] == [REPORT_ERROR]


def test_a_report_is_the_answer_and_a_second_one_does_nothing(desk: Desk, app: Celery, caller: Caller) -> None:
    report, failed = app.tasks[REPORT], app.tasks[REPORT_ERROR]
    assert report.apply((3,), {"call_id": caller.child}).successful()
    assert [one.headers["id"] for one in desk.messages()] == [caller.id], "the caller goes on"
    for again in (report.apply((4,), {"call_id": caller.child}), report.apply((5,), {"call_id": "never.heard.of"})):
        assert again.successful()
    failed(None, ValueError("late"), None, call_id=caller.child)
    assert not end_call(app, caller.child, value=6)
    assert not desk.messages()
    run = caller.end()
    assert (run.status, run.result) == ("completed", 3)


def test_an_error_is_the_answer_and_a_second_report_does_nothing(desk: Desk, app: Celery, caller: Caller) -> None:
    failed = app.tasks[REPORT_ERROR]
    failed(None, ValueError("first"), None, call_id=caller.child)
    failed(None, KeyError("second"), None, call_id=caller.child)
    app.tasks[REPORT].apply((3,), {"call_id": caller.child})
    assert len(desk.messages()) == 1
    run = caller.end()
    assert run.error is not None
    assert (run.status, run.error.type, run.error.message) == ("failed", "ValueError", "first")


@pytest.mark.parametrize(
    ("value", "error"), [(object(), NotSerializable), ("x" * 8000, PayloadTooLarge)], ids=["unstorable", "too large"]
)
def test_a_result_that_can_not_be_kept_fails_the_call(
    app: Celery, caller: Caller, value: Any, error: type[Exception]
) -> None:
    few_bytes(app)
    assert app.tasks[REPORT].apply((value,), {"call_id": caller.child}).successful(), "it is not tried again"
    run = caller.end()
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.type == f"celery_durable.errors.{error.__name__}"
    assert f"the result of {caller.child}" in run.error.message


def test_an_error_that_is_too_large_is_shortened(app: Celery, caller: Caller) -> None:
    few_bytes(app)
    app.tasks[REPORT_ERROR](None, ValueError("x" * 8000), None, call_id=caller.child)
    run = caller.end()
    assert run.error is not None
    assert "ValueError: xxx" in run.error.message
    assert run.steps[0].error is not None
    assert max(len(run.error.message), len(run.steps[0].error.message)) < 8000


def test_an_errback_that_is_given_the_id_alone(app: Celery, caller: Caller) -> None:
    """As from a worker that does not know it: the result backend has the error."""
    app.backend.mark_as_failure(caller.child, ValueError("from the backend"))
    app.tasks[REPORT_ERROR].apply((caller.child,), {"call_id": caller.child})
    run = caller.end()
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("ValueError", "from the backend")


def test_an_errback_that_is_given_the_id_alone_and_a_backend_that_knows_nothing(app: Celery, caller: Caller) -> None:
    app.tasks[REPORT_ERROR].apply((caller.child,), {"call_id": caller.child})
    run = caller.end()
    assert run.error is not None
    assert run.error.type == "celery_durable.errors.CallFailed"
    assert "failed in a worker that does not have celery_durable" in run.error.message


def test_celery_calls_the_errback_with_the_error(app: Celery, tasks: Tasks, caller: Caller) -> None:
    """In the worker that executes the task."""
    result = tasks.fails.apply(("told",), task_id=caller.child, link_error=Signature(caller.links["errbacks"][0]))
    assert isinstance(result.result, ValueError)
    run = caller.end()
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("ValueError", "told")


# ------------------------------------------------------------------- an app with a database of its own


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Celery]:
    """Another app with this package, on the same broker."""
    made = Celery("elsewhere", broker="memory://", set_as_current=False)
    made.conf.update(durable_database_url=f"sqlite:///{tmp_path / 'elsewhere.db'}", task_default_queue="elsewhere")
    yield made
    made.close()


@pytest.mark.parametrize(("name", "argument"), [("add", 3), ("double", 3), ("fails", "no"), ("fails_durably", "no")])
def test_a_worker_with_another_database_sends_its_report_to_the_caller(
    desk: Desk, app: Celery, elsewhere: Celery, caller: Caller, name: str, argument: Any
) -> None:
    Tasks(elsewhere)
    Durable(elsewhere).migrate()
    trace = build_tracer(name, elsewhere.tasks[name], app=elsewhere)
    request = {"id": caller.child, **caller.links, "delivery_info": {}, "hostname": "w", "is_eager": False}
    trace(caller.child, (argument,), {}, request)
    if name in ("double", "fails_durably"):
        assert not desk.messages(), "it sleeps, and has not ended"
        with runtime_of(elsewhere).store.link() as link:
            runtime_of(elsewhere).store.skip_wait(link, caller.child)
        trace(caller.child, (argument,), {}, request)
    (report,) = desk.messages()
    assert report.headers["task"] == REPORT
    args, kwargs, _ = report.decode()
    app.tasks[REPORT].apply(args, kwargs)
    run = caller.end()
    if name.startswith("fails"):
        assert run.error is not None
        assert run.error.message.strip("'") == "no"
    else:
        assert run.result == {"add": 3, "double": 6}[name]


def test_options_of_a_canvas_are_those_of_its_parts(desk: Desk, app: Celery, tasks: Tasks) -> None:
    """As where Celery does it: none is dropped. Error callbacks may be those of the run that does the canvas."""

    @app.task(shared=False, base=DurableTask, name="caller")
    def caller() -> Any:
        options: dict[str, Any] = {"priority": 3, "headers": {"tenant": "t1"}, "link_error": [tasks.fails.si("told")]}
        return step.call("it", chain(tasks.add.s(1, 2), tasks.add.s(3)).set(**options))

    caller.apply_async(task_id="caller")
    desk.messages()
    make_pass(app, "caller", "caller")
    (canvas,) = desk.messages()
    make_pass(app, CANVAS, canvas.headers["id"])
    (part,) = desk.messages()
    assert part.headers["task"] == "add"
    assert part.properties["priority"] == 3
    assert part.headers.get("tenant") == "t1"
    errbacks = [one["task"] for message in (canvas, part) for one in message.decode()[2]["errbacks"] or []]
    assert sorted(errbacks) == sorted(["fails", REPORT_ERROR])


# ------------------------------------------------------------------- looking after


def silent(desk: Desk, run_id: str) -> list[Due]:
    """The call as the sweeper finds it, some time after it was sent."""
    run = desk.store.tables.run
    with desk.store.link() as link:
        link.run(lambda connection: connection.execute(run.update().where(run.c.id == run_id).values(due_at=1)))
        found = [due for due in desk.store.due(link, 10) if due.fence.run_id == run_id]
    assert [(due.kind, due.sends) for due in found] == [("task", 1)]
    return found


@pytest.mark.parametrize(
    ("answers", "sent"), [(None, 0), ({"w": None}, 1), ({"w": ["active", {}]}, 0)], ids=["silent", "lost", "held"]
)
def test_what_no_worker_of_another_app_has_is_sent_again(
    desk: Desk, app: Celery, caller: Caller, monkeypatch: pytest.MonkeyPatch, answers: Any, sent: int
) -> None:
    app.tasks.pop("add")
    replies = answers and {name: {caller.child: task} if task else {} for name, task in answers.items()}
    inspect = type("Inspect", (), {"query_task": lambda self, *ids: replies})
    monkeypatch.setattr(app.control, "inspect", lambda **_: inspect())
    with desk.store.link() as link:
        look_after(app, link, silent(desk, caller.child), Backlog(app))
    assert [one.headers["id"] for one in desk.messages()] == [caller.child] * sent
    assert desk.row(caller.child)["due_at"] > 1, "it is looked at again"


def test_what_no_worker_of_this_app_tells_of_is_sent_again(desk: Desk, app: Celery, caller: Caller) -> None:
    with desk.store.link() as link:
        look_after(app, link, silent(desk, caller.child), Backlog(app))
    assert [one.headers["id"] for one in desk.messages()] == [caller.child]


def test_what_a_worker_tells_that_it_has_is_not_looked_after(desk: Desk, caller: Caller) -> None:
    with desk.store.link() as link:
        silent(desk, caller.child)
        desk.store.hold_calls(link, [caller.child, caller.id, "another"], GRACE)
        assert caller.child not in {due.fence.run_id for due in desk.store.due(link, 10)}
    assert desk.row(caller.id)["due_at"] is None, "only called tasks are held"


def test_an_end_that_the_backend_knows_is_recorded(desk: Desk, app: Celery, caller: Caller) -> None:
    app.backend.mark_as_done(caller.child, 3)
    with desk.store.link() as link:
        look_after(app, link, silent(desk, caller.child), Backlog(app))
    assert [one.headers["id"] for one in desk.messages()] == [caller.id]
    assert caller.end().result == 3
