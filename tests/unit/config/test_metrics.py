# SPDX-License-Identifier: Apache-2.0
"""Whether there are metrics, and which."""

from __future__ import annotations

import pytest

from ovms_mp.config.metrics import MetricsConfig, metrics_of
from ovms_mp.errors import ConfigError
from ovms_mp.model.metric_names import ALL_METRICS, DEFAULT_METRICS

OFF, ON = MetricsConfig(), MetricsConfig(is_enabled=True)


def of(
    given: MetricsConfig, in_file: MetricsConfig | None = None, *, has_rest: bool = True
) -> tuple[str, ...]:
    return metrics_of(given, in_file, is_given=given != OFF, has_rest=has_rest).names


def refusal(given: MetricsConfig, in_file: MetricsConfig | None = None, *, has_rest: bool = True) -> str:
    with pytest.raises(ConfigError) as raised:
        of(given, in_file, has_rest=has_rest)
    return raised.value.message


def test_there_are_none_unless_they_are_asked_for() -> None:
    assert of(OFF) == of(OFF, OFF) == of(OFF, has_rest=False) == ()


def test_the_default_ones_are_those_of_ovms() -> None:
    assert of(ON) == of(OFF, ON) == DEFAULT_METRICS
    assert set(ALL_METRICS) - set(DEFAULT_METRICS) == {"ovms_infer_req_queue_size", "ovms_infer_req_active"}


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("ovms_infer_req_active", ("ovms_infer_req_active",)),
        (" ovms_streams ,, ovms_streams,ovms_responses,", ("ovms_streams", "ovms_responses")),
        (" , ", DEFAULT_METRICS),
    ],
)
def test_a_list_replaces_them(listed: str, names: tuple[str, ...]) -> None:
    assert of(MetricsConfig(is_enabled=True, listed=listed)) == names


def test_flags_go_before_the_file() -> None:
    in_file = MetricsConfig(is_enabled=True, listed="ovms_streams")

    assert of(OFF, in_file) == ("ovms_streams",)
    assert of(ON, in_file) == DEFAULT_METRICS
    assert metrics_of(OFF, in_file, is_given=True, has_rest=True).names == ()


def test_a_name_that_there_is_not_ends_the_start() -> None:
    text = refusal(MetricsConfig(is_enabled=True, listed="ovms_streams, ovms_request_success"))

    assert text == (
        "--metrics_list: Invalid name in metrics_list: 'ovms_request_success'; did you mean 'ovms_requests_success'?"
    )
    assert "known are ovms_streams, " in refusal(MetricsConfig(is_enabled=True, listed="?"))


def test_a_list_alone_is_refused_as_ovms_does() -> None:
    text = refusal(MetricsConfig(listed="ovms_streams"))

    assert text.startswith("metrics_enable setting is missing, required when metrics_list is provided")


def test_metrics_without_a_rest_port_are_refused_as_ovms_does() -> None:
    by_flag, by_file = refusal(ON, has_rest=False), refusal(OFF, ON, has_rest=False)

    assert by_flag.startswith("rest_port setting is missing, metrics are enabled on rest port")
    assert by_file.startswith("Missing rest_port parameter in server CLI")
