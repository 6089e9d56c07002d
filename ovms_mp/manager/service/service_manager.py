# SPDX-License-Identifier: Apache-2.0
"""What a service manager such as systemd is told: readiness, status, reloads, the end, and that the loop turns.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Self

_log = logging.getLogger(__name__)

_ADDRESS, _WATCHDOG_US, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class ServiceManager:
    """Tells the service manager that started this process; tells nobody where there is none. Never waits."""

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        """Prepare; nothing is sent.

        Args:
            address: Of its datagram socket: a path, or ``@`` and an abstract name; empty for no service manager.
            watchdog_s: It ends this process if :meth:`alive` is not called for so many seconds; 0 for never.
        """
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._waiting: dict[str, str] = {}
        self._status = ""

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """The one that the environment names. Its variables are taken out: they are not meant for children."""
        address = environment.pop(_ADDRESS, "")
        watchdog_us = environment.pop(_WATCHDOG_US, "")
        watchdog_pid = environment.pop(_WATCHDOG_PID, "")
        is_ours = watchdog_pid in ("", str(os.getpid()))
        if address and not address.startswith(("/", "@")):
            _log.warning(
                "event=no_service_manager %s=%r is neither a path nor an abstract name", _ADDRESS, address
            )
            address = ""
        watchdog_s = int(watchdog_us) / 1e6 if is_ours and watchdog_us.isdecimal() else 0.0
        return cls(address, watchdog_s if address else 0.0)

    @property
    def is_there(self) -> bool:
        """Whether anybody is told."""
        return self._socket is not None

    def ready(self) -> None:
        """Requests are answered, or a reload has ended."""
        self._send("READY=1")

    def reloading(self, now_ns: int) -> None:
        """A reload begins; :meth:`ready` ends it.

        Args:
            now_ns: Of the monotonic clock.
        """
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_ns // 1000}")

    def stopping(self, within_s: float) -> None:
        """The server stops, and takes at most so many seconds."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    def busy(self, within_s: float) -> None:
        """A start or stop goes on as it should; the next word comes within so many seconds."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    def alive(self) -> None:
        """The loop turns. To be called at least twice as often as every ``watchdog_s``."""
        self._send("WATCHDOG=1" if self.watchdog_s else "")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows, one line."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + text.replace("\n", " "))

    def _send(self, text: str) -> None:
        """Send what waits, and this. Never waits for a socket that is full: the newest of each kind is kept."""
        if self._socket is None:
            return
        if text:
            kind = text.partition("=")[0]
            self._waiting.pop(kind, None)  # So that it is the last one.
            self._waiting[kind] = text
        for kind, message in list(self._waiting.items()):
            try:
                self._socket.sendto(message.encode(), self._address)
            except BlockingIOError:
                return
            except OSError as error:
                # It is not there (any more). What comes next is tried again, as it may come back.
                _log.warning("event=service_manager_not_told %s: %s", kind, error)
            del self._waiting[kind]

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
