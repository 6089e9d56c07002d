# SPDX-License-Identifier: Apache-2.0
"""A network that misbehaves: forwards TCP connections, slowly, for a while only, or not at all.

A process of its own, told what to do by a file: ``python -m tests.support.tcp_proxy PORT TARGET_PORT CONTROL``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_S = 0.02
_BLOCK = 16 << 10


@dataclass(frozen=True)
class Weather:
    """How it is.

    Attributes:
        serial: Another one renews ``cuts``.
        is_down: Connections are refused, and those that are open closed.
        cuts: So many connections are cut, each when ``cut_after`` bytes have come by it.
        bytes_per_s: Of all that is downloaded by a connection; 0 for any.
    """

    serial: int = 0
    is_down: bool = False
    cuts: int = 0
    cut_after: int = 0
    bytes_per_s: int = 0


@dataclass
class Proxy:
    """The test's end of it."""

    port: int
    control: Path
    serial: int = 0

    def set(self, weather: Weather) -> None:
        """From now on."""
        self.serial += 1
        other = self.control.with_suffix(".new")
        other.write_text(json.dumps({**asdict(weather), "serial": self.serial}))
        other.replace(self.control)

    def cuts(self) -> int:
        """How many connections it has cut."""
        log = self.control.with_suffix(".cuts")
        return len(log.read_text().splitlines()) if log.exists() else 0


@contextlib.contextmanager
def proxy(port: int, target_port: int, directory: Path) -> Iterator[Proxy]:
    """A proxy before a port of this machine."""
    made = Proxy(port, directory / f"proxy-{port}.json")
    made.set(Weather())
    command = [
        sys.executable,
        "-m",
        "tests.support.tcp_proxy",
        str(port),
        str(target_port),
        str(made.control),
    ]
    with subprocess.Popen(command) as process:
        try:
            yield made
        finally:
            process.kill()


class _Forwarder:
    def __init__(self, port: int, target_port: int, control: Path) -> None:
        self.port, self.target_port, self.control = port, target_port, control
        self.weather = Weather(serial=-1)
        self.cuts = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None

    async def run(self) -> None:
        while True:
            weather = Weather(**json.loads(self.control.read_text()))
            if weather.serial != self.weather.serial:
                self.weather, self.cuts = weather, weather.cuts
                await self.turn()
            await asyncio.sleep(_LOOK_S)

    async def turn(self) -> None:
        if self.weather.is_down and self.server is not None:
            self.server.close()
            self.server = None
            for writer in self.writers:
                writer.transport.abort()
        elif not self.weather.is_down and self.server is None:
            self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self.writers |= both
        tasks = [
            asyncio.create_task(self.pump(reader, far_writer, is_download=False)),
            asyncio.create_task(self.pump(far_reader, writer, is_download=True)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.writers -= both
        for one in both:
            one.transport.abort()

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_download: bool
    ) -> None:
        count = 0
        while block := await reader.read(_BLOCK):
            count += len(block)
            if is_download and self.cuts and count >= self.weather.cut_after:
                self.cuts -= 1
                with self.control.with_suffix(".cuts").open("a") as log:
                    log.write("cut\n")
                return
            if is_download and self.weather.bytes_per_s:
                await asyncio.sleep(len(block) / self.weather.bytes_per_s)
            writer.write(block)
            await writer.drain()
        await asyncio.sleep(_LOOK_S)  # What was written last is sent.


if __name__ == "__main__":
    asyncio.run(_Forwarder(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])).run())
