# SPDX-License-Identifier: Apache-2.0
"""Reasons for clients have no paths of the machine, and keep everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.manager.models.client_text import without_paths

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /srv/my models/m/1/model.xml: broken", "cannot read model.xml: broken"),
        ("cannot open '/etc/secret/key.bin'", "cannot open 'key.bin'"),
        ("(/usr/lib/python3/site-packages/openvino/libs/x.so.1: no)", "(x.so.1: no)"),
        ("have them loaded by SIGHUP or POST /v1/config/reload", None),
        ("it needs level-zero, and /dev/dri in the container: no (/dev/accel)", None),
        ("cannot open /dev/drive/x and /dev/shm/model", "cannot open x and model"),
        ("see https://docs.openvino.ai/2026/x.html", None),
        ("NHWC/NCHW, and/or src/core/shape.cpp and 1/model.xml, 3 / 4", None),
        ("in /srv/my models/m/1 there is nothing", "in 1 there is nothing"),
        ("", None),
    ],
)
def test_texts(text: str, shown: str | None) -> None:
    assert without_paths(text, "/srv/my models/m/1", "") == (text if shown is None else shown)


def test_a_directory_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real dir").mkdir()
    (tmp_path / "link").symlink_to("real dir")

    assert without_paths(f"{tmp_path}/real dir/a b.xml", tmp_path / "link") == "a b.xml"
