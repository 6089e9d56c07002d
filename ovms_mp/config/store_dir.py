# SPDX-License-Identifier: Apache-2.0
"""The directory that models from object stores are downloaded to: where it is by default, and making it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError
from ovms_mp.files import danger_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def default_store_dir(environment: Mapping[str, str]) -> str:
    """Where models are kept unless ``--store_dir`` says it; the first place that can be written to. Makes nothing.

    Args:
        environment: ``STATE_DIRECTORY`` is set by systemd, see systemd.exec(5).
    """
    state = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    home = environment.get("HOME", "")
    cache = environment.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    temporary = environment.get("TMPDIR") or "/tmp"  # noqa: S108  # a directory of this user's in it, see make_store_dir
    candidates = [f"{state}/store"] if state else []
    candidates += [f"{cache}/ovms_mp/store"] if cache else []
    fallback = os.path.abspath(f"{temporary}/ovms_mp-store-{os.geteuid()}")
    return next((path for path in candidates if os.path.isabs(path) and _can_be_made(path)), fallback)


def _can_be_made(path: str) -> bool:
    nearest = path
    while not os.path.lexists(nearest) and nearest != os.path.dirname(nearest):
        nearest = os.path.dirname(nearest)
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)


def make_store_dir(path: str) -> None:
    """Make the directory of downloaded models, for this user only.

    Raises:
        ConfigError: It cannot be made, or others may write there.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        danger = danger_of(path, "the models")
    except OSError as error:
        raise ConfigError(
            f"--store_dir {path}: {error.strerror or error}; give a directory that can be made"
        ) from None
    if danger:
        raise ConfigError(f"--store_dir {path}: {danger}; give a directory of this user's")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"--store_dir {path}: this user may not write there; give another directory")
