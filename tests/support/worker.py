# SPDX-License-Identifier: Apache-2.0
"""A real inference worker or probe process, with the test in the places of the manager and of a front."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ovms_mp.child.specs import CommonSpec, CpuShare, EngineSpec, ProbeSpec, WorkerSpec
from ovms_mp.log_levels import LogLevels
from ovms_mp.model.batching import BATCHING_OFF
from ovms_mp.model.input_settings import InputSettings, InputShape
from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.arena import Arena, create_arena_file
from ovms_mp.wire.channels import Dealer, Router, new_endpoint
from ovms_mp.wire.codec import decode_to_front, decode_to_manager, encode
from ovms_mp.wire.messages import (
    BootFailed,
    Drain,
    Drained,
    Heartbeat,
    Hello,
    LoadModel,
    ModelStateChanged,
    Ready,
    Welcome,
)
from ovms_mp.wire.records import ArenaHandle, ModelSettings, TensorRef
from ovms_mp.wire.tasks import CancelTask, InferFailed, InferResult, InferTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ovms_mp.child.specs import ChildSpec
    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.wire.messages import ToManager

MessageT = TypeVar("MessageT")
ARENA_BYTES = 64 << 20
AUTO = InputSettings(shapes=(InputShape("", None),))
WITHIN_S = 60.0


def settings(
    *,
    inputs: InputSettings = InputSettings(),  # noqa: B008  # frozen
    nireq: int = 0,
    device: str = "CPU",
    allow_cache: bool = False,
    max_queue_tasks: int = 1000,
    max_queue_bytes: int = 1 << 30,
    batching: int = BATCHING_OFF,
    **plugin_config: str | int | float | bool,
) -> ModelSettings:
    """Settings with the server's defaults, but for batching: few tests need the trial of it."""
    return ModelSettings(
        device,
        nireq,
        plugin_config,
        inputs,
        allow_cache,
        max_queue_tasks,
        max_queue_bytes,
        batching=batching,
    )


@dataclass
class ChildUnderTest:
    """The manager's side of one child process."""

    control: Router = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)
    endpoint: str = field(default_factory=new_endpoint)
    child_id: str = "child-1"
    mail: list[ToManager] = field(default_factory=list)
    beats: list[Heartbeat] = field(default_factory=list)

    def common(self, arenas: tuple[ArenaHandle, ...] = ()) -> CommonSpec:
        """What all children are told."""
        return CommonSpec(
            parent_pid=os.getpid(),
            run_id="test",
            control_endpoint=self.endpoint,
            log_levels=LogLevels(),
            log_path="",
            log_format="EVENTS",
            heartbeat_interval_s=0.1,
            heartbeat_timeout_s=10.0,
            boot_timeout_s=60.0,
            arenas=arenas,
        )

    def start(self, module: str, spec: ChildSpec, log_path: Path) -> None:
        """Run the child and welcome it."""
        self.control = Router(self.endpoint)
        descriptors = [handle.descriptor for handle in spec.common.arenas]
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, spec.to_argument()], stderr=log, pass_fds=descriptors
            )

    def welcome(self) -> Hello:
        """Wait for the child's hello and answer it."""
        hello = self.expect(Hello)
        self.tell(Welcome(-1, 0))
        return hello

    def tell(self, message: object) -> None:
        """Send the child a message."""
        self.control.send(self.child_id.encode(), encode(message))

    def expect(self, kind: type[MessageT], wanted: Callable[[MessageT], bool] = lambda _: True) -> MessageT:
        """The next message of a type; those of others are kept for later."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            for message in self.mail:
                if isinstance(message, kind) and wanted(message):
                    self.mail.remove(message)
                    return message
                if isinstance(message, BootFailed):
                    raise AssertionError(f"the child cannot boot: {message.error}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no {kind.__name__} within {WITHIN_S:g} s; mail: {self.mail}")
            has_ended = self.process.poll() is not None
            self.take_mail(0.05)
            if has_ended and not any(isinstance(message, kind) for message in self.mail):
                raise AssertionError(
                    f"ended with {self.process.returncode} without {kind.__name__}: {self.mail}"
                )

    def take_mail(self, timeout_s: float) -> None:
        """Take what the child has sent."""
        self.control.zmq_socket.poll(max(1, int(timeout_s * 1000)))
        while (received := self.control.receive()) is not None:
            message = decode_to_manager(received[1])
            if isinstance(message, Heartbeat):
                self.beats.append(message)
            else:
                self.mail.append(message)

    def end(self) -> None:
        """Kill what is left of it."""
        self.process.kill()
        self.process.wait()
        self.control.close()


class ProbeUnderTest(ChildUnderTest):
    """A probe of one model file."""

    def run(
        self,
        model_file: Path,
        model_settings: ModelSettings,
        log_path: Path,
        *,
        cache_directory: str = "",
        engine: EngineSpec = EngineSpec(),  # noqa: B008  # frozen
        cpu: CpuShare = CpuShare(),  # noqa: B008  # frozen
    ) -> int:
        """Run the probe to its end; its return code. What it said is in :attr:`mail`."""
        spec = ProbeSpec(
            child_id=self.child_id,
            kind="probe",
            common=self.common(),
            handle=7,
            name="model",
            version=1,
            model_file=str(model_file),
            settings=model_settings,
            cache_directory=cache_directory,
            engine=engine,
            cpu=cpu,
        )
        self.start("ovms_mp.worker.probe", spec, log_path)
        try:
            self.welcome()
            while self.process.poll() is None and not self.mail:
                self.take_mail(0.05)
            if self.mail:
                self.tell(Drain(0))  # It has been heard.
            code = self.process.wait(timeout=WITHIN_S)
            self.take_mail(0.1)
            return code
        finally:
            self.end()


class WorkerUnderTest(ChildUnderTest):
    """A worker, with one front of which the test holds the arena."""

    def __init__(self, log_path: Path, cpu: CpuShare = CpuShare(), engine: EngineSpec = EngineSpec()) -> None:  # noqa: B008
        super().__init__()
        self._log_path = log_path
        self._cpu = cpu
        self._engine = engine
        self._descriptor = create_arena_file(0, ARENA_BYTES)
        handle = ArenaHandle(self._descriptor, ARENA_BYTES)
        self.arena = Arena(handle)
        self._handles = (handle,)
        self._task_ids = itertools.count(1)
        self._sent: list[int] = []
        self._next_offset = 0
        self.answers: dict[int, InferResult | InferFailed] = {}
        self.sent_refs: dict[int, tuple[TensorRef, ...]] = {}

    def __enter__(self) -> Self:
        data_endpoint = new_endpoint()
        spec = WorkerSpec(
            child_id=self.child_id,
            kind="worker",
            common=self.common(self._handles),
            device="CPU",
            data_endpoint=data_endpoint,
            engine=self._engine,
            cpu=self._cpu,
        )
        self.start("ovms_mp.worker", spec, self._log_path)
        try:
            self.welcome()
            self.ready = self.expect(Ready)
        except AssertionError as error:
            self.end()
            raise AssertionError(f"{error}; its log: {self.log}") from None
        self.data = Dealer(data_endpoint, b"0:1")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.data.close()
        self.end()
        os.close(self._descriptor)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log_path.read_text()

    def load(
        self, handle: int, model_file: Path, model_settings: ModelSettings, cache_directory: str = ""
    ) -> ModelStateChanged:
        """Load a version; the outcome."""
        self.tell(LoadModel(handle, f"model-{handle}", 1, str(model_file), model_settings, cache_directory))
        return self.expect(ModelStateChanged, lambda message: message.handle == handle)

    def send(
        self,
        handle: int,
        *arrays: AnyArray,
        output_nbytes: int = 1 << 16,
        within_s: float = 0.0,
        is_suspect: bool = False,
        priority: int = 0,
    ) -> int:
        """Send a task; its id. The arena is used up, never reused within a lap of 64 MB."""
        refs: list[TensorRef] = []
        for array in arrays:
            refs.append(TensorRef(self._take(array.nbytes), array.nbytes, array.shape))
            self.arena.view(refs[-1])[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return self.send_refs(
            handle,
            *refs,
            output_nbytes=output_nbytes,
            within_s=within_s,
            is_suspect=is_suspect,
            priority=priority,
        )

    def send_refs(
        self,
        handle: int,
        *refs: TensorRef,
        output_nbytes: int = 1 << 16,
        within_s: float = 0.0,
        is_suspect: bool = False,
        priority: int = 0,
    ) -> int:
        """Send a task with inputs that are in the arena, or that no front would send; its id."""
        task_id = next(self._task_ids)
        self._sent.append(task_id)
        self.sent_refs[task_id] = refs
        deadline_ns = time.monotonic_ns() + int(within_s * 1e9) if within_s else 0
        place = self._take(output_nbytes)
        task = InferTask(task_id, handle, refs, place, output_nbytes, deadline_ns, 0, is_suspect, priority)
        self.data.send(encode([task]))
        return task_id

    def cancel(self, task_id: int) -> None:
        """Say that nobody waits for a task."""
        self.data.send(encode([CancelTask(task_id)]))

    def answer(self, task_id: int) -> InferResult | InferFailed:
        """A task's terminal answer."""
        deadline = time.monotonic() + WITHIN_S
        while task_id not in self.answers:
            if time.monotonic() > deadline:
                raise AssertionError(f"task {task_id} was not answered within {WITHIN_S:g} s")
            payload = self.data.wait(0.1)
            for answer in decode_to_front(payload) if payload else ():
                if answer.task_id in self.answers:
                    raise AssertionError(f"task {answer.task_id} was answered twice")
                self.answers[answer.task_id] = answer
        return self.answers[task_id]

    def outputs(self, task_id: int) -> list[AnyArray]:
        """The f32 outputs of a task that must have succeeded."""
        answer = self.answer(task_id)
        if isinstance(answer, InferFailed):
            raise AssertionError(f"{answer.error_name}: {answer.error_message}")
        return [
            np.frombuffer(self.arena.view(ref), np.float32).reshape(ref.shape).copy()
            for ref in answer.outputs
        ]

    def infer(self, handle: int, *arrays: AnyArray) -> list[AnyArray]:
        """Send a task and wait for its outputs."""
        return self.outputs(self.send(handle, *arrays))

    def error(self, task_id: int) -> tuple[str, str]:
        """Name and text of the failure of a task that must have failed."""
        answer = self.answer(task_id)
        if isinstance(answer, InferResult):
            raise AssertionError(f"task {task_id} succeeded")
        return answer.error_name, answer.error_message

    def settle(self) -> None:
        """Wait until every task that was sent has its answer."""
        for task_id in self._sent:
            self.answer(task_id)

    def drain(self) -> int:
        """Let it go; its return code."""
        self.tell(Drain(time.monotonic_ns() + 10**10))
        self.expect(Drained)
        return self.process.wait(timeout=WITHIN_S)

    def _take(self, nbytes: int) -> int:
        if self._next_offset + aligned(nbytes) > ARENA_BYTES:
            self._next_offset = 0
        offset = self._next_offset
        self._next_offset += aligned(nbytes)
        return offset
