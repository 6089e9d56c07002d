# SPDX-License-Identifier: Apache-2.0
"""How many descriptors our processes may have open: as many as the system lets us ask for."""

from __future__ import annotations

import logging
import resource

_log = logging.getLogger(__name__)

HIGHEST = 1 << 20
"""Where the hard limit is higher or there is none: what runs through all possible descriptors would take seconds."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one, for this process and for those that it starts from now on.

    Each client's connection is a descriptor, and the usual soft limit of 1024, or 256, is one for programs that use
    ``select``; nothing of ours does so with more than a few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HIGHEST if hard == resource.RLIM_INFINITY else min(hard, HIGHEST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        _log.warning("event=descriptor_limit soft=%d cannot be raised to %d: %s", soft, wanted, error)
    else:
        _log.info("event=descriptor_limit soft=%d raised_to=%d", soft, wanted)
