# SPDX-License-Identifier: Apache-2.0
"""Entry of an inference worker: ``python -m ovms_mp.worker SPEC``. Started by the manager only."""

from __future__ import annotations

import sys

from ovms_mp.worker.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
