# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp``: what the ``ovms_mp`` command runs, too."""

import os
import sys

_INTERRUPTED = 128 + 2
"""By SIGINT, as a shell has it. Not from ``signal``: that imports others before the path is known to be safe."""


def _is_working_directory(entry: str) -> bool:
    try:
        return entry in ("", os.getcwd())
    except OSError:
        return entry == ""


def main() -> int:
    """Run the command line; the exit code."""
    try:
        # Within reach of the handler: Ctrl-C may come while this is being read.
        from ovms_mp.cli import main as run

        return run()
    except KeyboardInterrupt:
        # Before the server takes signals itself, or in a command that does not.
        return _INTERRUPTED


if __name__ == "__main__":
    # Python puts the working directory on the path of ``-m``; a file there must not stand in for a module that is
    # imported from here on. This package has been found, wherever it lies.
    if not sys.flags.safe_path and _is_working_directory(sys.path[0]):
        del sys.path[0]
    sys.exit(main())
