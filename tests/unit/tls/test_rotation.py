# SPDX-License-Identifier: Apache-2.0
"""What is taken when the files of certificates change, and when."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import ConfigError
from ovms_mp.tls.material import Material, TlsFiles
from ovms_mp.tls.rotation import Rotation
from tests.support.certificates import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = make_certificate("first"), make_certificate("second")


def test_a_pair_is_taken_once_both_files_have_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = FIRST.write(tmp_path, "server")
    taken: list[Material] = []
    rotation = Rotation(TlsFiles(str(cert), str(key)), taken.append)
    rotation.look()
    assert [material.certificate for material in taken] == [FIRST.chain]

    cert.write_bytes(SECOND.chain)
    for _ in range(3):
        rotation.look()
    assert len(taken) == 1
    assert caplog.text.count("event=tls_not_reloaded") == 1
    assert "the key is not that of the certificate; the former certificates stay in use" in caplog.text

    key.write_bytes(SECOND.key)
    rotation.look()
    rotation.look()
    assert [material.certificate for material in taken] == [FIRST.chain, SECOND.chain]


def test_a_link_that_is_replaced_changes_all_at_once(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted secret."""
    for name, certificate in (("1", FIRST), ("2", SECOND)):
        (tmp_path / name).mkdir()
        certificate.write(tmp_path / name, "tls")
    (tmp_path / "..data").symlink_to("1")
    taken: list[Material] = []
    files = TlsFiles(str(tmp_path / "..data" / "tls.pem"), str(tmp_path / "..data" / "tls.key"))
    rotation = Rotation(files, taken.append)

    (tmp_path / "new").symlink_to("2")
    os.rename(tmp_path / "new", tmp_path / "..data")
    rotation.look()
    assert [material.certificate for material in taken] == [FIRST.chain, SECOND.chain]


def test_files_that_are_gone_or_only_touched_change_nothing(tmp_path: Path) -> None:
    cert, key = FIRST.write(tmp_path, "server")
    taken: list[Material] = []
    rotation = Rotation(TlsFiles(str(cert), str(key)), taken.append)
    cert.unlink()
    rotation.look()
    cert.write_bytes(FIRST.chain)
    rotation.look()
    assert len(taken) == 1


def test_files_that_cannot_be_used_at_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tls_cert .*No such file"):
        Rotation(TlsFiles(str(tmp_path / "c"), str(tmp_path / "k")), lambda _: None)
