# SPDX-License-Identifier: Apache-2.0
"""The limit of open files is raised as far as that is sensible, and never lowered."""

from __future__ import annotations

import resource

import pytest

from ovms_mp.manager.children.descriptor_limit import HIGHEST, raise_descriptor_limit

NONE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (256, 20_000, 20_000),
        (1024, 4096, 4096),
        (4096, 4096, None),
        (1024, 1 << 30, HIGHEST),
        (1024, NONE, HIGHEST),
        (NONE, NONE, None),
        (HIGHEST + 1, 1 << 30, None),
    ],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int | None) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    raise_descriptor_limit()

    assert asked == ([] if wanted is None else [(wanted, hard)])


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: int, __: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 20_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_descriptor_limit()

    assert "cannot be raised to 20000: not allowed" in caplog.text
