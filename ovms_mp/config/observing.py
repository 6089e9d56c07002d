# SPDX-License-Identifier: Apache-2.0
"""Settings of what the server tells of itself: log and traces; see :mod:`ovms_mp.config.server`."""

from __future__ import annotations

from dataclasses import dataclass

from ovms_mp.config.setting import SWITCH, Setting, declare
from ovms_mp.log import FORMATS, LEVELS


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The log."""

    level: str = declare(
        "INFO",
        Setting("log_level", "Minimum level of the lines to log.", environment="LOG_LEVEL", choices=LEVELS),
    )
    form: str = declare(
        "AUTO",
        Setting(
            "log_format",
            "Format of the log on stderr: events, short lines for people, events as journald reads them, or an object "
            "of JSON for each line, also in the file; AUTO (or text) is short on a terminal, the journal's where "
            "systemd reads stderr, else events.",
            choices=FORMATS,
            aliases=(("TEXT", "AUTO"),),
        ),
    )
    path: str = declare(
        "",
        Setting("log_path", "File to log to, in addition to stderr.", environment="LOG_PATH", is_path=True),
    )
    access: str = declare(
        "off",
        Setting(
            "access_log",
            "A line of the log for each request (all), or for those that fail, those that are traced and one of a "
            "hundred others (sampled).",
            choices=("off", "sampled", "all"),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """OpenTelemetry; where spans go and how many calls have some is said by its own variables."""

    is_on: bool = declare(
        False,
        Setting(
            "trace",
            "Send spans of requests to an OpenTelemetry collector, over OTLP/HTTP: OTEL_EXPORTER_OTLP_ENDPOINT says "
            "where, OTEL_TRACES_SAMPLER for which; needs the extra `otel`.",
            choices=SWITCH,
        ),
    )
    most_spans: int = declare(
        2048,
        Setting(
            "trace_queue_spans",
            "Spans that wait in a front to be sent; more than that are lost, and counted in its log.",
            environment="OTEL_BSP_MAX_QUEUE_SIZE",
            low=1,
            high=1 << 20,
        ),
    )
