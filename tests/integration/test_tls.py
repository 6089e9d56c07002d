# SPDX-License-Identifier: Apache-2.0
"""A server whose clients must have certificates, with either gRPC front: who gets in, what others hear, and rotations.

Those who are refused come in front of clients that go on all the while, and the log tells of them.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import ssl
import subprocess
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.certificates import make_authority, make_certificate
from tests.support.load import Load
from tests.support.server import Server
from tests.support.tls import ClientTls
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

DEADLINE_S = 20.0
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
AUTHORITY, STRANGER = make_authority("authority"), make_authority("stranger")


def check_health(channel: Any) -> bytes:  # Any: grpc's stubs want serializers where raw bytes need none.
    """The answer."""
    return bytes(channel.unary_unary(HEALTH)(b"", timeout=DEADLINE_S))


@dataclass
class Secured:
    """A server with TLS and who may talk to it."""

    server: Server
    directory: Path
    good: ClientTls

    @property
    def good_files(self) -> tuple[Path, Path]:
        """Certificate and key of who may come in."""
        assert self.good.certificate is not None
        return self.good.certificate

    def client(self, name: str, **how: Any) -> ClientTls:
        """With a certificate made for it; ``signer`` is the authority by default."""
        how = {"signer": AUTHORITY} | how
        return ClientTls(self.good.authority, make_certificate(name, **how).write(self.directory, name))

    def replace_certificate(self, name: str) -> None:
        """First the certificate, then the key, as tools do that know nothing of each other's files."""
        make_certificate(name, AUTHORITY).write(self.directory, "server")

    def served_name(self, port: int) -> str:
        """Of the certificate that new handshakes see."""
        with self.handshake(port, self.good.context()) as secured:
            return str(dict(entry[0] for entry in secured.getpeercert()["subject"])["commonName"])  # type: ignore[index,misc]

    @contextlib.contextmanager
    def handshake(
        self, port: int, context: ssl.SSLContext, host: str = "localhost"
    ) -> Iterator[ssl.SSLSocket]:
        """A connection that is secure, from our side at least."""
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            yield secured

    def ask_rest(self, client: ClientTls) -> int:
        """The status of an answer."""
        with contextlib.closing(client.connection(self.server.rest_port, DEADLINE_S)) as connection:
            connection.request("GET", "/v2/health/ready")
            response = connection.getresponse()
            response.read()
            return response.status

    def ask_grpc(self, client: ClientTls) -> bytes:
        """The answer of a health check on a new connection."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"localhost:{self.server.port}", client.credentials(), options) as channel:
            return check_health(channel)


@pytest.fixture(scope="module", params=["native", "grpcio"])
def secured(
    request: pytest.FixtureRequest, zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate("server", AUTHORITY).write(directory, "server")
    authority = directory / "authority.pem"
    authority.write_bytes(AUTHORITY.chain)
    good = ClientTls(authority, make_certificate("alice", AUTHORITY).write(directory, "alice"))
    flags = ("--tls_cert", certificate, "--tls_key", key, "--tls_client_ca", authority)
    model = ("model", "--model_name", "tiny", "--model_path", zoo.base_path("tiny"))
    server = Server(
        [*map(str, (*model, *flags)), "--grpc_front", request.param], directory / "log", is_patient=False
    )
    with server:
        found = Secured(server, directory, good)
        assert (
            f"Ready: REST https://0.0.0.0:{server.rest_port}  gRPC grpcs://0.0.0.0:{server.port}"
            in server.log()
        )
        assert found.ask_grpc(good) == SERVING  # What grpcio opens once is in every test's ledger.
        yield found


def test_who_has_a_certificate_is_served(secured: Secured) -> None:
    assert secured.ask_rest(secured.good) == http.HTTPStatus.OK
    assert secured.ask_grpc(secured.good) == SERVING
    url = f"https://localhost:{secured.server.rest_port}/v1/models/tiny"
    certificate, key = secured.good_files
    curl = ["curl", "-sS", "--cacert", secured.good.authority, "--cert", certificate, "--key", key, url]
    answer = subprocess.run(list(map(str, curl)), check=True, capture_output=True, timeout=DEADLINE_S)
    assert b"AVAILABLE" in answer.stdout


@pytest.mark.parametrize(
    ("how", "alert"),
    [
        (None, "CERTIFICATE_REQUIRED"),
        ({"signer": STRANGER}, "UNKNOWN_CA"),
        ({"from_days": -3, "to_days": -1}, "CERTIFICATE_EXPIRED"),
        ({"from_days": 1}, "BAD_CERTIFICATE"),
    ],
    ids=["none", "another authority", "expired", "not yet valid"],
)
def test_who_has_none_that_is_good_is_told(secured: Secured, how: dict[str, Any] | None, alert: str) -> None:
    client = ClientTls(secured.good.authority, None) if how is None else secured.client("mallory", **how)
    with pytest.raises(ssl.SSLError) as caught:
        secured.ask_rest(client)
    assert alert in str(caught.value.reason)
    with pytest.raises(grpc.RpcError) as failed:
        secured.ask_grpc(client)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert secured.ask_rest(secured.good) == http.HTTPStatus.OK


def test_a_name_that_is_not_in_the_certificate(secured: Secured) -> None:
    for port in (secured.server.port, secured.server.rest_port):
        with (
            pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
            secured.handshake(port, secured.good.context(), "elsewhere.example"),
        ):
            pass


def test_old_versions_are_refused(secured: Secured) -> None:
    context = secured.good.context()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    for port in (secured.server.port, secured.server.rest_port):
        # grpcio's server only closes.
        with (
            pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|EOF occurred"),
            secured.handshake(port, context),
        ):
            pass


def test_plain_clients_are_told(secured: Secured) -> None:
    port = secured.server.rest_port
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as connection:
        connection.request("GET", "/v1/models/tiny")
        response = connection.getresponse()
        assert response.status == http.HTTPStatus.BAD_REQUEST
        assert json.loads(response.read()) == {"error": "this port speaks TLS; use https://"}
    with (
        grpc.insecure_channel(f"127.0.0.1:{secured.server.port}") as channel,
        pytest.raises(grpc.RpcError) as failed,
    ):
        check_health(channel)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


def test_no_renegotiation(secured: Secured) -> None:
    """Of TLS 1.2, by which a client could have the server compute for ever."""
    certificate, key = secured.good_files
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{secured.server.rest_port}"]
    files = ["-cert", certificate, "-key", key, "-CAfile", secured.good.authority]
    answer = subprocess.run(
        ["/usr/bin/env", *map(str, (*command, *files))],
        input=b"R\n", capture_output=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert b"no renegotiation" in answer.stderr
    assert secured.ask_rest(secured.good) == http.HTTPStatus.OK


def test_hellos_that_never_end_do_not_hold_others_up(secured: Secured) -> None:
    """Half of a hello, none at all, and one that announces 16 MiB."""
    hello = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03" + bytes(16_375)
    with contextlib.ExitStack() as stack:
        for port in (secured.server.port, secured.server.rest_port):
            for start in (hello[:20], b"", hello * 20):
                peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
                with contextlib.suppress(ConnectionError):
                    peer.sendall(start)
        assert secured.ask_rest(secured.good) == http.HTTPStatus.OK
        assert secured.ask_grpc(secured.good) == SERVING


def has_answers(load: Load, count: int) -> bool:
    return load.right_answers() >= count


def test_certificates_are_replaced_under_load(secured: Secured, pytestconfig: pytest.Config) -> None:
    """Of connections that stay and of new ones, whatever moment they come in."""
    server = secured.server
    with Load(server.port, server.rest_port, clients=4, pause_s=0.005, tls=secured.good) as load:
        for number in range(pytestconfig.getoption("--rotations")):
            name = f"server {number}"
            secured.replace_certificate(name)

            def is_new(name: str = name) -> bool:
                ports = (server.port, server.rest_port)
                assert secured.ask_rest(secured.good) == http.HTTPStatus.OK
                return all(secured.served_name(port) == name for port in ports)

            eventually(is_new, DEADLINE_S, f"{name} is used")
            goal = load.right_answers() + 10
            eventually(functools.partial(has_answers, load, goal), DEADLINE_S, "answers")
    assert set(load.outcome.counts) == {"right"}, load.outcome


def test_an_authority_that_is_replaced_is_not_trusted_any_more(secured: Secured) -> None:
    secured.good.authority.with_name("kept").write_bytes(AUTHORITY.chain)
    trusted = ClientTls(secured.good.authority.with_name("kept"), secured.good.certificate)
    try:
        secured.good.authority.write_bytes(STRANGER.chain)

        def is_refused() -> bool:
            try:
                return secured.ask_rest(trusted) != http.HTTPStatus.OK
            except (ssl.SSLError, ConnectionError):
                return True

        eventually(is_refused, DEADLINE_S, "the former authority is refused")
    finally:
        secured.good.authority.write_bytes(AUTHORITY.chain)
    eventually(lambda: not is_refused(), DEADLINE_S, "it is trusted again")
