# SPDX-License-Identifier: Apache-2.0
"""Where the sockets between our processes are: in a directory that only this user may enter.

Abstract names have no permissions. Whoever connects to one again and again is sent away by its owner's user
(:mod:`ovms_mp.wire.channels`), but each time costs us as much as him, and he keeps the queue of connections full: no
successor of a dead process got through. In a private directory the kernel sends him away, at his cost.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from ovms_mp.manager.children.owned_directory import OwnedDirectory
from ovms_mp.wire.channels import new_endpoint

_log = logging.getLogger(__name__)


class SocketDirectory:
    """Makes endpoints; abstract ones where no directory can hold sockets."""

    def __init__(self) -> None:
        """Make the directory."""
        self._directory: OwnedDirectory | None = None
        try:
            self._directory = OwnedDirectory("sockets")
            _try_out(self._directory.path)
        except OSError as error:
            reason = error.strerror or error
            _log.info("event=abstract_sockets no directory for sockets: %s", reason)
            self.close()

    def new_endpoint(self) -> str:
        """A fresh address that nobody has used before."""
        return new_endpoint(None if self._directory is None else self._directory.path)

    def close(self) -> None:
        """Remove the directory with what dead processes left in it; may be called twice."""
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.close()


def _try_out(directory: Path) -> None:
    """Bind a socket there.

    Raises:
        OSError: Paths there are too long for sockets, or the file system takes none.
    """
    path = Path(new_endpoint(directory).removeprefix("ipc://"))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    path.unlink()
