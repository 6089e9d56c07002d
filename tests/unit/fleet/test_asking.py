# SPDX-License-Identifier: Apache-2.0
"""Samples of a page of metrics."""

from __future__ import annotations

from ovms_mp.fleet.asking import summed

PAGE = b"""\
# HELP ovms_current_requests Number of inference requests currently in process.
# TYPE ovms_current_requests gauge
ovms_current_requests{name="a",version="1"} 2
ovms_current_requests{name="a",version="2"} 3
ovms_current_requests{name="say \\"b\\"",version="1"} 1
ovms_current_requests_of_others{name="a"} 9
process_resident_memory_bytes{kind="worker"} 1.5e+06
process_resident_memory_bytes{kind="grpc"} 500000
up 1
"""


def test_samples_are_added_up_by_model() -> None:
    assert summed(PAGE, "ovms_current_requests") == {"a": 5.0, 'say \\"b\\"': 1.0}


def test_samples_without_a_model_have_the_empty_name() -> None:
    assert summed(PAGE, "process_resident_memory_bytes") == {"": 2e6}
    assert summed(PAGE, "up") == {"": 1.0}
    assert summed(PAGE, "absent") == {}
