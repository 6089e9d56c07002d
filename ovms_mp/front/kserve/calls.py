# SPDX-License-Identifier: Apache-2.0
"""KServe's calls on the service, before messages or JSON are made of what they give.

Both forms of the API go through here, so that they refuse the same things. What reads and writes messages is loaded by
gRPC fronts only (``methods.py``), and what reads and writes JSON by REST fronts only (``rest.py``).
"""

from __future__ import annotations

PROTOCOL = "kserve"
INFER, STREAM = "ModelInfer", "ModelStreamInfer"
"""Names of methods, as gRPC has them; the REST calls that do the same have them, too."""
