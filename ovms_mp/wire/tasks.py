# SPDX-License-Identifier: Apache-2.0
"""The messages between fronts and inference workers; :mod:`ovms_mp.wire.codec` makes bytes of them.

Times are CLOCK_MONOTONIC nanoseconds, which all processes of one machine share.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ovms_mp.wire.records import TensorRef


class HotMessage(
    msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False, forbid_unknown_fields=True
):
    """Base of data messages. PERF: arrays instead of maps; no cycle can form, so the collector need not look."""


class InferTask(HotMessage, frozen=True):
    """Front to worker, once a predict request. Exactly one terminal answer follows, whatever happens.

    Attributes:
        task_id: Unique within the front's epoch.
        handle: Which loaded version; from the routing snapshot.
        inputs: In the order of the version's input specs.
        output_offset_bytes: Start of the region leased for all outputs, 64-byte aligned.
        output_nbytes: Size of that region.
        deadline_ns: Not started after this moment; 0 for none.
        flow: Tasks of one front with the same number take turns with others' as if they were one; 0 for a task of its
            own.
        is_suspect: A worker crashed while it ran this task and others; run alone, it is guilty or not.
        priority: Not 0 for a task that goes before ordinary ones of all versions of the worker.
    """

    task_id: int
    handle: int
    inputs: tuple[TensorRef, ...]
    output_offset_bytes: int
    output_nbytes: int
    deadline_ns: int
    flow: int = 0
    is_suspect: bool = False
    priority: int = 0


class CancelTask(HotMessage, frozen=True):
    """Front to worker, best effort: nobody waits for this task. Its terminal answer still comes."""

    task_id: int


class AttachRegion(HotMessage, frozen=True):
    """Front to worker, before the first task with an input in a client's region: where the memory is found.

    Attributes:
        number: What tasks call it; none of the front's arena is used twice, also by a successor.
        pid: The front, which holds the file open until it has sent :class:`DetachRegion`, or ends.
        descriptor: The file's there.
        device: Of the file, with ``inode``: which file it must be.
        inode: The same.
        nbytes: Its size, which is sealed.
    """

    number: int
    pid: int
    descriptor: int
    device: int
    inode: int
    nbytes: int


class DetachRegion(HotMessage, frozen=True):
    """Front to worker, once: no task of mine names this region any more, and all that did have been answered."""

    number: int


class InferResult(HotMessage, frozen=True):
    """Worker to front, a terminal answer: the outputs are in the leased region, in the order of the output specs.

    ``queue_ns`` is the time from the task's arrival to the beginning of its run, ``infer_ns`` that of the run.
    """

    task_id: int
    outputs: tuple[TensorRef, ...]
    queue_ns: int = 0
    infer_ns: int = 0


class InferFailed(HotMessage, frozen=True):
    """Worker to front, a terminal answer.

    ``needed_nbytes`` is not 0 when the outputs did not fit the leased region and would with that many bytes;
    ``retry_after_s`` when it is known after what time another try may fare better.
    """

    task_id: int
    error_name: str
    error_message: str
    needed_nbytes: int = 0
    retry_after_s: float = 0.0


FromFront: TypeAlias = InferTask | CancelTask | AttachRegion | DetachRegion
ToWorker: TypeAlias = list[FromFront]
"""All tasks of one turn of the front's loop; wake-ups are what costs."""
ToFront: TypeAlias = list[InferResult | InferFailed]
"""All answers of one turn of the worker's loop for one front."""
