# SPDX-License-Identifier: Apache-2.0
"""The values inside messages: specs, statuses, places in arenas, failures. See :mod:`ovms_mp.wire.messages`."""

from __future__ import annotations

import msgspec

from ovms_mp.errors import OvmsError, error_from_record
from ovms_mp.model.input_settings import InputSettings

LONGEST_TEXT = 16 << 10
"""Characters of an error or description on its way to another process. An engine may quote whole models."""


def bounded_text(text: str) -> str:
    """The text as messages carry it, which may not pass the longest message of a channel however long it is."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[: LONGEST_TEXT - 100]}... ({len(text)} characters in all)"


class ArenaHandle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An arena as every child inherits it: the memfd's descriptor and its size."""

    descriptor: int
    size_bytes: int


class CountersHandle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counters as every child inherits them: the memfd's descriptor and its rows; none where there are no rows."""

    descriptor: int = -1
    rows: int = 0


NO_COUNTERS = CountersHandle()
"""For processes whose counts nobody will read."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of values inside messages."""


class KeyRecord(Record, frozen=True, array_like=True):
    """A key that clients may send, by its SHA-256."""

    name: str
    digest: bytes
    is_admin: bool


class TraceSettings(Record, frozen=True):
    """How much is traced.

    Attributes:
        is_on: Whether any call is.
        rate: Of the calls that begin a trace, one in so many is.
    """

    is_on: bool = True
    rate: int = 1


class ErrorRecord(Record, frozen=True):
    """A failure on its way to another process; ``name`` is the class in :mod:`ovms_mp.errors`."""

    name: str
    message: str

    @classmethod
    def of(cls, error: OvmsError) -> ErrorRecord:
        """Record an exception."""
        return cls(type(error).__name__, bounded_text(error.message))

    def to_error(self) -> OvmsError:
        """The exception again."""
        return error_from_record(self.name, self.message)


class TensorSpecRecord(Record, frozen=True, array_like=True):
    """A :class:`~ovms_mp.model.tensors.TensorSpec` on the wire; ``dtype`` is the member's name."""

    name: str
    dtype: str
    bounds: tuple[tuple[int, int], ...]
    exact: tuple[float, float] | None = None
    takes_images: bool = False
    layout: str = ""
    is_referable: bool = False


class TensorRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A tensor's place in the sender's arena. Arena and epoch are those of the front that sent the task.

    ``region`` is not 0 for an input in a client's region, which the front has attached under that number; the offset is
    from the region's begin then.
    """

    offset_bytes: int
    nbytes: int
    shape: tuple[int, ...]
    region: int = 0


class ModelSettings(Record, frozen=True):
    """What a worker needs to compile a version.

    Attributes:
        device: OpenVINO device string, passed through.
        nireq: Number of infer requests; 0 takes the device's optimal number.
        plugin_config: OpenVINO properties, as the user wrote them.
        inputs: Batch, shapes, layouts and preprocessing to apply.
        allow_cache: Use the compile cache also where shapes are ``auto``.
        max_queue_tasks: Bound of the version's queue, in tasks.
        max_queue_bytes: Bound of the version's queue, in bytes of input tensors.
        refuses_lossy: Refuse values that the engine would not keep (:mod:`ovms_mp.worker.load.exactness`).
        weight: The model's time on the device in proportion to that of others, while several have requests.
    """

    device: str
    nireq: int
    plugin_config: dict[str, str | int | float | bool]
    inputs: InputSettings
    allow_cache: bool
    max_queue_tasks: int
    max_queue_bytes: int
    refuses_lossy: bool = True
    weight: int = 1


class VersionRecord(Record, frozen=True):
    """One version in a routing snapshot.

    ``endpoints`` are where workers take tasks for it, empty while none can; ``handle`` addresses it there.
    Specs, ``nireq``, the number of its infer requests at each worker, and ``streams``, of the engine there, are filled
    as soon as the version has been AVAILABLE once. ``detail`` is the plan it runs by, for people: streams, threads, and
    the like.
    ``is_coming`` says that it is being loaded, also beside what serves; ``retry_at_ns`` when it will be next, after a
    failure, as CLOCK_MONOTONIC, and 0 where that is not known. ``counters`` is its page of counters; 0 for none.
    ``rt_info`` is JSON: what the model's file says of the model; empty where it says nothing.
    """

    version: int
    state: int
    error_code: int
    error_message: str
    handle: int
    endpoints: tuple[str, ...]
    nireq: int
    detail: str
    inputs: tuple[TensorSpecRecord, ...]
    outputs: tuple[TensorSpecRecord, ...]
    is_coming: bool = False
    retry_at_ns: int = 0
    counters: int = 0
    rt_info: str = ""
    streams: int = 0


class ConfigRefusal(Record, frozen=True):
    """What is wrong with the configuration file as it is now.

    Attributes:
        at_s: When it was read, in seconds since the epoch.
        is_whole: Nothing of it is followed; else the entries that the reason names are not.
        error: The reason, for clients.
    """

    at_s: float
    is_whole: bool
    error: ErrorRecord


class WorkerRecord(Record, frozen=True):
    """One living inference worker in a routing snapshot.

    Attributes:
        name: The place it fills, e.g. ``worker-0``.
        device: OpenVINO device string that it serves.
        pid: Its process.
        cores: Cores that it may run on.
        endpoint: Where it takes tasks.
    """

    name: str
    device: str
    pid: int
    cores: tuple[int, ...]
    endpoint: str


class RunMark(Record, frozen=True, array_like=True):
    """Something that ran at a worker: a task by its front's arena, that arena's epoch and its own id; or a load."""

    arena: int
    epoch: int
    task_id: int
    handle: int


class DeathRecord(Record, frozen=True):
    """A worker's end, in the routing snapshots after it.

    Attributes:
        endpoint: Where it took tasks; names that one process.
        reason: How it ended, for people.
        has_crashed: By a signal that a process brings on itself; otherwise somebody else may have ended it.
        running: What it ran at that moment. Everything else that it had been sent is innocent.
    """

    endpoint: str
    reason: str
    has_crashed: bool
    running: tuple[RunMark, ...]


class Conviction(Record, frozen=True):
    """Inputs that end any worker which runs them.

    Attributes:
        handle: The loaded version whose inputs they are.
        sketch: Digest of shapes and of a part of the bytes, which is quick to compare.
        digest: Digest of shapes and all bytes.
        at_ns: When it was found out.
        until_ns: When it is forgotten.
        reason: How the worker ended, for people.
    """

    handle: int
    sketch: bytes
    digest: bytes
    at_ns: int
    until_ns: int
    reason: str


class ModelRecord(Record, frozen=True):
    """One model in a routing snapshot.

    ``default_version`` is 0 when there is none to serve. ``is_unloaded`` says that a client had it unloaded.
    ``is_wanted`` says that the server is to serve it: it is configured, and no client had it unloaded. ``counters`` is
    its page for calls that are about no version; 0 for none.
    """

    name: str
    default_version: int
    versions: tuple[VersionRecord, ...]
    is_unloaded: bool = False
    is_wanted: bool = True
    counters: int = 0
