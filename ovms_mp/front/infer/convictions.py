# SPDX-License-Identifier: Apache-2.0
"""Requests that crash the engine: recognised by their version and their inputs' bytes, and refused for a while.

A front finds one out when a worker crashed while it ran that request and nothing else, tells the manager, and hears
from it of those that other fronts found.

PERF: a version without any costs one look into a dict (0.05 us); with some, a digest of the first and last 4 KiB of
each input; the whole is read only where that is the same.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ovms_mp.errors import WorkerCrashed, WorkerLost
from ovms_mp.wire.records import Conviction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ovms_mp.front.clock import Clock
    from ovms_mp.front.infer.outcomes import WorkerEnd
    from ovms_mp.wire.records import TensorRef
    from ovms_mp.wire.tasks import InferTask

_REMEMBERED_S = 600.0
_MOST = 64
"""For each version; the newest ones."""
_MOST_LOST_RUNS = 2
"""Workers that may end while they run one request, if nothing says that it was the request's fault."""
_SKETCHED_BYTES = 4096
_STEP_BYTES = 1 << 20
_DIGEST_BYTES = 16


class Convictions:
    """What this front knows of such requests."""

    def __init__(
        self,
        memory: memoryview,
        announce: Callable[[Conviction], None],
        clock_ns: Clock,
        read_part: Callable[[TensorRef, int, int], memoryview],
    ) -> None:
        """Begin with none.

        Args:
            memory: The arena, where a task's inputs are.
            announce: Tells the manager.
            clock_ns: Monotonic time, the same in all processes.
            read_part: Reads a part of an input that is in a client's region, which may change.
        """
        self._memory = memory
        self._read_part = read_part
        self._announce = announce
        self._clock_ns = clock_ns
        self.by_handle: dict[int, list[Conviction]] = {}
        """Those of each version that has some; the oldest first."""

    def learn(self, convictions: Iterable[Conviction]) -> None:
        """Take in what a snapshot says; what was known before ends with its time."""
        now_ns = self._clock_ns()
        merged = {
            (known.handle, known.digest): known
            for known in (*convictions, *(entry for known in self.by_handle.values() for entry in known))
            if known.until_ns > now_ns
        }
        self.by_handle = {}
        for entry in sorted(merged.values(), key=lambda entry: entry.at_ns):
            kept = self.by_handle.setdefault(entry.handle, [])
            kept.append(entry)
            del kept[:-_MOST]

    def judge(self, task: InferTask, end: WorkerEnd) -> None:
        """Remember a task that crashed its worker beyond doubt."""
        if _is_guilty(task, end):
            self.convict(task, end.reason)

    def refuse_if_guilty(self, task: InferTask, ends: Sequence[WorkerEnd], title: str) -> None:
        """Decide about a task with which workers ended that were running it; the last one just now.

        Raises:
            WorkerCrashed: The task is at fault.
            WorkerLost: It has been run often enough.
        """
        end = ends[-1]
        if _is_guilty(task, end):
            raise WorkerCrashed(_crashed_text(title, end.reason)) from None
        if len(ends) < _MOST_LOST_RUNS:
            return
        if all(one.was_alone for one in ends):
            # Killed by somebody else each time, who may be the kernel for want of memory.
            self.convict(task, end.reason)
            raise WorkerCrashed(_crashed_text(title, end.reason)) from None
        raise WorkerLost(
            f"{title}: {len(ends)} inference workers died while they ran this request ({end.reason})"
        ) from None

    def convict(self, task: InferTask, reason: str) -> None:
        """Refuse this task's inputs from now on, at every front."""
        now_ns = self._clock_ns()
        conviction = Conviction(
            task.handle,
            self._sketch(task),
            self._digest(task),
            now_ns,
            now_ns + int(_REMEMBERED_S * 1e9),
            reason,
        )
        self.learn((conviction,))
        self._announce(conviction)

    def check(self, task: InferTask, title: str) -> None:
        """Hold a task whose inputs are written against what is known.

        Raises:
            WorkerCrashed: It is one of them.
        """
        known = self.by_handle.get(task.handle)
        if not known:
            return
        sketch, now_ns = self._sketch(task), self._clock_ns()
        alike = [entry for entry in known if entry.sketch == sketch and entry.until_ns > now_ns]
        if not alike:
            return
        digest = self._digest(task)
        for entry in alike:
            if entry.digest == digest:
                raise WorkerCrashed(
                    f"{title}: an inference worker died while it ran a request with the same inputs "
                    f"{(now_ns - entry.at_ns) / 1e9:.0f} s ago ({entry.reason}); such requests are refused for another "
                    f"{(entry.until_ns - now_ns) / 1e9:.0f} s"
                )

    def _sketch(self, task: InferTask) -> bytes:
        """A digest of shapes, and of the first and the last bytes of each input."""
        found = _hash_of_shapes(task)
        for ref in task.inputs:
            found.update(self._part(ref, 0, min(ref.nbytes, _SKETCHED_BYTES)))
            found.update(self._part(ref, max(0, ref.nbytes - _SKETCHED_BYTES), ref.nbytes))
        return found.digest()

    def _digest(self, task: InferTask) -> bytes:
        """A digest of shapes, and of all bytes of each input."""
        found = _hash_of_shapes(task)
        for ref in task.inputs:
            step = _STEP_BYTES if ref.region else max(1, ref.nbytes)
            for start in range(0, ref.nbytes, step):
                found.update(self._part(ref, start, min(ref.nbytes, start + step)))
        return found.digest()

    def _part(self, ref: TensorRef, start: int, end: int) -> memoryview:
        """A part of an input; a copy, if it is in a client's region."""
        if ref.region:
            return self._read_part(ref, start, end)
        return self._memory[ref.offset_bytes + start : ref.offset_bytes + end]


def _hash_of_shapes(task: InferTask) -> hashlib.blake2b:
    return hashlib.blake2b(repr([ref.shape for ref in task.inputs]).encode(), digest_size=_DIGEST_BYTES)


def _is_guilty(task: InferTask, end: WorkerEnd) -> bool:
    """Whether the task crashed its worker beyond doubt: by itself, or again after it was under suspicion."""
    return end.has_crashed and (end.was_alone or task.is_suspect)


def _crashed_text(title: str, reason: str) -> str:
    """What the client of a request that was found out just now is told."""
    return (
        f"{title}: the inference worker died while it ran this request ({reason}); requests with the same inputs are "
        f"refused for {_REMEMBERED_S:g} s"
    )
