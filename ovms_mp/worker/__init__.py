# SPDX-License-Identifier: Apache-2.0
"""The inference worker process: the only place that imports openvino.

``import openvino`` also imports its converter of other frameworks' models where that is installed. No worker converts
any, and the converter is half of the import's time; it also reports its use over the network, through a package of its
own, and keeps an id for that in the home directory. So it is hidden here, before any import of openvino, which does
without (the end of ``openvino/__init__.py``).
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]  # how Python spells "not importable"
