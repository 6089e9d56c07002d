# SPDX-License-Identifier: Apache-2.0
"""The inference worker process: the only place that imports openvino.

``import openvino`` reports its use over the network, through a package of its own, and keeps an id for that in the
home directory. A server does neither unasked, so that package is hidden here, before any import of openvino, which then
falls back to a stub of its own (``openvino/tools/ovc/telemetry_utils.py``).
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # how Python spells "not importable"
