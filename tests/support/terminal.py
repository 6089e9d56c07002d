# SPDX-License-Identifier: Apache-2.0
"""A command on a terminal of its own, as a person runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_CTRL_C, _CTRL_Z = b"\x03", b"\x1a"
_PIECE = 65536


class Terminal:
    """Runs a command line by ``sh`` and keeps what it prints. Owner of the process and of the terminal."""

    def __init__(self, command: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.command = command
        self.printed = ""
        self._directory = directory
        self._environment = environment
        self._bytes = b""

    def __enter__(self) -> Self:
        """Start."""
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        try:
            # setsid gives the shell a session of its own with this terminal, so that Ctrl-C reaches all of it; the
            # shell itself stays and tells the command's exit code, as an interactive one does.
            self._process = subprocess.Popen(
                ["/usr/bin/env", "setsid", "--ctty", "sh", "-c", f"trap : INT; {self.command}"],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=self._directory,
                env=self._environment,
            )
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it by force, if it still runs; its children follow."""
        if self._process.poll() is None:
            # The shell is the leader of its group.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)
        os.close(self._master)

    def read(self) -> str:
        """All that has been printed until now."""
        while True:
            try:
                piece = os.read(self._master, _PIECE)
            except BlockingIOError:
                break
            except OSError:  # EIO: nobody has the terminal open any more.
                break
            if not piece:
                break
            self._bytes += piece
        self.printed = self._bytes.decode(errors="replace").replace("\r\n", "\n")
        return self.printed

    def resize(self, lines: int, columns: int) -> None:
        """Give the terminal another size; those on it are sent SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press_ctrl_c(self) -> None:
        """Send SIGINT to all that run in the foreground."""
        os.write(self._master, _CTRL_C)

    def press_ctrl_z(self) -> None:
        """Send SIGTSTP to all that run in the foreground; a shell without job control has nothing stopped."""
        os.write(self._master, _CTRL_Z)

    def exit_code(self, within_s: float) -> int:
        """Wait for the command's end."""

        def has_ended() -> bool:
            # A terminal that nobody reads blocks those who print.
            self.read()
            return self._process.poll() is not None

        eventually(has_ended, within_s, f"the end of {self.command!r}")
        self.read()
        return self._process.returncode
