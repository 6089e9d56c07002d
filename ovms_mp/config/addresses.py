# SPDX-License-Identifier: Apache-2.0
"""The addresses that a server listens on, as settings have them: hosts, and Unix sockets by ``unix:PATH``."""

from __future__ import annotations

import os

from ovms_mp.errors import ConfigError

_UNIX = "unix:"
LONGEST_UNIX_PATH_BYTES = 107
"""``sun_path`` has room for these and a zero; unix(7)."""
_MOST_MODE = 0o777


def split_addresses(text: str) -> tuple[str, ...]:
    """The hosts of a comma-separated setting."""
    return tuple(part for part in _parts(text) if not part.startswith(_UNIX))


def unix_paths(text: str) -> tuple[str, ...]:
    """The absolute paths of its Unix sockets, each once; gRPC's form ``unix:///PATH`` is the same."""
    paths = (part.removeprefix(_UNIX) for part in _parts(text) if part.startswith(_UNIX))
    absolute = (os.path.abspath(path[2:] if path.startswith("///") else path) for path in paths if path)
    return tuple(dict.fromkeys(absolute))


def check_unix_paths(text: str, flag: str) -> None:
    """Refuse paths that no socket can have.

    Raises:
        ConfigError: One is missing or too long.
    """
    if _UNIX in _parts(text):
        raise ConfigError(
            f"--{flag} {text}: unix: needs the path of a socket, e.g. unix:/run/ovms_mp/grpc.sock"
        )
    for path in unix_paths(text):
        nbytes = len(os.fsencode(path))
        if nbytes > LONGEST_UNIX_PATH_BYTES:
            raise ConfigError(
                f"--{flag} unix:{path}: the path of a Unix socket has {LONGEST_UNIX_PATH_BYTES} bytes at most, this "
                f"one has {nbytes}; choose a shorter one"
            )


def parse_socket_mode(text: str) -> int:
    """The permissions of Unix sockets.

    Raises:
        ConfigError: It is no octal number of permissions.
    """
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _MOST_MODE:
        raise ConfigError(f"--unix_socket_mode {text} is no mode; accepted: three octal digits, e.g. 660")
    return mode


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
