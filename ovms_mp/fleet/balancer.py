# SPDX-License-Identifier: Apache-2.0
"""The address that clients have, on one machine: HAProxy under its keeper, and what it was told. A Ray actor, or not.

The actor may die and be started anew: HAProxy goes on meanwhile, with the servers that it knows, and the successor
finds in a file what HAProxy was told last. HAProxy itself may die: the keeper starts it again with the same servers.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import select
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from ovms_mp.errors import BootError
from ovms_mp.fleet.haproxy import ANY, Entry, Place, Table, backend_of, commands, configuration
from ovms_mp.fleet.keeper import KEEPER, Charge, keep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ASK_S = 5.0
_START_S = 3.0
_STOP_S = 6.0
_PACE_S = 0.05
_LINE_BYTES = 8 << 10
"""Of commands in a line, which must fit into a buffer. HAProxy answers more requests between lines than within one."""
_DONE = ("IP changed", "port changed", "no need to change", "health check")
"""How HAProxy says that it did something; where it says nothing, it did."""


class Balancer:
    """Owns the keeper, unless an earlier one has left it."""

    def __init__(
        self, directory: Path, haproxy: str, host: str, node_pid: int, environment: Mapping[str, str]
    ) -> None:
        """Prepare.

        Args:
            directory: For its files, which a successor on this machine is given, too.
            haproxy: Path of the program.
            host: The machine's address.
            node_pid: The process that runs the machine's actors; HAProxy ends with it.
            environment: This process's.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._haproxy = haproxy
        self._host = host
        self._node_pid = node_pid
        self._environment = environment
        self._lock = threading.Lock()
        self._table: Table | None = None
        self._requests: dict[str, int] = {}

    def update(
        self, entry: Entry, slots: int, servers: Mapping[int, Place], routes: Mapping[str, Sequence[int]]
    ) -> dict[str, Any]:
        """Have requests go to these servers; when this returns, no new one goes to others.

        Args:
            entry: Where clients come.
            slots: Servers that there may be at a time.
            servers: Where each listens, by its number.
            routes: Numbers of those that get requests, by model; those of ``ANY`` come first.

        Returns:
            The address, and ``asked``: models that requests have come for since the last time.

        Raises:
            BootError: HAProxy does not start, or refuses what it is told.
        """
        with self._lock:
            # What has just died is being started again by its keeper.
            is_running = self._keeper() > 0 and self._comes()
            last = self._table or self._left_behind()
            with socket.socket() as held:
                slot_of = self._slots(last, slots, servers)
                after = Table(
                    entry=replace(entry, port=self._port(last, entry, held)),
                    asked_for=entry.port,
                    slots=slots,
                    slot_of=slot_of,
                    routes={
                        name: {slot_of[number]: servers[number] for number in numbers}
                        for name, numbers in routes.items()
                    },
                )
                if after != last:
                    self._write("haproxy.cfg", configuration(after, str(self._directory / "admin.sock")))
                if last is None or not is_running:
                    self._start()
                elif last.lasting != after.lasting:
                    self._reload()
                else:
                    self._tell(commands(last, after))
            if after != last:
                self._write("table.json", msgspec.json.encode(after).decode())
            self._table = after
            return {"host": self._host, "port": after.entry.port, "asked": self._asked(after)}

    def stop(self) -> None:
        """End HAProxy."""
        with self._lock:
            self._end_keeper()
            self._table = None
            (self._directory / "table.json").unlink(missing_ok=True)

    def _slots(self, last: Table | None, most: int, servers: Iterable[int]) -> dict[int, int]:
        """A slot for each server; one that has one keeps it.

        Raises:
            BootError: There are too many servers.
        """
        numbers = set(servers)
        before = last.slot_of if last else {}
        kept = {number: slot for number, slot in before.items() if number in numbers and slot <= most}
        free = [slot for slot in range(1, most + 1) if slot not in kept.values()]
        fresh = sorted(numbers - kept.keys())
        if len(fresh) > len(free):
            raise BootError(f"a balancer has {most} slots for servers, and there are {len(numbers)}")
        return kept | dict(zip(fresh, free, strict=False))

    def _port(self, last: Table | None, entry: Entry, held: socket.socket) -> int:
        """The port that HAProxy is to have. It is held until HAProxy, which shares its port with successors, has it.

        Raises:
            BootError: Somebody else has it.
        """
        if last is not None and last.asked_for == entry.port:
            return last.entry.port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((entry.address, entry.port))
        except OSError as error:
            raise BootError(f"entry port {entry.port} of {self._host}: {error.strerror}") from None
        return int(held.getsockname()[1])

    def _start(self) -> None:
        """Start HAProxy under a keeper.

        Raises:
            BootError: It does not listen in time.
        """
        self._end_keeper()
        command = (self._haproxy, "-W", "-f", str(self._directory / "haproxy.cfg"))
        master = ("-S", f"{self._directory / 'master.sock'},mode,600")
        charge = Charge(command=(*command, *master), lives_with=self._node_pid, is_restarted=True)
        keeper = keep(charge, self._directory / "haproxy.log", self._environment)
        self._write("keeper.pid", str(keeper.pid))
        if not self._comes():
            log_text = (self._directory / "haproxy.log").read_text(errors="replace")
            raise BootError(f"HAProxy does not start on {self._host}: {log_text[-1000:].strip()}")

    def _end_keeper(self) -> None:
        """End the keeper that there was, and HAProxy with it."""
        keeper = self._keeper()
        if not keeper:
            return
        with contextlib.suppress(ProcessLookupError):
            keeper_fd = os.pidfd_open(keeper)
            try:
                signal.pidfd_send_signal(keeper_fd, signal.SIGTERM)
                select.select([keeper_fd], [], [], _STOP_S)
            finally:
                os.close(keeper_fd)
            os.killpg(keeper, signal.SIGKILL)

    def _keeper(self) -> int:
        """Its process; 0 without one."""
        try:
            number = int((self._directory / "keeper.pid").read_text())
            is_ours = KEEPER.encode() in Path(f"/proc/{number}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return number if is_ours else 0

    def _reload(self) -> None:
        """Have HAProxy go on with the new file.

        Raises:
            BootError: It refuses it, and goes on with the old one.
        """
        answer = self._ask("master.sock", "reload")
        if "Success=1" not in answer:
            raise BootError(f"HAProxy on {self._host} refuses its configuration: {answer[-1000:].strip()}")

    def _tell(self, lines: Iterable[str]) -> None:
        """Give commands.

        Raises:
            BootError: HAProxy refuses one.
        """
        told: list[str] = []
        for line in lines:
            if told and len(told[-1]) + len(line) < _LINE_BYTES:
                told[-1] += f"; {line}"
            else:
                told.append(line)
        for some in told:
            for answer in filter(None, map(str.strip, self._ask("admin.sock", some).splitlines())):
                if not answer.startswith(_DONE):
                    raise BootError(f"HAProxy on {self._host} refuses {some}: {answer}")

    def _asked(self, table: Table) -> list[str]:
        rows = csv.DictReader(io.StringIO(self._ask("admin.sock", "show stat -1 2 -1").lstrip("# ")))
        now: dict[str, int] = {}
        for row in rows:
            backend = row["pxname"].rpartition("-")[0]
            now[backend] = now.get(backend, 0) + int(row["stot"] or 0)
        before, self._requests = self._requests, now
        backends = {name: backend_of(name) for name in table.routes if name != ANY}
        return [name for name, each in backends.items() if now.get(each, 0) > before.get(each, 0)]

    def _ask(self, name: str, line: str) -> str:
        """What HAProxy answers on one of its sockets.

        Raises:
            BootError: Nothing.
        """
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ASK_S)
                connection.connect(str(self._directory / name))
                connection.sendall(line.encode() + b"\n")
                with connection.makefile("rb") as answer:
                    return answer.read().decode(errors="replace")
        except OSError as error:
            raise BootError(f"HAProxy on {self._host} does not answer: {error}") from None

    def _comes(self) -> bool:
        """Whether HAProxy answers within a time."""
        pause = threading.Event()
        for _ in range(int(_START_S / _PACE_S)):
            with contextlib.suppress(BootError):
                if "Pid" in self._ask("admin.sock", "show info"):
                    return True
            pause.wait(_PACE_S)
        return False

    def _left_behind(self) -> Table | None:
        try:
            return msgspec.json.decode((self._directory / "table.json").read_bytes(), type=Table)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, name: str, text: str) -> None:
        fresh = self._directory / f"{name}.new"
        fresh.write_text(text)
        fresh.replace(self._directory / name)
