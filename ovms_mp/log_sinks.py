# SPDX-License-Identifier: Apache-2.0
"""Where the lines of the log go: stderr, and a file that others may rename, cut, remove or fill the disk of.

Several processes append to one file, so each line is one ``write`` on a descriptor with O_APPEND. A write that fails
is told to the caller, who counts; one that would wait (a pipe that nobody reads) is given a moment, once, until a
write works again.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections import deque

_PATIENCE_S = 0.1
"""A reader that is only slow gets so long to take a line; after that lines are lost until one can be written."""
_REOPEN_INTERVAL_S = 1.0
"""Time between two tries to open a file that cannot be opened."""
_MOST_KEPT = 4096
"""Lines of a backlog: a megabyte."""
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MODE = 0o666


class Sink:
    """Something that lines are written to.

    Attributes:
        name: What it is, for people.
        lost: Lines that could not be written since the last one that could; the caller counts.
        reason: Why the last write failed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost = 0
        self.reason = ""
        self._is_mid_line = False

    def write(self, line: bytes, patience_s: float = _PATIENCE_S) -> bool:
        """Write a line with its line break; whether all of it was written.

        Args:
            line: What to write.
            patience_s: How long to wait for room, unless that has been in vain already.
        """
        rest = memoryview(line)
        give_up_at = 0.0
        try:
            if not self._prepare():
                return False
            if self._is_mid_line and self._write_some(memoryview(b"\n")):
                self._is_mid_line = False
            while rest and not self._is_mid_line:
                count = self._write_some(rest)
                rest = rest[count:]
                now = time.monotonic()
                # Waiting that has been in vain already would be so again.
                give_up_at = give_up_at or now + (0.0 if self.lost else patience_s)
                if rest and (now >= give_up_at or not self.is_writable(give_up_at - now)):
                    self.reason = "nobody reads it"
                    break
        except OSError as error:
            self.reason = error.strerror or str(error)
        self._is_mid_line = self._is_mid_line or 0 < len(rest) < len(line)
        return not rest

    def is_writable(self, within_s: float = 0.0) -> bool:
        """Whether a write could succeed. True also where it would fail at once."""
        poll = select.poll()
        descriptor = self.fileno()
        if descriptor < 0:
            return True
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(within_s * 1e3))

    def fileno(self) -> int:
        """The descriptor; -1 for none."""
        raise NotImplementedError

    def _prepare(self) -> bool:
        """Get ready for a line; whether there is anything to write to."""
        return True

    def _write_some(self, octets: memoryview) -> int:
        """Write without waiting; how much was written."""
        try:
            return os.write(self.fileno(), octets)
        except BlockingIOError:
            return 0

    def reopen(self) -> None:
        """Take a file by its name again."""

    def close(self) -> None:
        """Give the descriptor back."""


class StreamSink(Sink):
    """A descriptor that this process was started with: a terminal, pipe, socket or file, or nothing.

    Its description may be shared with other programs, whose reads and writes are to go on waiting; so what does not
    wait is an opening of its own, or a flag of each call.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(name)
        self._given = descriptor
        self._own = -1
        self._socket: socket.socket | None = None
        self._may_wait = False
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            self._given = -1
            return
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(descriptor))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            # A regular file keeps its description: another one would have a place of its own to write at.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            with contextlib.suppress(OSError):
                self._own = os.open(f"/proc/self/fd/{descriptor}", flags)
            self._may_wait = self._own < 0

    def fileno(self) -> int:
        """The descriptor; -1 for none."""
        return self._given if self._own < 0 else self._own

    def write(self, line: bytes, patience_s: float = _PATIENCE_S) -> bool:
        """Write a line; without a descriptor there is nobody who could miss it."""
        return self._given < 0 or super().write(line, patience_s)

    def _write_some(self, octets: memoryview) -> int:
        if self._socket is not None:
            try:
                return self._socket.send(octets, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return 0
        if self._may_wait and not self.is_writable():
            return 0
        return super()._write_some(octets)

    def close(self) -> None:
        """Give back what was opened here; the descriptor itself is the process's."""
        if self._socket is not None:
            self._socket.close()
        if self._own >= 0:
            os.close(self._own)
        self._own = self._given = -1


class Backlog:
    """Lines for a sink that are never waited with; those that it has no room for are kept, so many at most.

    PERF: 3 us a line while there is room.
    """

    def __init__(self, sink: Sink, most_lines: int = _MOST_KEPT) -> None:
        self._sink = sink
        self._most_lines = most_lines
        self._kept: deque[bytes] = deque()
        self._lost = 0

    def offer(self, line: bytes) -> None:
        """Write a line behind those that are kept, or keep it, or count it as lost."""
        if self._kept or not self._sink.write(line, 0.0):
            if len(self._kept) >= self._most_lines:
                self._lost += 1
            else:
                self._kept.append(line)

    def flush(self) -> int:
        """Write what is kept, as far as there is room; how many were lost, once everything is written."""
        while self._kept:
            if not self._sink.write(self._kept[0], 0.0):
                return 0
            self._kept.popleft()
        lost, self._lost = self._lost, 0
        return lost


class FileSink(Sink):
    """A file that is appended to, by its name: a new one is begun where the old one was renamed or removed.

    PERF: looking at the name before each line takes 1 us, a line 15 us (CPython 3.11, ext4).
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = os.path.abspath(path)
        self._descriptor = -1
        self._identity: tuple[int, int] | None = None
        self._try_again_at = 0.0
        with contextlib.suppress(OSError):
            self.reopen()

    @staticmethod
    def check(path: str) -> None:
        """Look whether a path can be opened for appending; a FIFO without a reader counts.

        Raises:
            OSError: It cannot.
        """
        try:
            os.close(os.open(path, _APPEND | os.O_CREAT, _MODE))
        except OSError:
            if not _is_fifo(path):
                raise

    def fileno(self) -> int:
        """The descriptor; -1 for none."""
        return self._descriptor

    def _prepare(self) -> bool:
        if self._descriptor < 0 or self._identity != _identity(self._path):
            if time.monotonic() < self._try_again_at:
                return self._descriptor >= 0
            try:
                self._open()
            except OSError as error:
                self._try_again_at = time.monotonic() + _REOPEN_INTERVAL_S
                self.reason = error.strerror or str(error)
                # The directory may be gone, too; what is open is better than nothing.
                return self._descriptor >= 0
        return True

    def reopen(self) -> None:
        """Open the file by its name if it is another one by now; what cannot be opened is tried again later."""
        self._try_again_at = 0.0
        if self._identity is None or self._identity != _identity(self._path):
            with contextlib.suppress(OSError):
                self._open()

    def _open(self) -> None:
        opened = os.open(self._path, _APPEND | os.O_CREAT, _MODE)
        state = os.fstat(opened)
        if self._descriptor < 0:
            self._descriptor = opened
        else:
            # SAFETY: the number stays the same, so a write that a signal handler interrupts goes to one of both.
            os.dup2(opened, self._descriptor, inheritable=False)
            os.close(opened)
        self._identity = (state.st_dev, state.st_ino)
        self._is_mid_line = False

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._identity = -1, None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return (state.st_dev, state.st_ino)


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False
