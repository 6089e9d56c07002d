# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp``: the same as the ``ovms_mp`` command."""

import os
import sys


def _is_working_directory(entry: str) -> bool:
    try:
        return entry in ("", os.getcwd())
    except OSError:
        return entry == ""


if __name__ == "__main__":
    # Python puts the working directory on the path of ``-m``; a file there must not stand in for a module that is
    # imported from here on. This package has been found, wherever it lies.
    if not sys.flags.safe_path and _is_working_directory(sys.path[0]):
        del sys.path[0]
    from ovms_mp.cli import main

    sys.exit(main())
