# SPDX-License-Identifier: Apache-2.0
"""The server's own paths, for people and for generators of clients."""

from __future__ import annotations

from ovms_mp.front.openapi.description import (
    COUNT,
    JSON,
    OBJECT,
    STRING,
    TEXT,
    TRUTH,
    Description,
    Operation,
    list_of,
    map_of,
    record,
    ref,
)

DESCRIPTION = Description(
    "The server itself: its configuration, its state and this document",
    {
        ("GET", "GetConfig"): Operation(
            "States of all models' versions, as OVMS has them", {JSON: ref("Config")}
        ),
        ("POST", "ReloadConfig"): Operation(
            "Read the configuration file and all models' directories again, and wait until that is done",
            {JSON: ref("Config")},
            statuses={
                201: "Something has changed.",
                412: "The configuration file, or a model that it names, is wrong; what served goes on.",
                504: "It is not done within the time of a request; it goes on.",
            },
        ),
        ("GET", "GetStatus"): Operation(
            "Workers, models and their versions, for people and for `ovms_mp status`", {JSON: ref("Status")}
        ),
        ("GET", "GetMetrics"): Operation(
            "Metrics for Prometheus; 400 without `--metrics_enable`", {TEXT: STRING}
        ),
        ("GET", "GetOpenApi"): Operation("This document", {JSON: OBJECT}),
    },
    {
        "Config": map_of(ref("TfsModelStatus")),
        "Status": record(
            {
                "server": record({"version": STRING, "is_draining": TRUTH}),
                "plan": list_of(STRING),
                "workers": list_of(
                    record({"name": STRING, "device": STRING, "pid": COUNT, "cores": list_of(COUNT)})
                ),
                "models": map_of(OBJECT),
            },
            {"configuration": {"type": ["object", "null"]}},
        ),
    },
)
