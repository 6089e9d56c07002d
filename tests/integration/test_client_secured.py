# SPDX-License-Identifier: Apache-2.0
"""The client with a server that knows its callers, by certificates and by keys; and when that server is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.client import AsyncClient, Client, NotSecure, Refused, Retries, Unavailable
from tests.support.certificates import make_authority, make_certificate
from tests.support.server import Server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelZoo

KEY = "user-key-0123456789abcdef"
X = np.arange(10, dtype=np.float32).reshape(1, 10)
ROWS = np.arange(1 << 18, dtype=np.float32).reshape(-1, 4)
"""More than one TLS record or window takes."""
TRANSPORTS = ("grpcs", "grpcs tfs", "https", "https tfs")


class Place:
    """A server with TLS, and what a client needs to be let in."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        authority = make_authority("authority")
        self._server_files = make_certificate("server", authority).write(directory, "server")
        alice = make_certificate("alice", authority).write(directory, "alice")
        self.authority = directory / "authority.pem"
        self.authority.write_bytes(authority.chain)
        certificate, key = map(str, alice)
        self.options: dict[str, Any] = {
            "ca": str(self.authority), "certificate": (certificate, key), "api_key": KEY,
        }  # fmt: skip

    @property
    def flags(self) -> list[str]:
        certificate, key = map(str, self._server_files)
        return ["--tls_cert", certificate, "--tls_key", key, "--tls_client_ca", str(self.authority)]

    def url(self, transport: str) -> str:
        scheme, _, api = transport.partition(" ")
        port = self.server.port if scheme == "grpcs" else self.server.rest_port
        return f"{scheme}://localhost:{port}?api={api or 'kserve'}"


@contextlib.contextmanager
def served(zoo: ModelZoo, directory: Path, *models: str) -> Iterator[Place]:
    keys = directory / "keys"
    keys.write_text(f"alice {KEY}\n")
    keys.chmod(0o600)
    config = zoo.config_file(directory, list(models))
    server = Server(["config", "--config_path", str(config)], directory / "server.log", is_patient=False)
    found = Place(server, directory)
    server.arguments = [*server.arguments, *found.flags, "--api_key_file", str(keys)]
    with server, Client(found.url("grpcs"), **found.options) as client:
        eventually(lambda: all(map(client.ready, models)), 60.0, "models")
        yield found


@pytest.fixture(scope="module")
def place(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with served(zoo, tmp_path_factory.mktemp("secured"), "tiny", "batch") as found:
        yield found


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_has_certificate_and_key_is_answered(place: Place, transport: str) -> None:
    with Client(place.url(transport), **place.options) as client:
        for _ in range(3):
            assert client.predict_one("tiny", X, outputs="y").tolist() == (X + 1).tolist()
        if "tfs" not in transport:
            assert np.array_equal(client.predict_one("batch", ROWS), 2 * ROWS)

    async def main() -> list[list[list[float]]]:
        async with AsyncClient(place.url(transport), connections=4, **place.options) as client:
            answers = await asyncio.gather(*[client.predict_one("tiny", {"x": X + n}) for n in range(20)])
            return [answer.tolist() for answer in answers]

    assert asyncio.run(main()) == [(X + n + 1).tolist() for n in range(20)]


def test_streams_go_through_tls(place: Place) -> None:
    with Client(place.url("grpcs"), **place.options) as client:
        answers = list(client.stream("batch", [ROWS, ROWS + 1] * 3))
    assert [answer["y"][0, 0] for answer in answers if isinstance(answer, dict)] == [0.0, 2.0] * 3


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("key", [None, "wrong-key-0123456789abcdef"])
def test_who_has_no_key_is_refused(place: Place, transport: str, key: str | None) -> None:
    with (
        Client(place.url(transport), **{**place.options, "api_key": key}) as client,
        pytest.raises(Refused, match="API key") as error,
    ):
        client.predict("tiny", {"x": X}, request_id="number 7")
    assert (error.value.code.name, error.value.request_id) == ("UNAUTHENTICATED", "number 7")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_has_no_certificate_is_told(place: Place, transport: str) -> None:
    options = {**place.options, "certificate": None}
    with (
        Client(place.url(transport), **options) as client,
        pytest.raises(NotSecure, match=r"(?i)certificate.req"),
    ):
        client.live()

    async def main() -> None:
        async with AsyncClient(place.url(transport), **options) as client:
            await client.live()

    with pytest.raises(NotSecure, match=r"(?i)certificate.required"):
        asyncio.run(main())


def test_what_has_begun_is_answered_when_the_server_is_stopped(zoo: ModelZoo, tmp_path: Path) -> None:
    async def main(place: Place) -> None:
        async with AsyncClient(place.url("grpcs"), retries=Retries(most=0), **place.options) as client:
            slow = [asyncio.create_task(client.predict("slow", np.ones(1, np.float32))) for _ in range(3)]
            await client.metadata("slow")
            assert await client.live()  # Answered after the slow ones have arrived, on the same connection.
            place.server.process.send_signal(signal.SIGTERM)
            for answer in await asyncio.gather(*slow):
                assert answer["y"].shape
            eventually(lambda: place.server.process.poll() is not None, 30.0, "the server has ended")
            with pytest.raises(Unavailable, match="cannot connect"):
                await client.live()

    with (
        served(zoo, tmp_path, "slow") as place,
        Client(place.url("https"), retries=Retries(most=1), **place.options) as idle,
    ):
        assert idle.live()
        asyncio.run(main(place))
        with pytest.raises(Unavailable, match="cannot connect"):
            idle.live()
