# SPDX-License-Identifier: Apache-2.0
"""What a child process is told on its command line: one JSON document, decoded by type.

Everything that is known before the child exists is here; what only the manager's later state can say (an
arena's epoch, a route) comes by message.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ovms_mp.errors import BootError
from ovms_mp.log_levels import LogLevels
from ovms_mp.tls.material import TlsFiles
from ovms_mp.wire.records import NO_COUNTERS, ArenaHandle, CountersHandle, ModelSettings, TraceSettings

SpecT = TypeVar("SpecT", bound="ChildSpec")


class CommonSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is the same for all children of one run.

    Attributes:
        parent_pid: The manager, which must be alive for a child to live.
        run_id: Names this run of the server in every log line.
        control_endpoint: Where the manager listens.
        heartbeat_interval_s: Time between two signs of life.
        heartbeat_timeout_s: Who gives none for so long does not live.
        boot_timeout_s: How long a front waits for its first routing snapshot.
        arenas: All arenas, by index.
        counters: Where all processes count; a front's row has the number of its arena.
    """

    parent_pid: int
    run_id: str
    control_endpoint: str
    log_levels: LogLevels
    log_path: str
    log_format: str
    heartbeat_interval_s: float
    heartbeat_timeout_s: float
    boot_timeout_s: float
    arenas: tuple[ArenaHandle, ...]
    counters: CountersHandle = NO_COUNTERS


class FrontLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a front holds its clients to.

    Attributes:
        request_timeout_s: Deadline of a request that brings none.
        retry_window_s: How long a request waits for a worker's successor, or for a version that is being
            loaded.
        max_message_bytes: Longest accepted request; outputs whose size a request chooses may not be longer either.
        max_unpacked_bytes: Longest accepted request once it is unpacked; 0 for what the model's inputs tell.
        max_image_megapixels: Of an encoded image.
        max_body_memory_bytes: Memory for all requests that the front is receiving and reading.
        allows_client_shm: Whether clients may register shared memory.
        max_requests_per_client: That are under way; 0 for any number.
    """

    request_timeout_s: float
    retry_window_s: float
    max_message_bytes: int
    max_unpacked_bytes: int
    max_image_megapixels: int
    max_body_memory_bytes: int
    allows_client_shm: bool = False
    max_requests_per_client: int = 0


class AccessSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom a front lets in. It has no key; those come with each routing snapshot.

    Attributes:
        needs_key: Whether calls need a key, unless they are open to everybody.
        needs_admin_key: Whether calls that change the server need an administrator's key.
        trusted_proxies: Networks whose word about clients' addresses is believed, and ``unix``.
    """

    needs_key: bool = False
    needs_admin_key: bool = False
    trusted_proxies: tuple[str, ...] = ()


class OriginSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which web pages may read answers, and what they may send; ``*`` is all.

    Attributes:
        allows_credentials: Whether with what the browser knows its user by.
    """

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    allows_credentials: bool = False


class PageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the live page tells of the settings.

    Attributes:
        grpc_port: Of gRPC on TCP; 0 without.
        is_secure: Whether TCP ports speak TLS.
        may_change_state: Whether clients may reload, load and unload.
        cores: Those that the server may use.
        fleet_file: Path of what is told of the fleet; empty where the server is in none.
    """

    grpc_port: int
    is_secure: bool
    may_change_state: bool
    cores: tuple[int, ...]
    fleet_file: str = ""


class ChildSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every child is told.

    Attributes:
        child_id: Unique for this process; its address on the control channel.
        kind: What it is: "worker", "probe", "fetcher", "grpc" or "rest".
    """

    child_id: str
    kind: str
    common: CommonSpec

    def to_argument(self) -> str:
        """The document for the child's command line."""
        return msgspec.json.encode(self).decode()


class CpuShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker's part of the machine.

    Attributes:
        cores: Cores that it may run on, taken before OpenVINO starts; empty leaves the affinity alone.
        threads: Most inference threads of a model; 0 leaves it to OpenVINO, which counts the cores.
        is_pinning_safe: Whether OpenVINO may tie threads to cores: nobody else uses these, and no quota cuts them.
    """

    cores: tuple[int, ...] = ()
    threads: int = 0
    is_pinning_safe: bool = True


class EngineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What OpenVINO's core is made with.

    Attributes:
        cpu_extension: Library with custom operations, or empty.
        plugins_xml: File that registers further device plugins, or empty.
    """

    cpu_extension: str = ""
    plugins_xml: str = ""


class WorkerSpec(ChildSpec, frozen=True, kw_only=True):
    """For ``python -m ovms_mp.worker``.

    Attributes:
        device: OpenVINO device string that this worker serves.
        data_endpoint: Where it takes tasks; unique for this process, so that a successor never gets its mail.
        engine: What its core is made with.
        cpu: Its part of the machine.
        run_page: Descriptor of the page where it marks what it runs; -1 where nobody will read that.
        counter_row: Its row of the counters; -1 where nobody will read that.
        has_metrics: Whether to count the infer requests that are taken.
    """

    device: str
    data_endpoint: str
    engine: EngineSpec
    cpu: CpuShare
    run_page: int = -1
    counter_row: int = -1
    has_metrics: bool = False


class ProbeSpec(ChildSpec, frozen=True, kw_only=True):
    """For ``python -m ovms_mp.worker.probe``: compile one version, run it once on synthetic input, say how that went.

    Attributes:
        handle: Given back in the answer.
        cache_directory: Where what was compiled is left for the worker; empty for nowhere.
        cpu: The part of the machine of a worker that will serve the version, so that it compiles the same.
    """

    handle: int
    name: str
    version: int
    model_file: str
    settings: ModelSettings
    cache_directory: str
    engine: EngineSpec
    cpu: CpuShare


class FetcherSpec(ChildSpec, frozen=True, kw_only=True):
    """For ``python -m ovms_mp.fetcher``; what to download comes by message."""


class Watching(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a front tells of its calls.

    Attributes:
        access_log: Which calls have a line of the log.
        trace: How much is traced, until a snapshot says otherwise; None for nothing at all.
        most_spans: Spans that wait to be exported.
    """

    access_log: str = "off"
    trace: TraceSettings | None = None
    most_spans: int = 2048


class FrontSpec(ChildSpec, frozen=True, kw_only=True):
    """For every front.

    Attributes:
        metrics: Names of the families that ``/metrics`` shows; none where nothing is counted for it.
        tls: Certificates of its TCP ports; None where they are plain.
    """

    limits: FrontLimits
    metrics: tuple[str, ...] = ()
    access: AccessSpec = AccessSpec()
    tls: TlsFiles | None = None
    watching: Watching = Watching()


class GrpcFrontSpec(FrontSpec, frozen=True, kw_only=True):
    """For ``python -m ovms_mp.front.grpc``.

    Attributes:
        bind_addresses: Each ``host:port``.
        listen_descriptors: Sockets that it shares with others, to be listened on, too.
        has_typed_outputs: Answers carry values in typed fields instead of raw bytes.
        is_native: Our own HTTP/2 server carries the calls, not grpcio's.
    """

    bind_addresses: tuple[str, ...]
    listen_descriptors: tuple[int, ...] = ()
    has_typed_outputs: bool
    is_native: bool


class RestSpec(FrontSpec, frozen=True, kw_only=True):
    """For ``python -m ovms_mp.front.rest``, the gunicorn arbiter, and for the REST fronts that it forks.

    Attributes:
        listen_descriptors: Bound and listening sockets that the manager owns, so connections wait out an
            arbiter's death.
        beat_descriptor: Pipe to the manager; a byte for every turn of the arbiter's loop.
        levels_descriptor: Pipe from the manager; a line of JSON when the levels of the log change.
        rest_workers: Number of REST fronts.
        prefix: Path below which all paths lie.
        page: What the live page is given; None where there is none.
        origins: Which web pages may read answers.
        client_timeout_s: Time that a client may neither send what it has begun nor read its answer.
        stop_grace_s: Time to finish requests when stopped.
        stuck_timeout_s: An event loop that stands still for longer is killed.
    """

    listen_descriptors: tuple[int, ...]
    beat_descriptor: int
    levels_descriptor: int
    rest_workers: int
    prefix: str = ""
    page: PageSpec | None = None
    origins: OriginSpec = OriginSpec()
    client_timeout_s: float
    stop_grace_s: float
    stuck_timeout_s: float


def spec_from_argument(argument: str, spec_type: type[SpecT]) -> SpecT:
    """Decode a child's command line.

    Raises:
        BootError: It is not such a document; the process was not started by the manager.
    """
    try:
        return msgspec.json.decode(argument, type=spec_type)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BootError(
            f"this process is started by the ovms_mp manager, not by hand: {error}; see ovms_mp --help"
        ) from None
