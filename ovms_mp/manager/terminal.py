# SPDX-License-Identifier: Apache-2.0
"""What a SIGHUP means: the server's terminal was closed, or somebody wants a reload.

::

    ignored at the start (nohup), or no controlling terminal (systemd, cron, setsid)   a reload
    the terminal goes within a moment of the signal                                    it was closed: stop
    the terminal stays (kill -HUP)                                                     a reload
    the terminal had gone before, and no signal came with that (disown)                a reload

The kernel takes a closed terminal away from all processes of its session before it sends the signal; a shell may send
its own a moment before or after. setsid(2), credentials(7), tty_ioctl(4)
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.manager.clock import Clock

_TOGETHER_S = 2.5
"""Signal and loss of the terminal at most so far apart belong together."""
_STAT = Path("/proc/self/stat")


def has_terminal(stat: Path) -> bool:
    """Whether a process has a controlling terminal now, by its file of proc_pid_stat(5): tty_nr."""
    try:
        return stat.read_bytes().rpartition(b")")[2].split()[4] != b"0"
    except (OSError, IndexError):
        return False


class Terminal:
    """The terminal that the server was started on.

    Attributes:
        is_awaited: Whether there is one whose end is to be the server's, too.
    """

    def __init__(self, clock: Clock, stat: Path = _STAT) -> None:
        """Look; before SIGHUP is handled, as how it is handled until then is what ``nohup`` sets.

        Args:
            clock: The manager's.
            stat: Where the kernel tells of this process.
        """
        self._clock = clock
        self._stat = stat
        self.is_awaited = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and has_terminal(stat)
        self._hung_up_at: float | None = None
        self._lost_at: float | None = None

    def hang_up(self) -> bool:
        """A SIGHUP came; whether it means that the terminal was closed."""
        self._hung_up_at = self._clock.monotonic()
        return self.is_closed()

    def is_closed(self) -> bool:
        """Whether the terminal was closed, and not only left behind. To be asked at every SIGHUP, and each second."""
        if not self.is_awaited:
            return False
        now = self._clock.monotonic()
        if self._lost_at is None and not has_terminal(self._stat):
            self._lost_at = now
        if self._lost_at is None:
            return False
        if self._hung_up_at is not None and abs(self._lost_at - self._hung_up_at) <= _TOGETHER_S:
            return True
        # Left behind: from now on a SIGHUP is somebody's who wants a reload.
        self.is_awaited = now - self._lost_at <= _TOGETHER_S
        return False
