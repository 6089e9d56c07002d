# SPDX-License-Identifier: Apache-2.0
"""`ovms_mp fleet`: what is asked of its arguments, and the status that people read."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from ovms_mp.commands.fleet import run_fleet, status_lines
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SERVER: dict[str, Any] = {
    "number": 3,
    "state": "ready",
    "host": "10.0.0.1",
    "port": 9001,
    "rest_port": 8001,
    "revision": "r1",
    "utilisation": 0.5,
    "queue_depth": 2.0,
    "cores": [0, 1],
    "models": {
        "good": {"revision": "a", "served": "a", "failure": "", "load": 0.5},
        "bad": {"revision": "b", "served": "a", "failure": "no such file", "load": 0.0},
        "new": {"revision": "c", "served": "", "failure": "", "load": 0.0},
    },
}
PENDING = {
    **SERVER, "number": 4, "state": "pending", "revision": "", "utilisation": None, "queue_depth": None,
    "port": 0, "cores": [], "models": {},
}  # fmt: skip


def test_the_status_for_people() -> None:
    status = {
        "fleet": "vision",
        "entries": [{"host": "10.0.0.1", "port": 8000, "asked": []}, {"error": "no HAProxy"}],
        "wanted": 3,
        "servers": [SERVER, PENDING],
        "notes": ["a note"],
    }

    assert status_lines(status) == [
        "vision: 2 servers of 3 wanted, at 10.0.0.1:8000, ! no HAProxy",
        "  SERVER  STATE    ADDRESS             REVISION  LOAD  WAITING  CORES  MODELS",
        "  3       READY    10.0.0.1:9001,8001  r1        50%   2        0,1    bad (no such file), good, new (loading)",  # noqa: E501
        "  4       PENDING  -                   -         -     -        -      -",
        "  ! a note",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["up"], "fleet up takes a FILE"),
        (["status", "fleet.toml"], "fleet status takes no FILE"),
        (["status", "--wait_s", "long"], "--wait_s 'long' is not a number"),
        (["sideways"], "sideways"),
        (["up", "/nowhere/fleet.toml"], "/nowhere/fleet.toml"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        run_fleet(arguments, {})

    assert words in refused.value.message


def test_the_file_is_named_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text("models = []")
    with pytest.raises(ConfigError) as refused:
        run_fleet(["update", str(file)], {})

    assert refused.value.message.startswith(f"{file}: ")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is here")
def test_without_the_extra_its_name_is_told() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'ovms_mp\[fleet\]'"):
        run_fleet(["status"], {})
