# SPDX-License-Identifier: Apache-2.0
"""What may not lie in the directory of compiled models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ovms_mp.worker.engine.cache_directory import odd_entry

if TYPE_CHECKING:
    from pathlib import Path


def test_files_directories_and_links_to_them_are_fine(tmp_path: Path) -> None:
    (tmp_path / "1.blob").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "2.blob").symlink_to("1.blob")
    (tmp_path / "3.blob").symlink_to("nothing")

    assert odd_entry(str(tmp_path)) == ""
    assert odd_entry(str(tmp_path / "none")) == ""


def test_what_is_no_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert odd_entry(str(tmp_path)) == "endless"
    (tmp_path / "endless").unlink()
    os.mkfifo(tmp_path / "1.blob")
    assert odd_entry(str(tmp_path)) == "1.blob"
