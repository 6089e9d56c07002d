# SPDX-License-Identifier: Apache-2.0
"""Entry of a gRPC front: ``python -m ovms_mp.front.grpc SPEC``. Started by the manager only."""

from __future__ import annotations

import sys

from ovms_mp.front.grpc.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
