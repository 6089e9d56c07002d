# SPDX-License-Identifier: Apache-2.0
"""Records what real clients send: ``python -m tests.support.record_http2 DIRECTORY`` writes ``NAME.bin`` each.

A proxy stands between grpcio, h2load and a client on the ``h2`` library and a wire server with the bench's methods.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import h2.config
import h2.connection
import h2.events
import uvloop

from ovms_mp.front.grpc.http2.server import Http2Server
from tests.support.http2_attacks import predict
from tests.support.http2_bench import STREAM, Bench
from tests.support.http2_peer import PREDICT, STATUS, message, request_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WITHIN_S = 20.0
_H2LOAD = shutil.which("h2load") or ""
_TINY = predict("tiny", 10)


class Proxy:
    """A server and a proxy before it, in a thread; notes what clients send."""

    def __init__(self) -> None:
        self.port = 0
        self.recorded = bytearray()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_WITHIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WITHIN_S)

    async def _start(self) -> None:
        bench = Bench()
        self._server = Http2Server(bench.methods, bench.guard)
        await self._server.start(["127.0.0.1:0"])
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server.ports[0])

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, notes: bool) -> None:
            while octets := await source.read(1 << 16):
                if notes:
                    self.recorded += octets
                target.write(octets)
            target.close()

        await asyncio.gather(copy(reader, far_writer, notes=True), copy(far_reader, writer, notes=False))

    def record(self, client: Callable[[int], None]) -> bytes:
        """What a client sends; it makes one connection."""
        self.recorded.clear()
        client(self.port)
        return bytes(self.recorded)


def _grpcio(port: int, compression: grpc.Compression = grpc.Compression.NoCompression) -> None:
    options = (("grpc.use_local_subchannel_pool", 1),)
    address = f"127.0.0.1:{port}"
    with grpc.insecure_channel(address, options=options, compression=compression) as channel:
        call = channel.unary_unary(PREDICT, None, None)
        call(_TINY, timeout=5, metadata=(("x-trace", "abc"), ("x-octets-bin", b"\0\1\2")))
        pending = [call.future(_TINY, timeout=5) for _ in range(4)]
        for one in pending:
            one.result()
        channel.unary_unary(STATUS, None, None)(b"some octets", timeout=5)
        call(predict("id_f32", 12_000), timeout=5)


def _grpcio_gzip(port: int) -> None:
    _grpcio(port, grpc.Compression.Gzip)


def _grpcio_streams(port: int) -> None:
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        stream = channel.stream_stream(STREAM, None, None)
        for _ in stream(iter([b"a" * 10, b"b" * 5000, b""]), timeout=5):
            pass
        unfinished = threading.Event()

        def asks() -> Iterator[bytes]:
            yield b"the first"
            unfinished.wait(_WITHIN_S)

        call = stream(asks(), timeout=5)
        for _ in call:
            break
        call.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        unfinished.set()


def _h2load(port: int) -> None:
    with tempfile.NamedTemporaryFile() as body:
        body.write(message(_TINY))
        body.flush()
        subprocess.run(
            [_H2LOAD, "-n", "12", "-c", "1", "-m", "4", "-d", body.name, "-H", "content-type: application/grpc",
             "-H", "te: trailers", f"http://127.0.0.1:{port}{PREDICT}"],
            check=True, stdout=subprocess.DEVNULL, timeout=_WITHIN_S,
        )  # fmt: skip


def _h2_library(port: int) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    body = message(predict("id_f32", 12_000))
    with socket.create_connection(("127.0.0.1", port), timeout=_WITHIN_S) as link:
        connection.send_headers(1, request_fields())
        connection.send_data(1, body[:9000], pad_length=30)
        connection.send_headers(3, request_fields(STATUS, [("grpc-timeout", "5S")]))
        connection.send_data(3, message(b"x" * 100), end_stream=True)
        connection.prioritize(5, weight=3, depends_on=1)
        connection.ping(b"12345678")
        connection.send_headers(7, request_fields(STREAM))
        connection.reset_stream(7, 8)
        ended, at = 0, 9000
        while ended < 2:
            while at < len(body) and connection.local_flow_control_window(1) > 0:
                piece = body[at : at + min(connection.local_flow_control_window(1), 16_384)]
                at += len(piece)
                connection.send_data(1, piece, end_stream=at == len(body))
            link.sendall(connection.data_to_send())
            for event in connection.receive_data(link.recv(1 << 16)):
                ended += isinstance(event, h2.events.StreamEnded)
                if isinstance(event, h2.events.DataReceived):
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        connection.close_connection()
        link.sendall(connection.data_to_send())


CLIENTS: dict[str, Callable[[int], None]] = {
    "grpcio": _grpcio,
    "grpcio_gzip": _grpcio_gzip,
    "grpcio_streams": _grpcio_streams,
    "h2_library": _h2_library,
}
if _H2LOAD:
    CLIENTS["h2load"] = _h2load


def main(directory: Path) -> None:
    """Record every client that is installed."""
    directory.mkdir(parents=True, exist_ok=True)
    with Proxy() as proxy:
        for name, client in CLIENTS.items():
            (directory / f"{name}.bin").write_bytes(proxy.record(client))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
