# SPDX-License-Identifier: Apache-2.0
"""Flags that name files for OpenVINO, held against the file system before anything starts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError
from ovms_mp.files import danger_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.config.server import EngineConfig

_USUAL_CACHE = "/opt/cache"
"""Where OVMS keeps compiled models when it exists and nothing else is said."""


def checked_engine(engine: EngineConfig, given: Mapping[str, str | None], notices: list[str]) -> EngineConfig:
    """Hold the paths of the engine's settings against the file system.

    Args:
        engine: The settings as given; its paths are absolute.
        given: Values of the flags; None for those that were not given.
        notices: Gets what the user should know.

    Raises:
        ConfigError: Naming the flag, the path and what is wrong with it.
    """
    for flag, path in (("cpu_extension", engine.cpu_extension), ("plugins_xml", engine.plugins_xml)):
        if not path or os.path.isfile(path):
            continue
        if given.get(flag) is None:
            # Images of the legacy server set CPU_EXTENSION to a library that only they have.
            notices.append(f"{flag.upper()}: {path} does not exist and is ignored")
            engine = replace(engine, cpu_extension="")
            continue
        raise ConfigError(
            f"File path provided as an --{flag} parameter does not exist in the filesystem: {path}"
        )
    cache_dir = engine.cache_dir
    if not cache_dir and given.get("cache_dir") is None and os.path.isdir(_USUAL_CACHE):
        if not os.access(_USUAL_CACHE, os.W_OK | os.X_OK):
            notices.append(f"{_USUAL_CACHE} exists and is not used: this user may not write there")
        elif danger := danger_of(_USUAL_CACHE, "the compiled models"):
            notices.append(f"{_USUAL_CACHE} exists and is not used: {danger}")
        else:
            cache_dir = _USUAL_CACHE
    if cache_dir:
        _check_cache_dir(Path(cache_dir))
    return replace(engine, cache_dir=cache_dir)


def _check_cache_dir(path: Path) -> None:
    """Refuse what cannot be written to or made. Makes nothing: ``config --check`` leaves no trace."""
    nearest = path
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ConfigError(
            f"--cache_dir {path}: {nearest} is not a directory; give one, or a path that can be made"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"--cache_dir {path}: this user may not write to {nearest}; give another directory")
    if nearest == path and (danger := danger_of(str(path), "the compiled models")):
        raise ConfigError(f"--cache_dir {path}: {danger}; give a directory of this user's")


def make_cache_dir(path: str) -> None:
    """Make the directory of compiled models.

    Raises:
        ConfigError: It cannot be made.
    """
    if not path:
        return
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--cache_dir {path}: {error.strerror or error}; give a directory that can be made"
        ) from None
