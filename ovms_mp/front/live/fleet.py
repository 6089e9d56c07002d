# SPDX-License-Identifier: Apache-2.0
"""What a page is told of the fleet that this server is part of: read from a file that the fleet's part here writes.

The file is of this server's own directory, and is not trusted for all that: it has a bound, a schema, and what does
not fit is one line in the log and one on the page. See :mod:`ovms_mp.wire.fleet_status`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from ovms_mp.files import read_regular
from ovms_mp.wire.fleet_status import MOST_FILE_BYTES, FleetFile

if TYPE_CHECKING:
    from ovms_mp.front.clock import Clock

_log = logging.getLogger(__name__)
_LONGEST_REASON = 300


class FleetNews:
    """Reads the file whenever it is asked. Belongs to the event loop."""

    def __init__(self, path: str, clock_ns: Clock) -> None:
        """Prepare.

        Args:
            path: The file, which need not be there yet.
            clock_ns: Monotonic time.
        """
        self._path = path
        self._clock_ns = clock_ns
        self._content = b""
        self._told: FleetFile | None = None
        self._refusal = ""

    def look(self) -> dict[str, Any]:
        """What there is now: the last status that could be read, its age, and why a newer one cannot."""
        refusal = self._read()
        if refusal and refusal != self._refusal:
            _log.warning("event=fleet_status_refused path=%s %s", self._path, refusal)
        self._refusal = refusal
        told = self._told
        if told is None:
            return {"status": None, "age_s": None, "refusal": refusal}
        return {
            "status": told.status,
            "host": told.host,
            "port": told.port,
            "age_s": round(max(0, self._clock_ns() - told.seen_ns) / 1e9, 1),
            "refusal": refusal,
        }

    def _read(self) -> str:
        """Take the file's content; why it cannot be taken. PERF: 0.02 ms where it is the same, 0.3 ms at most."""
        try:
            content = read_regular(self._path, MOST_FILE_BYTES)
            if content != self._content:
                self._told = msgspec.json.decode(content, type=FleetFile)
                self._content = content
        except FileNotFoundError:
            return ""  # Nothing has been told yet, or not for a while: the age says so.
        except OSError as error:
            return (error.strerror or str(error))[:_LONGEST_REASON]
        except ValueError as error:  # msgspec's, and of text that is no UTF-8.
            return " ".join(str(error).split())[:_LONGEST_REASON]
        return ""
