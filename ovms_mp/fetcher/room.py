# SPDX-License-Identifier: Apache-2.0
"""Makes room in the directory of mirrors: what is served least recently, and by nobody now, goes first."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.errors import StoreDirFull, StoreUnavailable
from ovms_mp.fetcher.mirror import LOCK, SERVED, Mirror

if TYPE_CHECKING:
    from collections.abc import Collection

_log = logging.getLogger(__name__)

_MEBIBYTE = 1 << 20


def make_room(store_dir: Path, in_use: Collection[str], needed_bytes: int, limit_bytes: int) -> None:
    """Remove mirrors that are not in use until the download fits.

    Args:
        store_dir: The directory of all mirrors.
        in_use: Names of those that stay.
        needed_bytes: What comes to what is there.
        limit_bytes: Most that there may be; 0 for as much as the disk has.

    Raises:
        StoreDirFull: It does not fit even then.
    """
    if not limit_bytes:
        return
    sizes = {path: directory_size(path) for path in store_dir.iterdir() if (path / LOCK).exists()}
    used = sum(sizes.values())
    others = sorted((path for path in sizes if path.name not in in_use), key=_served_at)
    for path in others:
        if used + needed_bytes <= limit_bytes:
            return
        if _remove(path):
            used -= sizes[path]
    if used + needed_bytes > limit_bytes:
        raise StoreDirFull(
            f"{_mb(needed_bytes)} MiB are to be downloaded, --store_limit_mb is {_mb(limit_bytes)}, and models that "
            f"are configured take {_mb(used)}; raise the limit, or serve fewer versions"
        )


def _remove(path: Path) -> bool:
    try:
        with Mirror(path).locked():
            shutil.rmtree(path, ignore_errors=True)
    except (OSError, StoreUnavailable):
        return False  # Another server's.
    _log.info("event=mirror_removed directory=%s to make room (--store_limit_mb)", path)
    return True


def _served_at(path: Path) -> float:
    try:
        return os.stat(path / SERVED).st_mtime
    except OSError:
        return 0.0


def directory_size(directory: Path) -> int:
    """Bytes of all files below; 0 where there is none."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def _mb(count: int) -> int:
    return -(-count // _MEBIBYTE)
