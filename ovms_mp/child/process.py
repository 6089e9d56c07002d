# SPDX-License-Identifier: Apache-2.0
"""Entry point of every child that the manager starts by exec, and its exit codes.

::

    command line --> spec --> tied to the parent --> signals ignored --> log --> the child's own work --> exit code

A child that was started by hand, or whose parent is dead, ends before it does anything.
"""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from ovms_mp.child.control import ControlLink
from ovms_mp.child.lifetime import die_with_parent, take_log_signals
from ovms_mp.child.specs import spec_from_argument
from ovms_mp.codes import ExitCode
from ovms_mp.errors import BootError, OvmsError
from ovms_mp.log import configure_logging, say
from ovms_mp.wire.channels import close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovms_mp.child.specs import SpecT

_log = logging.getLogger(__name__)

_LAST_WORDS_WITHIN_MS = 500


def run_child(
    arguments: Sequence[str],
    spec_type: type[SpecT],
    title: Callable[[SpecT], str],
    body: Callable[[SpecT], int],
) -> int:
    """Run the child that the command line describes; the process's exit code.

    Args:
        arguments: The command line without the program; one document.
        spec_type: What the document must be.
        title: Names this process in each line of its log.
        body: The work. It reports its expected failures itself; what it raises is a defect.
    """
    try:
        spec = spec_from_argument(arguments[0] if arguments else "", spec_type)
        die_with_parent(spec.common.parent_pid)
    except BootError as error:
        say(str(error))
        return ExitCode.BOOT_FAILED
    # Ctrl-C reaches the whole process group, but when a child stops is the manager's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging(
        spec.common.log_levels, spec.common.log_path, title(spec), spec.common.run_id, spec.common.log_format
    )
    take_log_signals()
    try:
        return body(spec)
    except Exception:
        _log.exception("event=child_died kind=%s", spec.kind)
        return ExitCode.INTERNAL
    finally:
        close_all(_LAST_WORDS_WITHIN_MS)


def with_control_link(spec: SpecT, body: Callable[[SpecT, ControlLink], None]) -> int:
    """Do a child's work with a link to the manager, for children that need no event loop; the exit code.

    An :class:`OvmsError` out of ``body`` is a start that would fail again; the manager is told so.
    """
    control = ControlLink(spec, spec.child_id)
    try:
        body(spec, control)
    except OvmsError as error:
        _log.error("event=boot_failed error=%s", error)
        control.report_boot_failure(error)
        return ExitCode.BOOT_FAILED
    finally:
        control.close()
    return ExitCode.CLEAN
