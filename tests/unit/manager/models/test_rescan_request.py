# SPDX-License-Identifier: Apache-2.0
"""Whether a look is due, and whether somebody asks for it."""

from __future__ import annotations

from ovms_mp.manager.models.rescan_request import RescanRequest


def is_due(request: RescanRequest) -> bool:
    return request.is_due


def test_the_first_look_is_due_and_each_is_taken_once() -> None:
    request = RescanRequest()
    assert is_due(request)
    assert not request.take()
    assert not is_due(request)
    request.ask()

    assert is_due(request)


def test_who_asks_is_remembered_until_the_look_is_taken() -> None:
    request = RescanRequest()
    request.look_now()
    request.ask()
    assert request.take()
    request.ask()

    assert not request.take()


def test_a_dropped_look_is_not_due() -> None:
    request = RescanRequest()
    request.drop()

    assert not is_due(request)
