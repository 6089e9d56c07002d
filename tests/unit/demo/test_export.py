# SPDX-License-Identifier: Apache-2.0
"""The demo's model as files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ovms_mp.cli import main
from ovms_mp.demo import digits
from ovms_mp.demo.export import KSERVE_REQUEST_FILE, REQUEST_FILE, export


def test_model_and_requests_are_written(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "demo"

    files = export(directory)

    assert [str(path.relative_to(directory)) for path in files] == [
        KSERVE_REQUEST_FILE,
        REQUEST_FILE,
        "digits/1/model.bin",
        "digits/1/model.xml",
    ]
    for name in ("1/model.bin", "1/model.xml"):
        assert (directory / "digits" / name).read_bytes() == (digits.model_directory() / name).read_bytes()
    request = json.loads((directory / REQUEST_FILE).read_text())
    images, _ = digits.load_held_out()
    assert np.array_equal(np.array(request["instances"], np.float32), images[:1])
    (tensor,) = json.loads((directory / KSERVE_REQUEST_FILE).read_text())["inputs"]
    assert np.array_equal(np.array(tensor["data"], np.float32), images[:1])
    assert tensor["shape"] == list(images[:1].shape)


def test_the_command_names_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["demo", "--export", "demo"]) == 0

    assert capfd.readouterr().out.splitlines() == [
        "demo/digit-v2.json",
        "demo/digit.json",
        "demo/digits/1/model.bin",
        "demo/digits/1/model.xml",
    ]


@pytest.mark.parametrize("taken", ["digits", REQUEST_FILE, KSERVE_REQUEST_FILE, "link"])
def test_what_is_there_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str], taken: str) -> None:
    if taken == "link":
        taken = REQUEST_FILE
        (tmp_path / taken).symlink_to("nowhere")
    else:
        (tmp_path / taken).mkdir()

    assert main(["demo", "--export", str(tmp_path)]) == 2

    assert f"{tmp_path / taken} exists; remove it" in capfd.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("parent", ["file", "/proc"])
def test_what_cannot_be_written_is_a_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], parent: str
) -> None:
    (tmp_path / "file").write_text("")
    directory = os.path.join(tmp_path, parent, "demo")

    assert main(["demo", "--export", directory]) == 2

    said = capfd.readouterr().err
    assert f"--export {directory}: cannot write" in said
    assert "Traceback" not in said


def test_flags_for_the_server_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--export", str(tmp_path / "d"), "--log_level", "DEBUG"]) == 2

    assert "'--log_level' goes to the server, and --export starts none" in capfd.readouterr().err
    assert not (tmp_path / "d").exists()
