# SPDX-License-Identifier: Apache-2.0
"""Where exceptions are contained, and what the log has of them."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

import ovms_mp
from ovms_mp import defects
from ovms_mp.defects import Steps, contain, report

ROOT = Path(ovms_mp.__file__).parent
ENDS_A_PROCESS = "the process ends with its exit code"
ANSWERS = "a request is answered with INTERNAL"
THREAD = "nobody would hear of it in a thread; it becomes the outcome"
A_STEP = "a shared step goes on or is done again"
ONE_ITEM = "one task, answer, connection, child, model or version fails"
PLACES = {
    "defects.contain": A_STEP,
    "defects.Steps.do": A_STEP,
    "front.infer.links.WorkerLink._flush": ONE_ITEM,
    "front.infer.links.WorkerLink._send_each": ONE_ITEM,
    "front.infer.links.WorkerLink._drain": ONE_ITEM,
    "front.infer.links.WorkerLink._land_or_fail": ONE_ITEM,
    "front.grpc.http2.call.Call.advance": ANSWERS,
    "front.grpc.http2.call.Call.data": ANSWERS,
    "front.grpc.http2.call.Call._run": ANSWERS,
    "front.grpc.http2.protocol._alone.guarded": ONE_ITEM,
    "front.grpc.http2.protocol.Http2Protocol.buffer_updated": ONE_ITEM,
    "front.grpc.http2.writer.Writer.flush": ONE_ITEM,
    "front.grpc.http2.writer.Writer._release": ONE_ITEM,
    "front.grpc.grpcio._carry": ANSWERS,
    "front.grpc.http2.call.Call._admit": ANSWERS,
    "front.rest.answering.Answering._answer": ANSWERS,
    "front.rest.direct.DirectExchange._run": ANSWERS,
    "front.rest.direct.DirectExchange._give": ANSWERS,
    "front.kserve.methods.KServeMethods._answer": ANSWERS,
    "front.routing._route_or_failure": ONE_ITEM,
    "front.service.Service.predict": "counted and raised again",
    "front.steps.attempt": A_STEP,
    "front.steps.Periodic._turn": A_STEP,
    "front.tracing.export.CarefulExporter.export": "these spans are lost, which is counted",
    "log_forms.LineFormatter.format": "the line says that its record cannot be read",
    "log_forms.JsonFormatter.format": "the line says that its record cannot be read",
    "manager.main.run_server": ENDS_A_PROCESS,
    "manager.models.config_file.ConfigFile._read": "the file is refused as it is",
    "manager.fronts.snapshots.SnapshotEncoder.payload": ONE_ITEM,
    "manager.fronts.snapshots._nbytes": ONE_ITEM,
    "manager.children.supervisor.Supervisor.spawn_once": ONE_ITEM,
    "manager.children.supervisor.Supervisor._spawn": ONE_ITEM,
    "manager.models.trials.Trials.run_waiting": ONE_ITEM,
    "storage.watch.RepositoryWatch.arm": "one path is polled",
    "child.process.run_child": ENDS_A_PROCESS,
    "client.sync.Client.submit.answer": THREAD,
    "fetcher.job.Job.run": THREAD,
    "worker.load.loader.Loader._load": THREAD,
    "worker.run.forms.FormKeeper._make": THREAD,
    "worker.load.loader._release": THREAD,
    "worker.orders.Orders._receive": A_STEP,
    "worker.run.intake.Intake._decode": ONE_ITEM,
    "worker.run.intake.Intake.take_tasks": ONE_ITEM,
    "worker.run.scheduler.Scheduler.start_tasks": ONE_ITEM,
    "worker.run.scheduler.Scheduler._run_lone": ONE_ITEM,
    "worker.run.scheduler.Scheduler._next_task": ONE_ITEM,
    "worker.run.scheduler.Scheduler._note": ONE_ITEM,
    "worker.run.outbox.Outbox.flush": ONE_ITEM,
    "worker.run.outbox.Outbox._send_each": ONE_ITEM,
    "worker.run.pool.InferPool.hand_over": "raised again behind what is put back",
    "worker.run.pool.InferPool._work": THREAD,
    "worker.run.pool.InferPool._run": ONE_ITEM,
    "worker.run.pool.InferPool._run_batch": "its tasks run one by one",
    "worker.run.pool.InferPool._run_one": THREAD,
    "worker.run.scheduler.Scheduler._start": "raised again behind what is put back",
    "worker.batching.loading.load_with_batches": "the version serves without batches",
    "worker.probe._try_version": ENDS_A_PROCESS,
    "worker.run.examinations.Examinations._run": THREAD,
    "worker.run.shaping.Shaping._compile": THREAD,
    "worker.run.shaping.Shaping._begin_compilation": ONE_ITEM,
}
"""The only places with ``except Exception``, and what becomes of the exception there."""


def places() -> set[str]:
    """Functions that have ``except Exception``."""
    found: set[str] = set()

    def walk(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = f"{name}.{child.name}"
            if (
                isinstance(child, ast.ExceptHandler)
                and isinstance(child.type, ast.Name)
                and child.type.id == "Exception"
            ):
                found.add(name)
            walk(child, inner)

    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        walk(ast.parse(path.read_text()), module)
    return found


def test_exceptions_of_every_kind_are_caught_in_named_places_only() -> None:
    assert places() == set(PLACES)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still, and a log that has nothing yet."""
    now = [1000.0]
    monkeypatch.setattr(defects, "_ledger", defects._Ledger(lambda: now[0]))
    return now


def fail(text: str = "why") -> None:
    raise ValueError(text)


def test_a_failure_is_one_line_with_its_step_and_victim(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert not contain("front.flush", "task 7", fail, "two\nlines")

    assert [record.getMessage() for record in caplog.records] == [
        "event=defect step=front.flush victim='task 7' error=ValueError: two lines"
    ]
    assert caplog.records[0].levelno == logging.ERROR


def test_lines_of_a_step_are_bounded_and_what_is_left_out_is_counted(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        contain("front.flush", "nobody", fail)
    contain("front.other", "nobody", fail)
    clock[0] += 1.0
    contain("front.flush", "nobody", fail)

    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 5
    assert texts[-1].endswith("(997 more of this step were not logged)")


def test_a_traceback_is_shown_once_in_a_while(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    for seconds in (0.0, 1.0, 8.9, 0.2):
        clock[0] += seconds
        contain("front.flush", "nobody", fail)

    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False, True]


def test_a_long_text_is_cut(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    report("front.flush", ValueError("x" * 10_000_000))

    assert len(caplog.records[0].getMessage()) < 1000


def test_a_step_that_raises_does_not_keep_those_behind_it_from_their_turn(clock: list[float]) -> None:
    steps, done = Steps("worker"), list[str]()
    steps.do([lambda: done.append("a"), fail, lambda: done.append("b")])
    assert done == ["a", "b"]
    assert steps.have_failed


def test_a_step_that_succeeds_again_is_forgotten(clock: list[float]) -> None:
    steps, is_broken = Steps("worker", 3), [True]

    def step() -> None:
        if is_broken[0]:
            fail()

    for _ in range(10):
        is_broken[0] = True
        steps.do([step])
        steps.do([step])
        is_broken[0] = False
        steps.do([step])

    assert not steps.have_failed


def test_a_step_that_never_succeeds_ends_the_process(clock: list[float]) -> None:
    steps = Steps("worker", 3)
    steps.do([fail])
    steps.do([fail])
    with pytest.raises(ValueError, match="why"):
        steps.do([fail])
