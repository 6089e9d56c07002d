# SPDX-License-Identifier: Apache-2.0
"""Settings of the gRPC and REST servers, and of what their clients may do; see :mod:`ovms_mp.config.server`."""

from __future__ import annotations

from dataclasses import dataclass

from ovms_mp.config.addresses import split_addresses, unix_paths
from ovms_mp.config.setting import SWITCH, Setting, declare
from ovms_mp.tls.material import TlsFiles


class _Listening:
    """Where a protocol is served, from its port and its addresses."""

    __slots__ = ()

    port: int
    bind_address: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """Addresses for the port; none without one."""
        return split_addresses(self.bind_address) if self.port else ()

    @property
    def unix_paths(self) -> tuple[str, ...]:
        """Absolute paths of its Unix sockets."""
        return unix_paths(self.bind_address)

    @property
    def tcp_port(self) -> int:
        """The port, if it is listened on; else 0."""
        return self.port if self.hosts else 0

    @property
    def is_served(self) -> bool:
        """Whether anything is listened on."""
        return bool(self.hosts or self.unix_paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSocketConfig:
    """The files of Unix sockets, of both protocols."""

    mode: str = declare(
        "660",
        Setting(
            "unix_socket_mode",
            "Permissions of Unix sockets, in octal digits; who may write to one may send requests.",
        ),
    )
    group: str = declare(
        "",
        Setting(
            "unix_socket_group",
            "Group of Unix sockets, by name or number; the server's user must be a member. Defaults to the user's "
            "group.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcConfig(_Listening):
    """The gRPC fronts."""

    port: int = declare(9000, Setting("port", "Port of the gRPC server; 0 disables it.", low=0, high=65535))
    bind_address: str = declare(
        "[::]",
        Setting(
            "grpc_bind_address",
            "Addresses that the gRPC server listens on, separated by commas; [::] is every IPv4 and IPv6 "
            "address, unix:PATH a Unix socket, which has no port.",
        ),
    )
    workers: int = declare(
        1,
        Setting(
            "grpc_workers",
            "Number of gRPC front processes, which share the port; at most the number of cores.",
            environment="GRPC_SERVERS",
            low=1,
            high=10000,
        ),
    )

    front: str = declare(
        "native",
        Setting(
            "grpc_front",
            "The gRPC server: our own HTTP/2 server, which is faster, or that of the grpcio library.",
            choices=("native", "grpcio"),
            aliases=(("wire", "native"),),
        ),
    )
    output_encoding: str = declare(
        "TENSOR_CONTENT",
        Setting(
            "grpc_output_encoding",
            "How responses encode tensors: as raw bytes, or value by value in float_val and the like, which "
            "is slow.",
            environment="SERIALIZATION_FUNCTION",
            choices=("TENSOR_CONTENT", "TYPED_FIELDS"),
            aliases=(
                ("_prepare_output_with_make_tensor_proto", "TENSOR_CONTENT"),
                ("_prepare_output_as_AppendArrayToTensorProto", "TYPED_FIELDS"),
            ),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestConfig(_Listening):
    """The REST fronts."""

    port: int = declare(0, Setting("rest_port", "Port of the REST server; 0 disables it.", low=0, high=65535))
    bind_address: str = declare(
        "[::]",
        Setting(
            "rest_bind_address",
            "Addresses that the REST server listens on, separated by commas; [::] is every IPv4 and IPv6 "
            "address, unix:PATH a Unix socket, which has no port.",
        ),
    )
    workers: int = declare(
        1,
        Setting(
            "rest_workers",
            "Number of REST front processes; at most the number of cores.",
            low=1,
            high=10000,
        ),
    )
    backlog: int = declare(
        1024,
        Setting(
            "rest_requests_queue_size",
            "Maximum number of connections that wait to be accepted.",
            environment="REST_REQUESTS_QUEUE_SIZE",
            low=1,
            high=65535,
        ),
    )
    prefix: str = declare(
        "",
        Setting(
            "rest_prefix",
            "Path below which all REST paths lie, e.g. /models behind a proxy that routes by paths; probes and metrics "
            "lie below it, too.",
        ),
    )
    has_page: bool = declare(
        True,
        Setting(
            "ui",
            "Serve the live page for browsers at / and /ui/ of the REST port: models, processes, latencies, and a form "
            "that tries a model; and the documentation at /docs/.",
            choices=SWITCH,
        ),
    )
    fleet_file: str = declare(
        "",
        Setting(
            "fleet_file",
            "File from which the live page learns of the fleet that this server is part of; `ovms_mp fleet` gives it.",
            is_path=True,
        ),
    )
    client_timeout_s: float = declare(
        60.0,
        Setting(
            "rest_client_timeout_s",
            "A REST client that sends nothing of its request's body, or reads nothing of its response, for "
            "this many seconds is disconnected; the head of a request may take 30 s at most.",
            low=1,
            high=86400,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Certificates of all TCP ports, of both protocols."""

    cert: str = declare(
        "",
        Setting(
            "tls_cert",
            "Certificate of the server in PEM, followed by those of the authorities between it and the root: both TCP "
            "ports then speak TLS 1.2 or 1.3 only, Unix sockets stay plain. Read again when it changes.",
            is_path=True,
        ),
    )
    key: str = declare(
        "",
        Setting(
            "tls_key",
            "Private key of --tls_cert in PEM, without a passphrase. Read again when it changes.",
            is_path=True,
        ),
    )
    client_ca: str = declare(
        "",
        Setting(
            "tls_client_ca",
            "Certificates in PEM of the authorities that sign clients' certificates; a client without one is refused. "
            "Read again when it changes.",
            is_path=True,
        ),
    )

    @property
    def files(self) -> TlsFiles | None:
        """What is read; None where ports are plain."""
        return TlsFiles(self.cert, self.key, self.client_ca) if self.cert else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsConfig:
    """What clients may do, over either protocol."""

    max_requests: int = declare(
        0,
        Setting(
            "max_requests_per_client",
            "Maximum number of requests that one client has under way at each front, which has further ones refused; 0 "
            "is no limit. A client is who calls with the same key or, without keys, from the same address.",
            low=0,
            high=1 << 20,
        ),
    )
    may_change_state: bool = declare(
        True,
        Setting(
            "allow_client_changes",
            "Let clients reload the configuration, load and unload models, and set what is logged. SIGHUP always "
            "reloads.",
            choices=SWITCH,
        ),
    )
    allows_shm: bool = declare(
        False,
        Setting(
            "allow_client_shm",
            "Let KServe clients on this machine register their shared memory, from which inputs are read and to which "
            "outputs are written; whoever reaches the ports can then read and overwrite any shared memory of the "
            "server's user and groups.",
            choices=SWITCH,
        ),
    )
    shm_socket: str = declare(
        "",
        Setting(
            "client_shm_socket",
            "Unix socket over which clients of the server's user and groups hand over sealed memory, which is then "
            "used without copies; needs --allow_client_shm. Its file is like those of --unix_socket_mode.",
            is_path=True,
        ),
    )
    shm_limit_mb: int = declare(
        1024,
        Setting(
            "client_shm_limit_mb",
            "Most memory that clients may have handed over at one time, in MiB; half of it over one connection.",
            low=1,
            high=1 << 20,
        ),
    )
