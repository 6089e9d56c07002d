# SPDX-License-Identifier: Apache-2.0
"""Where this process is: the paths that its user gives, its cores, and the package itself.

All processes of the server work in ``/``: whatever happens to the directory that it was started in is not their
business. So relative paths are resolved once, where they are read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def absolute_path(path: str, source: str) -> Path:
    """A path as it is seen from ``/``.

    Args:
        path: Absolute, or relative to the working directory.
        source: The flag or variable that it came from, for messages.

    Raises:
        ConfigError: It is relative and the working directory is gone, or it is not UTF-8.
    """
    absolute = start_of(path, source) / path
    text = os.fsencode(absolute)
    try:
        text.decode()
    except UnicodeDecodeError:
        shown = text.decode("utf-8", "backslashreplace")
        raise ConfigError(
            f"{source}: {shown} is not UTF-8, as all paths must be; rename it, or give a symbolic link to it"
        ) from None
    return absolute


def start_of(path: str, source: str) -> Path:
    """Where a path starts: ``/``, or the working directory.

    Raises:
        ConfigError: It is relative and the working directory is gone.
    """
    if os.path.isabs(path):
        return Path("/")
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"{source}: {path} is relative, and the working directory cannot be told: {error.strerror}; give an "
            "absolute path, or start in another directory"
        ) from None


def usable_cores() -> frozenset[int]:
    """Cores that this process may run on; those that are online where a sandbox does not let it ask."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except OSError:
        return frozenset(range(os.cpu_count() or 1))


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this package.

    ``-P``: what lies in the working directory, say a ``types.py``, is not imported.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What :func:`module_command` needs besides: a checkout that is not installed has its root on the path."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {**environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
