# SPDX-License-Identifier: Apache-2.0
"""Entry of an inference worker: ``python -m ovms_mp.worker SPEC``. Started by the manager only."""

from __future__ import annotations

import logging
import os
import sys

from ovms_mp.worker.main import main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    # Not sys.exit, which would first wait for the loader thread: a large model that nobody wants any more may
    # take minutes.
    os._exit(code)
