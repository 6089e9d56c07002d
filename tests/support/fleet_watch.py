# SPDX-License-Identifier: Apache-2.0
"""A fleet's status over a connection that stays: ``python -m tests.support.fleet_watch ADDRESS``.

One line for each line of standard input: the status as JSON, ``{}`` where the controller does not answer. The command
for it begins a connection each time, for which Ray takes seconds of both cores from what is watched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys

import ray
from ray.exceptions import GetTimeoutError, RayError

_ANSWER_S = 5.0
_NAMESPACE = "ovms_mp-fleet"


def main() -> None:
    """Answer until there is no more input."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
        for _ in sys.stdin:
            try:
                controller = ray.get_actor("controller", namespace=_NAMESPACE)
                status = ray.get(controller.status.remote(), timeout=_ANSWER_S)
            except (ValueError, RayError, GetTimeoutError):
                status = {}
            out.write(json.dumps(status) + "\n")
            out.flush()
        ray.shutdown()


if __name__ == "__main__":
    main()
