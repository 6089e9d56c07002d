# SPDX-License-Identifier: Apache-2.0
"""Entry of the manager process."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from ovms_mp import __version__
from ovms_mp.child.lifetime import holding_log_signals
from ovms_mp.codes import ExitCode
from ovms_mp.errors import BootError
from ovms_mp.log import check_log_path, chosen_form, configure_logging, tell_boot_failed, tell_people
from ovms_mp.log_levels import LogLevels
from ovms_mp.manager.assembly import opened_manager
from ovms_mp.manager.children.descriptor_limit import raise_descriptor_limit
from ovms_mp.manager.children.sandbox import allow_thread_scheduling
from ovms_mp.manager.clock import SystemClock
from ovms_mp.manager.service.service_manager import ServiceManager
from ovms_mp.manager.service.sockets import take_inherited
from ovms_mp.manager.tracing import check_tracing

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from ovms_mp.config.server import ServerConfig

_log = logging.getLogger(__name__)


def run_server(config: ServerConfig, notices: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the server until it is told to stop; the process's exit code.

    Args:
        config: Everything it is told.
        notices: What the user should know about the configuration; logged as warnings.
        environment: Of this process. What a service manager says in it is taken out, as it is not for children.
    """
    run_id = secrets.token_hex(4)
    form = chosen_form(config.log.form, config.log.level, environment.get("JOURNAL_STREAM", ""))
    config = replace(config, log=replace(config.log, form=form))
    try:
        check_log_path(config.log.path)
    except (OSError, ValueError) as error:
        configure_logging(LogLevels.of(config.log.level), "", "manager", run_id, form)
        reason = getattr(error, "strerror", None) or error
        _log.error("event=boot_failed --log_path %s: %s", config.log.path, reason)
        return ExitCode.USAGE
    configure_logging(LogLevels.of(config.log.level), config.log.path, "manager", run_id, form)
    _log.info("event=starting version=%s", __version__)
    tell_people(_log, "ovms_mp %s (OpenVINO %s)", __version__, version("openvino"))
    for notice in notices:
        _log.warning("event=configuration %s", notice)
    raise_descriptor_limit()
    try:
        if config.trace.is_on:
            check_tracing(environment)
        allow_thread_scheduling()
        service_manager = ServiceManager.of_environment(environment)
        inherited = take_inherited(environment)
        # The manager takes them once it can.
        with (
            holding_log_signals(),
            opened_manager(config, run_id, SystemClock(), service_manager, inherited) as manager,
        ):
            return manager.run()
    except BootError as error:
        tell_boot_failed(_log, error)
        return ExitCode.BOOT_FAILED
    except Exception:
        _log.exception("event=manager_died")
        return ExitCode.INTERNAL
