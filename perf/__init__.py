# SPDX-License-Identifier: Apache-2.0
"""Measurements of the server beside its floors; run from a checkout as ``python -m perf NAME``. Not installed.

A floor is what the same machine does without the server's own work: a bare echo over the same transport, the same model
called directly, the same JSON parsed by one core. Only the ratio of the two, taken in the same run, says something.

Rooms import from those before them only: processes, models and report, load, floors, subjects, measurements.
"""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
"""Where all processes of a measurement work."""
