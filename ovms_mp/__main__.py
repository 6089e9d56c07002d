# SPDX-License-Identifier: Apache-2.0
"""``python -m ovms_mp``: what the ``ovms_mp`` command runs, too."""

import _signal  # type: ignore[import-not-found]  # built in, without stubs
import os
import sys

# Not from ``signal``: that imports others before the path is known to be safe.
_INTERRUPTED: int = 128 + _signal.SIGINT
"""As a shell has it."""


def _is_working_directory(entry: str) -> bool:
    try:
        return entry in ("", os.getcwd())
    except OSError:
        return entry == ""


def main() -> int:
    """Run the command line; the exit code."""
    is_ours = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if is_ours:
        # Libraries in C take the exception of a Ctrl-C while they are being imported for a failure of theirs, and print
        # it. Nothing has been begun yet.
        _signal.signal(_signal.SIGINT, lambda number, frame: os._exit(_INTERRUPTED))
    from ovms_mp.cli import main as run

    if is_ours:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    try:
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
