# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp devices``: starts the process that asks OpenVINO, as only :mod:`ovms_mp.worker` may import it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from ovms_mp.config.device_flags import read_device_flags
from ovms_mp.places import module_command, module_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run_devices(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Show the devices; the exit code.

    Raises:
        ConfigError: A flag is unknown, or a path is not valid.
        EarlyExit: Help was asked for and printed.
    """
    command = module_command("ovms_mp.worker.devices", *read_device_flags(arguments).arguments())
    return subprocess.run(command, check=False, cwd="/", env=module_environment(environment)).returncode
