# SPDX-License-Identifier: Apache-2.0
"""The settings of a server: type, unit, default, bounds and meaning, declared once.

The command line, the environment, ``--help`` and the tables of SETTINGS.md derive from the declarations here and in
:mod:`ovms_mp.config.transports`. The result is one frozen :class:`ServerConfig`, built once by :mod:`ovms_mp.cli`
(command line, then environment, then default) and never changed. Flags and variables have the names of OpenVINO Model
Server where it has the setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovms_mp.config.access import AccessConfig
from ovms_mp.config.metrics import MetricsConfig
from ovms_mp.config.observing import LogConfig, TraceConfig
from ovms_mp.config.setting import SWITCH, Setting, declare
from ovms_mp.config.transports import ClientsConfig, GrpcConfig, RestConfig, TlsConfig, UnixSocketConfig

if TYPE_CHECKING:
    from pathlib import Path

    from ovms_mp.config.model import ModelConfig, RefusedModel
    from ovms_mp.model.store_url import StoreUrl

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Bounds of memory, of queues and of the values that models take."""

    arena_size_mb: int = declare(
        4096,
        Setting(
            "arena_size_mb",
            "Shared memory for the tensors of each front, in MiB; pages are allocated when they are first "
            "used.",
            low=1,
            high=1 << 20,
        ),
    )
    adaptive_memory_mb: int = declare(
        1024,
        Setting(
            "adaptive_memory_mb",
            "Memory in MiB for second compiled forms in each inference worker of the device CPU: models that "
            "have neither hint nor streams in plugin_config run lone requests on all cores and concurrent ones in "
            "parallel; 0 turns that off.",
            low=0,
            high=1 << 20,
        ),
    )
    max_message_mb: int = declare(
        1025,
        Setting(
            "max_message_mb",
            "Maximum size of a request in MiB, on both protocols, and of a response whose size the request "
            "determines.",
            low=1,
            high=2047,
        ),
    )
    max_unpacked_mb: int = declare(
        0,
        Setting(
            "max_unpacked_mb",
            "Maximum size in MiB of a request once it is decompressed, of JSON text, and of a tensor that is "
            "filled by repeating fewer values; 0 is automatic: what the model's inputs can need or, where "
            "they have no maximum size, 16 times the compressed size, at least 4 MiB.",
            low=0,
            high=2047,
        ),
    )
    max_image_megapixels: int = declare(
        32,
        Setting(
            "max_image_megapixels",
            "Largest encoded image that is decoded, in millions of pixels; larger ones are refused by their "
            "headers. A front decodes as many at once as it has cores, each with 15 bytes a pixel where 8 bits of "
            "three channels become FP32, and more where images have more bits or channels.",
            low=1,
            high=1000,
        ),
    )
    max_body_memory_mb: int = declare(
        0,
        Setting(
            "max_body_memory_mb",
            "Memory in MiB for the requests that a front is receiving, decompressing and decoding; 0 is "
            "automatic: a quarter of the machine's or cgroup's memory, divided among the fronts.",
            low=0,
            high=1 << 24,
        ),
    )
    max_queue_tasks: int = declare(
        4096,
        Setting(
            "max_queue_tasks",
            "Maximum number of requests that wait for an infer request, per model version.",
            low=1,
            high=1 << 20,
        ),
    )
    max_queue_mb: int = declare(
        4096,
        Setting(
            "max_queue_mb",
            "Maximum size in MiB of the input tensors that wait for an infer request, per model version.",
            low=1,
            high=1 << 20,
        ),
    )
    lossy_integers: str = declare(
        "refuse",
        Setting(
            "lossy_integers",
            "What to do with values that the engine would change, as it computes INT64 in 32 bits and FP64 as "
            "FP32: refuse the request, or allow a wrong result.",
            choices=("refuse", "allow"),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionConfig:
    """Time limits of starting, serving and stopping."""

    boot_timeout_s: float = declare(
        60.0,
        Setting("boot_timeout_s", "Maximum time for a child to become ready, in seconds.", low=1, high=3600),
    )
    heartbeat_interval_s: float = declare(
        0.5,
        Setting(
            "heartbeat_interval_s", "Time between two heartbeats of a child, in seconds.", low=0.05, high=60
        ),
    )
    heartbeat_timeout_s: float = declare(
        10.0,
        Setting(
            "heartbeat_timeout_s",
            "A child that sends no heartbeat for this many seconds is replaced; copying 1 GiB can delay one "
            "by three seconds.",
            low=0.2,
            high=3600,
        ),
    )
    stuck_timeout_s: float = declare(
        120.0,
        Setting(
            "stuck_timeout_s",
            "A child that has work in flight and completes none of it for this many seconds is replaced.",
            low=0.5,
            high=86400,
        ),
    )
    load_timeout_s: float = declare(
        600.0,
        Setting(
            "load_timeout_s",
            "Maximum time to read and compile a version, including the wait for other loads on its device, in "
            "seconds.",
            low=1,
            high=86400,
        ),
    )
    retry_window_s: float = declare(
        0.9,
        Setting(
            "retry_window_s",
            "Maximum time that a request waits for a dead worker's successor, or for a version that is being "
            "loaded, in seconds.",
            low=0,
            high=60,
        ),
    )
    request_timeout_s: float = declare(
        300.0,
        Setting(
            "request_timeout_s",
            "Deadline of requests that carry none, in seconds.",
            low=0.1,
            high=86400,
        ),
    )
    ready_when: str = declare(
        "loaded",
        Setting(
            "ready_when",
            "When readiness probes succeed: when the models that are configured at the start have been loaded or have "
            "failed (loaded), or when besides every configured model has an available version (all).",
            choices=("loaded", "all"),
        ),
    )
    stop_notice_s: float = declare(
        0.3,
        Setting(
            "stop_notice_s",
            "Time for which a server that was asked to stop still takes requests while its readiness probes fail, "
            "so that load balancers can send them elsewhere, in seconds; at most half of stop_grace_s, and a part of "
            "it.",
            low=0,
            high=3600,
        ),
    )
    stop_grace_s: float = declare(
        30.0,
        Setting(
            "stop_grace_s", "Time to complete what is in flight after SIGTERM, in seconds.", low=0, high=3600
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryConfig:
    """Where models come from."""

    poll_wait_s: float = declare(
        1.0,
        Setting(
            "file_system_poll_wait_seconds",
            "Interval between checks of the model directories and the configuration file, in seconds, in "
            "addition to those that inotify triggers; 0 or less checks only at the start and on request "
            "(SIGHUP, POST /v1/config/reload).",
            environment="FILE_SYSTEM_POLL_WAIT_SECONDS",
            low=-86400,
            high=86400,
        ),
    )
    settle_s: float = declare(
        0.5,
        Setting(
            "settle_s",
            "Time for which the files of a version must be unchanged before it is loaded, in seconds; a copy "
            "in progress is waited for.",
            low=0,
            high=3600,
        ),
    )
    store_dir: str = declare(
        "",
        Setting(
            "store_dir",
            "Directory that models from object stores are downloaded to; what is there is served when a store "
            "cannot be reached. Defaults to `store` in the systemd unit's state directory, else to `ovms_mp/store` in "
            "the user's cache directory (XDG_CACHE_HOME, ~/.cache), or the temporary directory.",
            is_path=True,
        ),
    )
    store_limit_mb: int = declare(
        0,
        Setting(
            "store_limit_mb",
            "Maximum size of store_dir in MiB; models that are not configured any more are removed from it, those "
            "first that were served least recently. 0 is no limit.",
            low=0,
            high=1 << 30,
        ),
    )
    is_strict: bool = declare(
        False,
        Setting(
            "strict_config",
            "Treat every problem of the configuration file as an error: unknown keys, which are otherwise "
            "only logged, and models that cannot be served, which otherwise say why in their status while the "
            "others are served.",
            choices=SWITCH,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """OpenVINO and its processes, for all models."""

    cpu_workers: int = declare(
        1,
        Setting(
            "cpu_workers",
            "Number of inference worker processes for the device CPU, each on cores of its own; at most the "
            "number of cores.",
            low=1,
            high=1024,
        ),
    )
    worker_memory_limit_mb: int = declare(
        0,
        Setting(
            "worker_memory_limit_mb",
            "An inference worker whose own memory exceeds this many MiB is replaced without losing a request; "
            "0 is no limit.",
            low=0,
            high=1 << 24,
        ),
    )
    trial_memory_limit_mb: int = declare(
        0,
        Setting(
            "trial_memory_limit_mb",
            "Memory in MiB that a new version may use in its trial; a version that uses more fails. 0 is "
            "automatic: whatever leaves a twentieth of the machine's or cgroup's memory available.",
            low=0,
            high=1 << 24,
        ),
    )
    cache_dir: str = declare(
        "",
        Setting(
            "cache_dir",
            "Directory in which compiled models are kept across restarts, created if it is missing; it never "
            "shrinks. Defaults to /opt/cache if that exists; without a directory they are kept only from a "
            "version's trial to its load.",
            is_path=True,
        ),
    )
    plugins_xml: str = declare(
        "",
        Setting(
            "plugins_xml",
            "OpenVINO's plugins.xml that registers further devices, e.g. a contributed NVIDIA plugin.",
            is_path=True,
        ),
    )
    cpu_extension: str = declare(
        "",
        Setting(
            "cpu_extension",
            "Shared library with custom operations for the CPU.",
            environment="CPU_EXTENSION",
            is_path=True,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The whole configuration of a server.

    Attributes:
        refused: Entries of the configuration file that cannot be served.
        config_path: The configuration file that the models came from, to be read again when it changes; None when
            there is one model, given by flags: a device or property that does not exist then stops the start instead
            of becoming that model's status.
        config_store: Where that file is, if it is in an object store; ``config_path`` is its mirror then, from which
            no model has been read yet.
    """

    models: tuple[ModelConfig, ...]
    refused: tuple[RefusedModel, ...] = ()
    config_path: Path | None = None
    config_store: StoreUrl | None = None
    grpc: GrpcConfig = field(default_factory=GrpcConfig)
    rest: RestConfig = field(default_factory=RestConfig)
    unix: UnixSocketConfig = field(default_factory=UnixSocketConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    clients: ClientsConfig = field(default_factory=ClientsConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    limits: LimitsConfig = LimitsConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    repository: RepositoryConfig = RepositoryConfig()
    engine: EngineConfig = EngineConfig()
    log: LogConfig = field(default_factory=LogConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)

    @property
    def is_strict(self) -> bool:
        """Whether every problem of the configuration file is an error."""
        return self.repository.is_strict
