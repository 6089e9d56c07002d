# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp.fetcher SPEC``; started by the manager only. Reads the credentials of object stores."""

from __future__ import annotations

import logging
import os
import sys
from types import MappingProxyType

from ovms_mp.fetcher.main import main

if __name__ == "__main__":
    code = main(sys.argv[1:], MappingProxyType(dict(os.environ)))
    logging.shutdown()
    # Not sys.exit: threads that wait for a store that hangs end with the process.
    os._exit(code)
