# SPDX-License-Identifier: Apache-2.0
"""Which lines of the log are written: what ``--log_level`` says, until a client sets them one by one.

Clients do so with KServe's log settings, whose words are Triton's: each severity is on or off by itself, and what is
there to find faults has a verbosity. A pure value; :func:`ovms_mp.log.apply_levels` has a process follow it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

DEFAULT_FORM, ISO_FORM = FORMS = ("default", "ISO8601")
"""How events show the time: local, as the legacy server's log did, or UTC as ISO 8601 has it."""
_SILENT = logging.CRITICAL + 10
_FROM_TEXT = {"WARNING": logging.WARNING, "ERROR": logging.ERROR}


@dataclass(frozen=True, slots=True)
class LogLevels:
    """What is written.

    Attributes:
        info: Lines of the level INFO.
        warning: Lines of the level WARNING.
        error: Lines of the level ERROR and above.
        verbose: Lines of the level DEBUG, unless it is 0.
        form: One of :data:`FORMS`.
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0
    form: str = DEFAULT_FORM

    @classmethod
    def of(cls, level: str) -> LogLevels:
        """What the least severe level means, by its name in any case."""
        least = _FROM_TEXT.get(level.upper(), logging.INFO)
        # TRACE is the modern server's word; DEBUG is the nearest that there is.
        verbose = int(level.upper() in ("TRACE", "DEBUG"))
        return cls(least <= logging.INFO, least <= logging.WARNING, verbose=verbose)

    def lets_through(self, level: int) -> bool:
        """Whether a record of this level is written."""
        if level < logging.INFO:
            return self.verbose > 0
        if level < logging.WARNING:
            return self.info
        return self.warning if level < logging.ERROR else self.error

    @property
    def threshold(self) -> int:
        """The least severe level that is written, for loggers, which then do not even make other records."""
        candidates = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        return next((level for level in candidates if self.lets_through(level)), _SILENT)
