# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp``: the same as the ``ovms_mp`` command."""

from __future__ import annotations

import sys

from ovms_mp.cli import main

if __name__ == "__main__":
    sys.exit(main())
