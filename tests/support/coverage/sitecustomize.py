# SPDX-License-Identifier: Apache-2.0
"""Keep what a process ran when it ends itself by a signal; Python imports this at its start under ``.ci/coverage``.

uvicorn raises the signal that stopped it once more when it is done, so a REST front ends by SIGTERM, and neither
atexit nor any of coverage's own patches sees its end.
"""

from __future__ import annotations

import signal

from coverage import Coverage

_raise_signal = signal.raise_signal


def _raise_after_saving(number: int, /) -> None:
    measured = Coverage.current()
    if measured is not None:
        measured.save()
    _raise_signal(number)


signal.raise_signal = _raise_after_saving
