# SPDX-License-Identifier: Apache-2.0
"""The address that clients have, on one machine: HAProxy under its guard, and what it was told. A Ray actor, or not.

The actor may die and be started anew: HAProxy goes on meanwhile, with the servers that it knows, and the successor
finds in a file what HAProxy was told last. HAProxy itself may die: the guard starts it again with the same servers.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import select
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ovms_mp.errors import BootError
from ovms_mp.fleet.haproxy import ANY, Entry, Place, backend_of, commands, configuration
from ovms_mp.places import module_command, module_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ASK_S = 5.0
_START_S = 3.0
_STOP_S = 6.0
_PACE_S = 0.05
_AT_ONCE = 20
"""Commands in one line, which must fit into a buffer."""
_DONE = ("IP changed", "port changed", "no need to change", "health check")
"""How HAProxy says that it did something; where it says nothing, it did."""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What HAProxy was told.

    Attributes:
        entry: Where clients come, with the port that was chosen.
        asked_for: The port that was asked for, 0 for any.
        models: Those of the fleet.
        slots: Of servers, by their numbers.
        places: Where they listen, by their slots.
        routes: Slots of those that get requests, by model.
    """

    entry: Entry
    asked_for: int
    models: tuple[str, ...] = ()
    slots: dict[int, int] = {}
    places: dict[int, Place] = {}
    routes: dict[str, frozenset[int]] = {}


class Balancer:
    """Owns the guard, unless an earlier one has left it."""

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
        self,
        entry: Mapping[str, Any],
        servers: Mapping[int, Mapping[str, Any]],
        routes: Mapping[str, Sequence[int]],
    ) -> dict[str, Any]:
        """Have requests go to these servers; when this returns, no new one goes to others.

        Args:
            entry: An :class:`Entry`.
            servers: A :class:`Place` of each, by number.
            routes: Numbers of those that get requests, by model, and ``ANY``.

        Returns:
            The address, and ``asked``: models that requests have come for since the last time.

        Raises:
            BootError: HAProxy does not start, or refuses what it is told.
        """
        with self._lock:
            # What has just died is being started again by its guard.
            is_running = self._is_running() or (self._guard() > 0 and self._comes())
            last = self._table or self._left_behind()
            with socket.socket() as held:
                after = self._assigned(last, msgspec.convert(entry, Entry), servers, routes, held)
                if after != last:
                    self._write("haproxy.cfg", self._configuration(after))
                if last is None or not is_running:
                    self._start()
                elif (last.entry, last.models) != (after.entry, after.models):
                    self._reload()
                else:
                    self._tell(
                        commands(after.models, (last.places, last.routes), (after.places, after.routes))
                    )
            if after != last:
                self._write("table.json", msgspec.json.encode(after).decode())
            self._table = after
            return {"host": self._host, "port": after.entry.port, "asked": self._asked(after)}

    def stop(self) -> None:
        """End HAProxy."""
        with self._lock:
            self._end_guard()
            self._table = None
            (self._directory / "table.json").unlink(missing_ok=True)

    def _assigned(
        self,
        last: Table | None,
        entry: Entry,
        servers: Mapping[int, Mapping[str, Any]],
        routes: Mapping[str, Sequence[int]],
        held: socket.socket,
    ) -> Table:
        """A slot for each server; one that has one keeps it.

        Raises:
            BootError: There are too many servers, or the port is taken.
        """
        slots = {number: slot for number, slot in (last.slots if last else {}).items() if number in servers}
        free = iter(sorted(set(range(1, entry.slots + 1)) - set(slots.values())))
        for number in servers:
            if number not in slots:
                slots[number] = next(free, 0)
        if 0 in slots.values():
            raise BootError(f"a balancer has {entry.slots} slots for servers, and there are {len(servers)}")
        return Table(
            entry=dataclasses.replace(entry, port=self._port(last, entry, held)),
            asked_for=entry.port,
            models=tuple(sorted(name for name in routes if name != ANY)),
            slots=slots,
            places={slots[number]: msgspec.convert(place, Place) for number, place in servers.items()},
            routes={name: frozenset(slots[number] for number in numbers) for name, numbers in routes.items()},
        )

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

    def _configuration(self, table: Table) -> str:
        return configuration(
            table.entry, table.models, table.places, table.routes, str(self._directory / "admin.sock")
        )

    def _start(self) -> None:
        """Start HAProxy under a guard.

        Raises:
            BootError: It does not listen in time.
        """
        self._end_guard()
        command = [self._haproxy, "-W", "-f", str(self._directory / "haproxy.cfg")]
        command += ["-S", f"{self._directory / 'master.sock'},mode,600"]
        with open(self._directory / "haproxy.log", "ab") as log:
            guard = subprocess.Popen(
                [*module_command("ovms_mp.fleet.guard", str(self._node_pid)), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=module_environment(self._environment),
                start_new_session=True,
            )
        self._write("guard.pid", str(guard.pid))
        if self._comes():
            return
        log_text = (self._directory / "haproxy.log").read_text(errors="replace")
        raise BootError(f"HAProxy does not start on {self._host}: {log_text[-1000:].strip()}")

    def _end_guard(self) -> None:
        """End the guard that there was, and HAProxy with it."""
        guard = self._guard()
        if not guard:
            return
        guard_fd = os.pidfd_open(guard)
        try:
            signal.pidfd_send_signal(guard_fd, signal.SIGTERM)
            select.select([guard_fd], [], [], _STOP_S)
        finally:
            os.close(guard_fd)

    def _guard(self) -> int:
        """Its process; 0 without one."""
        try:
            number = int((self._directory / "guard.pid").read_text())
            is_ours = b"ovms_mp.fleet.guard" in Path(f"/proc/{number}/cmdline").read_bytes()
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
        told = list(lines)
        for first in range(0, len(told), _AT_ONCE):
            some = told[first : first + _AT_ONCE]
            for answer in filter(None, map(str.strip, self._ask("admin.sock", "; ".join(some)).splitlines())):
                if not answer.startswith(_DONE):
                    raise BootError(f"HAProxy on {self._host} refuses {some}: {answer}")

    def _asked(self, table: Table) -> list[str]:
        rows = csv.DictReader(io.StringIO(self._ask("admin.sock", "show stat -1 2 -1").lstrip("# ")))
        now: dict[str, int] = {}
        for row in rows:
            backend = row["pxname"].rpartition("-")[0]
            now[backend] = now.get(backend, 0) + int(row["stot"] or 0)
        before, self._requests = self._requests, now
        backends = {name: backend_of(name) for name in table.models}
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
            if self._is_running():
                return True
            pause.wait(_PACE_S)
        return False

    def _is_running(self) -> bool:
        try:
            return "Pid" in self._ask("admin.sock", "show info")
        except BootError:
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
