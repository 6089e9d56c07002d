# SPDX-License-Identifier: Apache-2.0
"""Entry of the gunicorn arbiter: ``python -m ovms_mp.front.rest SPEC``. Started by the manager only."""

from __future__ import annotations

import sys

from ovms_mp.child.lifetime import die_with_parent
from ovms_mp.child.specs import RestSpec, spec_from_argument
from ovms_mp.codes import ExitCode
from ovms_mp.errors import BootError
from ovms_mp.front.rest.arbiter import RestApplication
from ovms_mp.log import configure_logging, say


def main() -> int:
    """Run the arbiter; it ends the process itself."""
    try:
        spec = spec_from_argument(sys.argv[1] if len(sys.argv) > 1 else "", RestSpec)
        die_with_parent(spec.common.parent_pid)
    except BootError as error:
        say(str(error))
        return ExitCode.BOOT_FAILED
    configure_logging(
        spec.common.log_levels, spec.common.log_path, "arbiter", spec.common.run_id, spec.common.log_format
    )
    RestApplication(spec).run()
    return ExitCode.CLEAN


if __name__ == "__main__":
    sys.exit(main())
