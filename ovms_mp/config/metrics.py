# SPDX-License-Identifier: Apache-2.0
"""Whether there is a page at ``/metrics``, and what it shows: by flags, or by ``monitoring`` in the configuration file.

Words and rules are OVMS's: a list replaces what is shown without one, and a name that it does not know ends the start.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.config.setting import SWITCH, Setting, declare
from ovms_mp.errors import ConfigError
from ovms_mp.model.metric_names import ALL_METRICS, DEFAULT_METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.config.json_document import Findings

_PLACE = "$.monitoring.metrics"
_ACCEPTED = '{"metrics": {"enable": true, "metrics_list": ["ovms_requests_success"]}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """The page at ``/metrics``."""

    is_enabled: bool = declare(
        False,
        Setting(
            "metrics_enable",
            "Count requests and their times for Prometheus, and show that at /metrics on the REST port.",
            choices=SWITCH,
        ),
    )
    listed: str = declare(
        "",
        Setting(
            "metrics_list",
            "Names of the metrics to show, separated by commas, instead of those that are shown by default; see "
            "METRICS.md.",
        ),
    )

    @property
    def names(self) -> tuple[str, ...]:
        """What is shown; nothing where there is no page."""
        if not self.is_enabled:
            return ()
        return tuple(dict.fromkeys(_split(self.listed))) or DEFAULT_METRICS


def metrics_of(
    given: MetricsConfig, in_file: MetricsConfig | None, *, is_given: bool, has_rest: bool
) -> MetricsConfig:
    """What holds of flags and file.

    Args:
        given: By flags.
        in_file: By the configuration file; None where it says nothing.
        is_given: Whether any flag says something, which the file does not change then.
        has_rest: Whether there is a REST server to show it.

    Raises:
        ConfigError: They contradict themselves, or name what does not exist.
    """
    metrics = given if is_given or in_file is None else in_file
    if is_given and given.listed and not given.is_enabled:
        raise ConfigError(
            "metrics_enable setting is missing, required when metrics_list is provided; give --metrics_enable"
        )
    for name in _split(metrics.listed):
        if name not in ALL_METRICS:
            raise ConfigError(f"--metrics_list: {unknown_name(name)}")
    if metrics.is_enabled and not has_rest:
        if is_given:
            raise ConfigError(
                "rest_port setting is missing, metrics are enabled on rest port; give --rest_port"
            )
        raise ConfigError(
            f"Missing rest_port parameter in server CLI: {_PLACE}.enable is true, and metrics are shown on the REST "
            "port; give --rest_port"
        )
    return metrics


def unknown_name(name: str) -> str:
    """OVMS's words, and what may have been meant."""
    near = difflib.get_close_matches(name, ALL_METRICS, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(ALL_METRICS)}"
    return f"Invalid name in metrics_list: '{name}'; {hint}"


def read_monitoring(monitoring: object, findings: Findings) -> MetricsConfig | None:
    """The configuration file's ``monitoring``; None where it is missing or wrong.

    Args:
        monitoring: As it was decoded.
        findings: Gets what is wrong.
    """
    if monitoring is None:
        return None
    if not isinstance(monitoring, dict) or not isinstance(monitoring.get("metrics"), dict):
        findings.refuse("$.monitoring", monitoring, _ACCEPTED)
        return None
    metrics, faults = monitoring["metrics"], len(findings.faults)
    findings.unknown_keys("$.monitoring", monitoring, ("metrics",))
    findings.unknown_keys(_PLACE, metrics, ("enable", "metrics_list"))
    names = metrics.get("metrics_list", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        findings.refuse(f"{_PLACE}.metrics_list", names, "a list of strings")
        names = []
    for index, name in enumerate(names):
        if name not in ALL_METRICS:
            where = f"{_PLACE}.metrics_list[{index}]"
            findings.refuse(where, name, "the name of a metric", unknown_name(name))
    is_enabled = metrics.get("enable")
    if not isinstance(is_enabled, bool):
        findings.refuse(f"{_PLACE}.enable", is_enabled, "true or false")
        return None
    if len(findings.faults) > faults:
        return None
    return MetricsConfig(is_enabled=is_enabled, listed=",".join(names))


def _split(listed: str) -> Sequence[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]
