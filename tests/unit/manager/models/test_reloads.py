# SPDX-License-Identifier: Apache-2.0
"""Who waits for a reload."""

from __future__ import annotations

from ovms_mp.manager.models.reloads import ReloadRequests
from ovms_mp.wire.messages import ConfigReloaded
from ovms_mp.wire.records import ErrorRecord


def test_all_who_wait_are_answered_once() -> None:
    requests = ReloadRequests()
    assert not requests
    requests.add("grpc-0.1", 7, 10)
    requests.add("rest.55", 7, 12)
    assert requests

    assert requests.answers(12, None) == [
        ("grpc-0.1", ConfigReloaded(7, is_changed=True, error=None)),
        ("rest.55", ConfigReloaded(7, is_changed=False, error=None)),
    ]
    assert not requests
    assert requests.answers(12, None) == []


def test_an_error_is_everybodys() -> None:
    requests = ReloadRequests()
    requests.add("grpc-0.1", 1, 0)
    error = ErrorRecord("ConfigError", "no")

    assert requests.answers(0, error) == [("grpc-0.1", ConfigReloaded(1, is_changed=False, error=error))]
