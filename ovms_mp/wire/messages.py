# SPDX-License-Identifier: Apache-2.0
"""The messages between the manager and its children; :mod:`ovms_mp.wire.codec` makes bytes of them.

These travel on the control channel; those of the data channel, between fronts and inference workers, are in
:mod:`ovms_mp.wire.tasks`. The protocol version is compared once, in :class:`Hello`.

Times are CLOCK_MONOTONIC nanoseconds, which all processes of one machine share.
"""

from __future__ import annotations

from typing import TypeAlias

from ovms_mp.log_levels import LogLevels
from ovms_mp.model.store_url import StoreUrl
from ovms_mp.wire.changes import AnyChange, RegionRecord
from ovms_mp.wire.records import (
    ConfigRefusal,
    Conviction,
    DeathRecord,
    ErrorRecord,
    KeyRecord,
    ModelRecord,
    ModelSettings,
    Record,
    TensorSpecRecord,
    TraceSettings,
    WorkerRecord,
)

PROTOCOL_VERSION = 7


class Message(Record, frozen=True, tag=True):
    """Base of control messages."""


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
    """Front to manager, after each snapshot: no task of mine will use a route that it lacks.

    Also the answer to :class:`LevelsChanged`.
    """

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
    rt_info: str = ""
    streams: int = 0


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


class ChangeState(Message, frozen=True):
    """Front to manager: a client wants the server's state changed. The answer is :class:`StateChanged`.

    Attributes:
        request_id: Given back in the answer.
        deadline_ns: The front waits until then; nothing is answered after it, and what has not begun is not begun.
        change: What is wanted.
    """

    request_id: int
    deadline_ns: int
    change: AnyChange


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
        regions: Shared memory that clients have registered.
        levels: What is logged.
        log_file: The name of the file that is logged to, without its place; empty for none.
        keys: Keys that clients may send; a front is told at its start whether they must.
        trace: How much is traced; None where the server was started without tracing.
        unready: Why no requests should be sent to the server yet; empty when they may.
    """

    epoch: int
    is_draining: bool
    workers: tuple[WorkerRecord, ...]
    plan: tuple[str, ...]
    models: tuple[ModelRecord, ...]
    deaths: tuple[DeathRecord, ...] = ()
    convictions: tuple[Conviction, ...] = ()
    config_refusal: ConfigRefusal | None = None
    regions: tuple[RegionRecord, ...] = ()
    levels: LogLevels = LogLevels()
    log_file: str = ""
    trace: TraceSettings | None = None
    unready: str = ""
    keys: tuple[KeyRecord, ...] = ()


class ManagerBeat(Message, frozen=True):
    """Manager to fronts, every ``heartbeat_interval_s``: I live. What was served by these devices is lost."""

    lost_devices: tuple[str, ...] = ()


class LoadModel(Message, frozen=True):
    """Manager to worker: read, compile, warm up. The answer is :class:`ModelStateChanged`.

    ``cache_directory`` is where compiled models are kept, e.g. by the probe that tried this version just now; empty for
    none; ``is_cache_kept`` says that what is there stays. ``is_urgent`` says that nothing is served whose requests the
    load could slow down. ``counters`` is the version's page of counters; 0 for none.
    """

    handle: int
    name: str
    version: int
    model_file: str
    settings: ModelSettings
    cache_directory: str = ""
    is_cache_kept: bool = False
    is_urgent: bool = False
    counters: int = 0


class LevelsChanged(Message, frozen=True):
    """Manager to worker and fetcher: log this from now on. The answer is :class:`SnapshotApplied`, with the epoch."""

    epoch: int
    levels: LogLevels


class UnloadModel(Message, frozen=True):
    """Manager to worker: finish what the version has, then drop it. The answer is :class:`ModelStateChanged`."""

    handle: int


class StateChanged(Message, frozen=True):
    """Manager to front, the answer to :class:`ChangeState`, when every living process that needs the change has it.

    All that the change began has ended then, and every front has applied a snapshot that shows it.

    Attributes:
        request_id: The front's.
        is_changed: Whether something was loaded, unloaded or set.
        error: Why not all that is wanted was done; None when it was.
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
    | ChangeState
    | RequestConvicted
    | ArenaReleased
    | Drained
)
ToChild: TypeAlias = (
    Welcome
    | RoutingSnapshot
    | ManagerBeat
    | LevelsChanged
    | LoadModel
    | UnloadModel
    | StateChanged
    | Fetch
    | ArenaRetired
    | Drain
)
