# SPDX-License-Identifier: Apache-2.0
"""What a client is told of a reload that failed.

A failure keeps OVMS's first words, which its users' scripts look for, and then says what was wrong.
"""

from __future__ import annotations

from ovms_mp.errors import (
    ConfigError,
    ConfigRejected,
    ConfigUnreadable,
    DeviceUnavailable,
    ModelLoadFailed,
    OvmsError,
)

_UNREADABLE = "Config file not found or cannot open."
_REJECTED = "Reloading config file failed. Check server logs for more info."
_NOT_LOADED = "Reloading models versions failed. Check server logs for more info."


def reload_failure(error: OvmsError) -> OvmsError:
    """What a client is told of a reload that failed: the one place where that is decided.

    ``error`` comes from the manager. A configuration file that cannot be read is INTERNAL (500), a wrong one
    FAILED_PRECONDITION (412), as in OVMS; a version that does not load fails as itself; everything else was nobody's
    configuration and goes on unchanged.
    """
    match error:
        case ConfigUnreadable():
            return ConfigUnreadable(f"{_UNREADABLE} {error.message}")
        case ConfigError():
            return ConfigRejected(f"{_REJECTED} {error.message}")
        case ModelLoadFailed() | DeviceUnavailable():
            return type(error)(f"{_NOT_LOADED} {error.message}")
        case _:
            return error
