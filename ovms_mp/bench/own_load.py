# SPDX-License-Identifier: Apache-2.0
"""A load made by processes of our own (:mod:`ovms_mp.bench.generator`), all of which begin at the same time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.generator import GO, READY, Job, Outcome
from ovms_mp.bench.load import Load, Observed
from ovms_mp.places import module_command, module_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_END_GRACE_S = 5.0
_OPEN_CONNECTIONS = 64
"""Of an open loop over REST, where a connection carries one request at a time."""


class OwnLoad:
    """The processes of one load. They are gone when the ``with`` block ends."""

    def __init__(self, load: Load, processes: int, scratch: Path, environment: Mapping[str, str]) -> None:
        """Prepare; nothing is started.

        Args:
            load: What to apply.
            processes: Among how many it is divided.
            scratch: Directory for their records.
            environment: Theirs.
        """
        self._load = load
        self._environment = module_environment(environment)
        self._scratch = scratch
        self._jobs = list(self._divided(processes))
        self._children: list[subprocess.Popen[bytes]] = []

    def _divided(self, processes: int) -> Sequence[Job]:
        load = self._load
        connections = load.connections
        if not load.endpoint.is_grpc:
            connections = load.in_flight or max(load.connections, _OPEN_CONNECTIONS)
        parts = max(
            1,
            min(processes, load.in_flight or processes, connections if load.endpoint.is_grpc else processes),
        )
        return [
            Job(
                load=load,
                in_flight=_share(load.in_flight, part, parts),
                connections=max(1, _share(connections, part, parts)),
                part=part,
                parts=parts,
                result_path=str(self._scratch / f"own-{part}.npz"),
                parent_pid=os.getpid(),
            )
            for part in range(parts)
        ]

    def run(self) -> Observed:
        """Apply the load; Ctrl-C ends it early.

        Raises:
            NoMeasurement: They cannot connect, or have died.
        """
        try:
            self._start()
            is_cut = False
            try:
                for child in self._children:
                    child.wait(self._load.total_s + self._load.timeout_s + _END_GRACE_S)
            except KeyboardInterrupt:
                is_cut = True
                self._signal(signal.SIGINT)
            outcomes = [self._outcome(child) for child in self._children]
            return self._merged(outcomes, is_cut=is_cut)
        except subprocess.TimeoutExpired:
            raise NoMeasurement("a load generator does not end") from None
        finally:
            for child in self._children:
                child.kill()
                child.communicate()

    def _start(self) -> None:
        for job in self._jobs:
            child = subprocess.Popen(
                module_command("ovms_mp.bench.generator"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                process_group=0,  # The terminal's Ctrl-C is for us, who pass it on; see h2load.py.
            )
            self._children.append(child)
            self._tell(child, msgspec.json.encode(job) + b"\n")
        for child in self._children:
            line = child.stdout.readline() if child.stdout else b""
            if line != READY:
                raise NoMeasurement(_reason(child, line))
        for child in self._children:
            self._tell(child, GO)

    @staticmethod
    def _tell(child: subprocess.Popen[bytes], text: bytes) -> None:
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # Its end is seen by its silence.
                child.stdin.write(text)
                child.stdin.flush()

    def _signal(self, number: int) -> None:
        for child in self._children:
            child.send_signal(number)

    def _outcome(self, child: subprocess.Popen[bytes]) -> Outcome:
        child.wait(_END_GRACE_S)
        line = child.stdout.readline() if child.stdout else b""
        try:
            return msgspec.json.decode(line, type=Outcome)
        except msgspec.MsgspecError:
            raise NoMeasurement(_reason(child, line)) from None

    def _merged(self, outcomes: Sequence[Outcome], *, is_cut: bool) -> Observed:
        names = [""]
        columns: dict[str, list[np.ndarray]] = {"intended": [], "sent": [], "ended": [], "codes": []}
        for job, outcome in zip(self._jobs, outcomes, strict=True):
            names += [name for name in outcome.outcomes if name not in names]
            numbers = np.array([names.index(name) for name in outcome.outcomes], np.uint16)
            with np.load(job.result_path) as record:
                for name in ("intended", "sent", "ended"):
                    columns[name].append(record[name])
                columns["codes"].append(numbers[record["codes"]])
        intended, sent, ended, codes = (np.concatenate(columns[name]) for name in columns)
        return Observed(
            intended_s=intended,
            sent_s=sent,
            ended_s=ended,
            codes=codes,
            outcomes=tuple(names),
            answer_bytes=max(outcome.answer_bytes for outcome in outcomes),
            cpu_share=sum(outcome.cpu_share for outcome in outcomes),
            processes=len(self._jobs),
            generator="own",
            is_cut=is_cut or any(outcome.is_cut for outcome in outcomes),
            held_back=sum(outcome.held_back for outcome in outcomes),
        )


def _share(total: int, part: int, parts: int) -> int:
    return total * (part + 1) // parts - total * part // parts


def _reason(child: subprocess.Popen[bytes], line: bytes) -> str:
    """Why a child has nothing to show."""
    with contextlib.suppress(msgspec.MsgspecError):
        if failure := msgspec.json.decode(line, type=Outcome).failure:
            return failure
    child.kill()
    _, errors = child.communicate()
    last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return f"a load generator has died: {last or f'exit code {child.returncode}'}"
