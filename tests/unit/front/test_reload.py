# SPDX-License-Identifier: Apache-2.0
"""What a client is told of a reload that failed."""

from __future__ import annotations

import pytest

from ovms_mp.errors import (
    ConfigError,
    ConfigRejected,
    ConfigUnreadable,
    DeviceUnavailable,
    ModelLoadFailed,
    OvmsError,
    QueueFull,
)
from ovms_mp.front.reload import reload_failure


@pytest.mark.parametrize(
    ("error", "kind", "code", "status", "message"),
    [
        (
            ConfigUnreadable("/c.json: no such file"),
            ConfigUnreadable,
            "INTERNAL",
            500,
            "Config file not found or cannot open. /c.json: no such file",
        ),
        (
            ConfigError("$.model_config_list is missing"),
            ConfigRejected,
            "FAILED_PRECONDITION",
            412,
            "Reloading config file failed. Check server logs for more info. $.model_config_list is missing",
        ),
        (
            ModelLoadFailed("version 2 of 'm': no model"),
            ModelLoadFailed,
            "FAILED_PRECONDITION",
            400,
            "Reloading models versions failed. Check server logs for more info. version 2 of 'm': no model",
        ),
        (
            DeviceUnavailable("no GPU"),
            DeviceUnavailable,
            "FAILED_PRECONDITION",
            400,
            "Reloading models versions failed. Check server logs for more info. no GPU",
        ),
        (QueueFull("too many"), QueueFull, "RESOURCE_EXHAUSTED", 429, "too many"),
    ],
)
def test_what_a_client_is_told(
    error: OvmsError, kind: type[OvmsError], code: str, status: int, message: str
) -> None:
    told = reload_failure(error)

    assert type(told) is kind
    assert (told.code.name, told.http_status, told.message) == (code, status, message)
