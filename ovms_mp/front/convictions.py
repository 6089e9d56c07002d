# SPDX-License-Identifier: Apache-2.0
"""Requests that crash the engine: recognised by their version and their inputs' bytes, and refused for a while.

A front finds one out when a worker crashed while it ran that request and nothing else, tells the manager, and hears
from it of those that other fronts found.

PERF: a version without any costs one look into a dict (0.05 us); with some, a digest of the first and last 4 KiB of
each input; the whole is read only where that is the same.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from ovms_mp.errors import WorkerCrashed
from ovms_mp.wire.records import Conviction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ovms_mp.wire.messages import InferTask

_REMEMBERED_S = 600.0
_MOST = 64
"""For each version; the newest ones."""
_SKETCHED_BYTES = 4096
_DIGEST_BYTES = 16


class Convictions:
    """What this front knows of such requests."""

    def __init__(self, memory: memoryview, announce: Callable[[Conviction], None]) -> None:
        """Begin with none.

        Args:
            memory: The arena, where a task's inputs are.
            announce: Tells the manager.
        """
        self._memory = memory
        self._announce = announce
        self.by_handle: dict[int, list[Conviction]] = {}
        """Those of each version that has some; the oldest first."""

    def learn(self, convictions: Iterable[Conviction]) -> None:
        """Take in what a snapshot says; what was known before ends with its time."""
        now_ns = time.monotonic_ns()
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

    def convict(self, task: InferTask, reason: str) -> None:
        """Refuse this task's inputs from now on, at every front."""
        now_ns = time.monotonic_ns()
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
        sketch, now_ns = self._sketch(task), time.monotonic_ns()
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
        found = hashlib.blake2b(repr([ref.shape for ref in task.inputs]).encode(), digest_size=_DIGEST_BYTES)
        for ref in task.inputs:
            end = ref.offset_bytes + ref.nbytes
            found.update(self._memory[ref.offset_bytes : min(end, ref.offset_bytes + _SKETCHED_BYTES)])
            found.update(self._memory[max(ref.offset_bytes, end - _SKETCHED_BYTES) : end])
        return found.digest()

    def _digest(self, task: InferTask) -> bytes:
        found = hashlib.blake2b(repr([ref.shape for ref in task.inputs]).encode(), digest_size=_DIGEST_BYTES)
        for ref in task.inputs:
            found.update(self._memory[ref.offset_bytes : ref.offset_bytes + ref.nbytes])
        return found.digest()


def crashed_text(title: str, reason: str) -> str:
    """What the client of a request that was found out just now is told."""
    return (
        f"{title}: the inference worker died while it ran this request ({reason}); requests with the same inputs are "
        f"refused for {_REMEMBERED_S:g} s"
    )
