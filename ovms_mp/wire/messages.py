# SPDX-License-Identifier: Apache-2.0
"""Every message between our processes; :mod:`ovms_mp.wire.codec` makes bytes of them.

Two channels, each with its own union of types: the control channel (manager and every child) and the data
channel (fronts and inference workers). The protocol version is compared once, in :class:`Hello`.

Times are CLOCK_MONOTONIC nanoseconds, which all processes of one machine share.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ovms_mp.model.store_url import StoreUrl
from ovms_mp.wire.records import (
    ConfigRefusal,
    Conviction,
    DeathRecord,
    ErrorRecord,
    ModelRecord,
    ModelSettings,
    Record,
    TensorRef,
    TensorSpecRecord,
    WorkerRecord,
)

PROTOCOL_VERSION = 6


class Message(Record, frozen=True, tag=True):
    """Base of control messages."""


class HotMessage(
    msgspec.Struct, frozen=True, tag=True, array_like=True, gc=False, forbid_unknown_fields=True
):
    """Base of data messages. PERF: arrays instead of maps; no cycle can form, so the collector need not look."""


class Hello(Message, frozen=True):
    """Child to manager, once: I run. The answer is :class:`Welcome`."""

    child_id: str
    kind: str
    pid: int
    protocol: int = PROTOCOL_VERSION


class Ready(Message, frozen=True):
    """Child to manager, once: I take work. ``detail`` is for the log."""

    detail: str = ""


class BootFailed(Message, frozen=True):
    """Child to manager, once, instead of :class:`Ready`: starting me again would fail again."""

    error: ErrorRecord


class Heartbeat(Message, frozen=True):
    """Child to manager, every ``heartbeat_interval_s``, from a thread of its own.

    ``progress`` counts finished work, ``oldest_run_s`` is the age of the oldest inference that runs. Work in flight
    without progress beyond a limit is what "stuck" means, and so is one run that never ends; a child that sends
    nothing at all is stopped or gone.
    """

    child_id: str
    progress: int
    in_flight: int
    oldest_run_s: float = 0.0


class SnapshotApplied(Message, frozen=True):
    """Front to manager, after each snapshot: no task of mine will use a route that it lacks."""

    epoch: int


class ModelStateChanged(Message, frozen=True):
    """Worker to manager: the outcome of a load (AVAILABLE, or LOADING with an error) or of an unload (END)."""

    handle: int
    state: int
    error: ErrorRecord | None
    inputs: tuple[TensorSpecRecord, ...]
    outputs: tuple[TensorSpecRecord, ...]
    nireq: int
    detail: str


class LoadProgress(Message, frozen=True):
    """Worker or probe to manager: the load of this deployment is at another stage now. For people."""

    handle: int
    stage: str


class ProbeDone(Message, frozen=True):
    """Probe to manager, once, before it exits: the version compiles and ran on synthetic input, or why it does not."""

    handle: int
    error: ErrorRecord | None
    detail: str


class FetchProgress(Message, frozen=True):
    """Fetcher to manager, once a second at most, and only when the fetch has moved on.

    ``total_bytes`` is 0 while the store is being listed.
    """

    job: int
    done_bytes: int
    total_bytes: int


class FetchDone(Message, frozen=True):
    """Fetcher to manager, the answer to :class:`Fetch`.

    Attributes:
        versions: What can be served now.
        fetched_bytes: How much was downloaded.
        took_s: How long listing the store took.
        problems: What is odd about the store's content, for people.
        error: Why not all that is wanted is here; None when it is.
    """

    job: int
    versions: tuple[int, ...]
    fetched_bytes: int
    took_s: float
    problems: tuple[str, ...]
    error: ErrorRecord | None


class ReloadConfig(Message, frozen=True):
    """Front to manager: a client wants configuration and repositories looked at now.

    The answer is :class:`ConfigReloaded`, with the front's ``request_id``.
    """

    request_id: int


class RequestConvicted(Message, frozen=True):
    """Front to manager: this request of mine crashed a worker. All fronts hear of it by the next snapshot."""

    conviction: Conviction


class ArenaReleased(Message, frozen=True):
    """Worker to manager, the answer to :class:`ArenaRetired`: nothing of mine touches that epoch any more."""

    arena: int
    epoch: int


class Drained(Message, frozen=True):
    """Child to manager, the answer to :class:`Drain`: nothing is in flight; I am about to exit."""


class Welcome(Message, frozen=True):
    """Manager to child, the answer to :class:`Hello`.

    Attributes:
        arena: Index of the arena that the front owns from now on; -1 for children without one.
        arena_epoch: Its generation; part of the front's address on the data channel.
    """

    arena: int
    arena_epoch: int


class RoutingSnapshot(Message, frozen=True):
    """Manager to fronts, on every change: the full table. A front replaces what it had, whatever it missed.

    Attributes:
        workers: Workers that live. One that is missing has been reaped: what it had will not be answered,
            and it touches no arena any more.
        plan: How the machine is divided, line by line, for people.
        deaths: The last workers that ended.
        convictions: Requests that must not be run again.
        config_refusal: What is wrong with the configuration file; None when it is what is being served.
    """

    epoch: int
    is_draining: bool
    workers: tuple[WorkerRecord, ...]
    plan: tuple[str, ...]
    models: tuple[ModelRecord, ...]
    deaths: tuple[DeathRecord, ...] = ()
    convictions: tuple[Conviction, ...] = ()
    config_refusal: ConfigRefusal | None = None


class LoadModel(Message, frozen=True):
    """Manager to worker: read, compile, warm up. The answer is :class:`ModelStateChanged`.

    ``cache_directory`` is where compiled models are kept, e.g. by the probe that tried this version just now; empty for
    none; ``is_cache_kept`` says that what is there stays. ``is_urgent`` says that nothing is served whose requests the
    load could slow down.
    """

    handle: int
    name: str
    version: int
    model_file: str
    settings: ModelSettings
    cache_directory: str = ""
    is_cache_kept: bool = False
    is_urgent: bool = False


class UnloadModel(Message, frozen=True):
    """Manager to worker: finish what the version has, then drop it. The answer is :class:`ModelStateChanged`."""

    handle: int


class ConfigReloaded(Message, frozen=True):
    """Manager to front, the answer to :class:`ReloadConfig`, when everything that the reload began has ended.

    ``is_changed`` says that something was loaded, unloaded or changed; a snapshot with it has been sent before.
    """

    request_id: int
    is_changed: bool
    error: ErrorRecord | None


class Fetch(Message, frozen=True):
    """Manager to fetcher: make a model's mirror what its store holds. The answer is :class:`FetchDone`.

    Attributes:
        job: Given back in the answers.
        policy: Which versions are wanted, in the JSON form of a version policy.
        serving: Versions that are served; they stay until something else serves, unless the store has them no more.
        failed: Versions that could not be loaded; what the policy wants without them is wanted, too.
        store_dir: The directory of all mirrors.
        mirror: Name of this model's.
        in_use: Names of the mirrors that must stay when room is made.
        limit_bytes: Most that ``store_dir`` may hold; 0 for any.
        file_limit_bytes: The URL is that of one object, of at most so many bytes, which becomes the only file of
            version 1; 0 where it is a model's base path.
    """

    job: int
    model: str
    url: StoreUrl
    policy: dict[str, dict[str, int | list[int]]]
    serving: tuple[int, ...]
    failed: tuple[int, ...]
    store_dir: str
    mirror: str
    in_use: tuple[str, ...]
    limit_bytes: int
    file_limit_bytes: int = 0


class ArenaRetired(Message, frozen=True):
    """Manager to worker: the front that owned this epoch is gone; drop its tasks and answer when none is running."""

    arena: int
    epoch: int


class Drain(Message, frozen=True):
    """Manager to child: take no new work, finish what is in flight until the deadline, exit 0."""

    deadline_ns: int


ToManager: TypeAlias = (
    Hello
    | Ready
    | BootFailed
    | Heartbeat
    | SnapshotApplied
    | ModelStateChanged
    | LoadProgress
    | ProbeDone
    | FetchProgress
    | FetchDone
    | ReloadConfig
    | RequestConvicted
    | ArenaReleased
    | Drained
)
ToChild: TypeAlias = (
    Welcome | RoutingSnapshot | LoadModel | UnloadModel | ConfigReloaded | Fetch | ArenaRetired | Drain
)


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
    """

    task_id: int
    handle: int
    inputs: tuple[TensorRef, ...]
    output_offset_bytes: int
    output_nbytes: int
    deadline_ns: int
    flow: int = 0
    is_suspect: bool = False


class CancelTask(HotMessage, frozen=True):
    """Front to worker, best effort: nobody waits for this task. Its terminal answer still comes."""

    task_id: int


class InferResult(HotMessage, frozen=True):
    """Worker to front, a terminal answer: the outputs are in the leased region, in the order of the output specs."""

    task_id: int
    outputs: tuple[TensorRef, ...]


class InferFailed(HotMessage, frozen=True):
    """Worker to front, a terminal answer.

    ``needed_nbytes`` is not 0 when the outputs did not fit the leased region and would with that many bytes.
    """

    task_id: int
    error_name: str
    error_message: str
    needed_nbytes: int = 0


ToWorker: TypeAlias = list[InferTask | CancelTask]
"""All tasks of one turn of the front's loop; wake-ups are what costs."""
ToFront: TypeAlias = list[InferResult | InferFailed]
"""All answers of one turn of the worker's loop for one front."""
