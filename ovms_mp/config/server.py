# SPDX-License-Identifier: Apache-2.0
"""Every setting of the server: type, unit, default, bounds and meaning, declared once.

The command line, the environment, ``--help`` and the README's table derive from the declarations below. The
result is one frozen :class:`ServerConfig`, built once by :mod:`ovms_mp.cli` (command line, then environment,
then file, then default) and never changed. Names of flags and variables are those of OpenVINO Model Server
where it has the setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ovms_mp.config.setting import SWITCH, Setting
from ovms_mp.log import FORMATS, LEVELS

if TYPE_CHECKING:
    from pathlib import Path

    from ovms_mp.config.model import ModelConfig, RefusedModel

ValueT = TypeVar("ValueT", bool, int, float, str)

MEBIBYTE = 1 << 20


def _setting(default: ValueT, setting: Setting) -> ValueT:
    """A dataclass field with its declaration attached."""
    declared: ValueT = field(default=default, metadata={"setting": setting})
    return declared


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcConfig:
    """The gRPC fronts."""

    port: int = _setting(9000, Setting("port", "gRPC port; 0 starts no gRPC server.", low=0, high=65535))
    bind_address: str = _setting(
        "[::]",
        Setting(
            "grpc_bind_address", "Addresses for gRPC, separated by commas; [::] is all of IPv4 and IPv6."
        ),
    )
    workers: int = _setting(
        1,
        Setting(
            "grpc_workers",
            "gRPC front processes that share the port; more than the machine has cores is lowered to that.",
            environment="GRPC_SERVERS",
            low=1,
            high=10000,
        ),
    )

    front: str = _setting(
        "native",
        Setting(
            "grpc_front",
            "Server that carries gRPC: our own HTTP/2 server, which is faster, or the grpcio library's.",
            choices=("native", "grpcio"),
            aliases=(("wire", "native"),),
        ),
    )
    output_encoding: str = _setting(
        "TENSOR_CONTENT",
        Setting(
            "grpc_output_encoding",
            "Where answers carry their values: in raw bytes, or one by one in float_val and the like (slow).",
            environment="SERIALIZATION_FUNCTION",
            choices=("TENSOR_CONTENT", "TYPED_FIELDS"),
            aliases=(
                ("_prepare_output_with_make_tensor_proto", "TENSOR_CONTENT"),
                ("_prepare_output_as_AppendArrayToTensorProto", "TYPED_FIELDS"),
            ),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestConfig:
    """The REST fronts."""

    port: int = _setting(0, Setting("rest_port", "REST port; 0 starts no REST server.", low=0, high=65535))
    bind_address: str = _setting(
        "[::]",
        Setting(
            "rest_bind_address", "Addresses for REST, separated by commas; [::] is all of IPv4 and IPv6."
        ),
    )
    workers: int = _setting(
        1,
        Setting(
            "rest_workers",
            "REST front processes; more than the machine has cores is lowered to that.",
            low=1,
            high=10000,
        ),
    )
    backlog: int = _setting(
        1024,
        Setting(
            "rest_requests_queue_size",
            "Connections that may wait to be accepted.",
            environment="REST_REQUESTS_QUEUE_SIZE",
            low=1,
            high=65535,
        ),
    )
    client_timeout_s: float = _setting(
        60.0,
        Setting(
            "rest_client_timeout_s",
            "A REST client that sends nothing of the body it has begun, or reads nothing of its answer, for so many "
            "seconds is disconnected; a request's head has 30 s at most.",
            low=1,
            high=86400,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Bounds of memory, of queues and of the values that models take."""

    arena_size_mb: int = _setting(
        4096,
        Setting(
            "arena_size_mb",
            "Shared memory for tensors of each front in MiB; sparse, pages are taken when first used.",
            low=1,
            high=1 << 20,
        ),
    )
    max_message_mb: int = _setting(
        1025,
        Setting(
            "max_message_mb",
            "Longest accepted request in MiB, on both protocols, and longest answer of a size that requests choose.",
            low=1,
            high=2047,
        ),
    )
    max_unpacked_mb: int = _setting(
        0,
        Setting(
            "max_unpacked_mb",
            "Longest request in MiB once it is unpacked, longest JSON text, and longest tensor that fewer values than "
            "elements are repeated to fill; 0 is automatic: what the model's inputs can need, or 16 times the packed "
            "bytes, at least 4 MiB, where they have no largest size.",
            low=0,
            high=2047,
        ),
    )
    max_body_memory_mb: int = _setting(
        0,
        Setting(
            "max_body_memory_mb",
            "Memory in MiB for the requests that a front is receiving, unpacking and reading; 0 is automatic: a "
            "quarter of the machine's or cgroup's memory, divided among the fronts.",
            low=0,
            high=1 << 24,
        ),
    )
    max_queue_tasks: int = _setting(
        4096,
        Setting(
            "max_queue_tasks",
            "Requests that may wait for an infer request, per model version.",
            low=1,
            high=1 << 20,
        ),
    )
    max_queue_mb: int = _setting(
        4096,
        Setting(
            "max_queue_mb",
            "Input tensors that may wait for an infer request in MiB, per model version.",
            low=1,
            high=1 << 20,
        ),
    )
    lossy_integers: str = _setting(
        "refuse",
        Setting(
            "lossy_integers",
            "Values of a request that the engine would take for others, as it computes INT64 in 32 bits and FP64 as "
            "FP32: refuse the request, or allow a wrong result.",
            choices=("refuse", "allow"),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionConfig:
    """Time limits of starting, serving and stopping."""

    boot_timeout_s: float = _setting(
        60.0, Setting("boot_timeout_s", "Time a child has to become ready, in seconds.", low=1, high=3600)
    )
    heartbeat_interval_s: float = _setting(
        0.5, Setting("heartbeat_interval_s", "Time between two signs of life, in seconds.", low=0.05, high=60)
    )
    heartbeat_timeout_s: float = _setting(
        10.0,
        Setting(
            "heartbeat_timeout_s",
            "A child that is silent for so many seconds is replaced; copying 1 GiB can silence one for three.",
            low=0.2,
            high=3600,
        ),
    )
    stuck_timeout_s: float = _setting(
        120.0,
        Setting(
            "stuck_timeout_s",
            "A child with work in flight that finishes nothing for so many seconds is replaced.",
            low=0.5,
            high=86400,
        ),
    )
    load_timeout_s: float = _setting(
        600.0,
        Setting(
            "load_timeout_s",
            "Time a version has to be read and compiled, with its wait for other loads on the device, in seconds.",
            low=1,
            high=86400,
        ),
    )
    retry_window_s: float = _setting(
        0.9,
        Setting(
            "retry_window_s",
            "Time a request waits for a dead worker's successor, or for a version that is being loaded, in seconds.",
            low=0,
            high=60,
        ),
    )
    request_timeout_s: float = _setting(
        300.0,
        Setting(
            "request_timeout_s",
            "Deadline of a request that brings none of its own, in seconds.",
            low=0.1,
            high=86400,
        ),
    )
    stop_grace_s: float = _setting(
        30.0,
        Setting(
            "stop_grace_s", "Time to finish what is in flight after SIGTERM, in seconds.", low=0, high=3600
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryConfig:
    """Where models come from."""

    poll_wait_s: float = _setting(
        1.0,
        Setting(
            "file_system_poll_wait_seconds",
            "Time between two looks at the model directories and the configuration file, in seconds, besides those "
            "that inotify asks for; 0 or less looks only at the start and on request (SIGHUP, POST /v1/config/reload).",
            environment="FILE_SYSTEM_POLL_WAIT_SECONDS",
            low=-86400,
            high=86400,
        ),
    )
    settle_s: float = _setting(
        0.5,
        Setting(
            "settle_s",
            "Time that a version's files must be left alone before it is loaded, in seconds; a copy that goes on is "
            "waited for.",
            low=0,
            high=3600,
        ),
    )
    is_strict: bool = _setting(
        False,
        Setting(
            "strict_config",
            "Whatever is wrong with the configuration file is an error: unknown keys, which else are notices, and "
            "models that cannot be served, whose status else says why while the others are served.",
            choices=SWITCH,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """OpenVINO and its processes, for all models."""

    cpu_workers: int = _setting(
        1,
        Setting(
            "cpu_workers",
            "Inference worker processes for the device CPU, each on cores of its own; more than there are cores is "
            "lowered to that.",
            low=1,
            high=1024,
        ),
    )
    worker_memory_limit_mb: int = _setting(
        0,
        Setting(
            "worker_memory_limit_mb",
            "An inference worker that holds more memory of its own, in MiB, is replaced without losing a request; 0 "
            "for no limit.",
            low=0,
            high=1 << 24,
        ),
    )
    trial_memory_limit_mb: int = _setting(
        0,
        Setting(
            "trial_memory_limit_mb",
            "Memory in MiB that a new version may take in its trial; one that takes more fails. 0 is automatic: as "
            "much as leaves a twentieth of the machine's or cgroup's memory available.",
            low=0,
            high=1 << 24,
        ),
    )
    cache_dir: str = _setting(
        "",
        Setting(
            "cache_dir",
            "Directory where compiled models are kept over restarts, made if it is missing; it never shrinks. "
            "/opt/cache is taken where it exists; without one they are kept only from a version's trial to its load.",
            is_path=True,
        ),
    )
    plugins_xml: str = _setting(
        "",
        Setting(
            "plugins_xml",
            "OpenVINO's plugins.xml that registers further devices, e.g. a contributed NVIDIA one.",
            is_path=True,
        ),
    )
    cpu_extension: str = _setting(
        "",
        Setting(
            "cpu_extension",
            "Shared library with custom operations for the CPU.",
            environment="CPU_EXTENSION",
            is_path=True,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The log."""

    level: str = _setting(
        "INFO", Setting("log_level", "Least severe line to log.", environment="LOG_LEVEL", choices=LEVELS)
    )
    form: str = _setting(
        "AUTO",
        Setting(
            "log_format",
            "Form of the log on stderr: events, or a short one for people; automatic is short on a terminal.",
            choices=FORMATS,
        ),
    )
    path: str = _setting(
        "", Setting("log_path", "File to log to, besides stderr.", environment="LOG_PATH", is_path=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything the server is told.

    Attributes:
        refused: Entries of the configuration file that cannot be served.
        config_path: The configuration file that the models came from, to be read again when it changes; None when
            there is one model, given by flags: a device or property that does not exist then stops the start instead
            of becoming that model's status.
    """

    models: tuple[ModelConfig, ...]
    refused: tuple[RefusedModel, ...] = ()
    config_path: Path | None = None
    grpc: GrpcConfig = GrpcConfig()
    rest: RestConfig = RestConfig()
    limits: LimitsConfig = LimitsConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    repository: RepositoryConfig = RepositoryConfig()
    engine: EngineConfig = EngineConfig()
    log: LogConfig = LogConfig()

    @property
    def is_strict(self) -> bool:
        """Unknown keys of the configuration file are errors, not notices."""
        return self.repository.is_strict
