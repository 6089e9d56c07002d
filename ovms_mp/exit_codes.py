# SPDX-License-Identifier: Apache-2.0
"""Exit codes of all our processes."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What a process of ours says by its exit code."""

    CLEAN = 0
    USAGE = 2
    """The command line or the configuration is wrong; starting again changes nothing."""
    BOOT_FAILED = 3
    """The process could not start; its parent must not try again."""
    INTERNAL = 70
    """A defect of ours; the traceback is in the log."""
