# SPDX-License-Identifier: Apache-2.0
"""The units that are written, and that ``deploy/systemd/`` has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ovms_mp
from ovms_mp.codes import ExitCode
from ovms_mp.commands.install_service import default_layout, hidden_text, install, user_layout
from ovms_mp.commands.service_units import SERVICE, SOCKET
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from ovms_mp.commands.service_units import Layout

DEPLOY = Path(ovms_mp.__file__).parents[1] / "deploy/systemd"
COMMAND = "/opt/ovms_mp/bin/ovms_mp"


def user(home: Path) -> Layout:
    return user_layout(COMMAND, 9000, 8000, {"XDG_CONFIG_HOME": str(home)})


def test_deploy_has_the_machines_units() -> None:
    """``ovms_mp install-service --dry-run`` shows them for another place of the program."""
    layout = default_layout(COMMAND, 9000, 8000, ("render", "video"))
    assert (DEPLOY / SERVICE).read_text() == layout.service()
    assert (DEPLOY / SOCKET).read_text() == layout.socket()
    assert (DEPLOY / "environment").read_text() == layout.environment()


def test_files_are_written_and_settings_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(user(tmp_path), is_dry_run=False) == ExitCode.CLEAN
    environment = tmp_path / "ovms_mp/environment"
    assert environment.stat().st_mode & 0o777 == 0o600
    environment.write_text("mine")
    assert install(user(tmp_path), is_dry_run=False) == ExitCode.CLEAN
    assert environment.read_text() == "mine"
    assert (tmp_path / "systemd/user" / SERVICE).read_text() == user(tmp_path).service()
    printed = capsys.readouterr().out
    assert f"kept     {environment}" in printed
    assert "systemctl --user enable --now ovms_mp.socket ovms_mp.service" in printed


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(user(tmp_path), is_dry_run=True) == ExitCode.CLEAN
    assert list(tmp_path.iterdir()) == []
    assert user(tmp_path).service() in capsys.readouterr().out


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "systemd").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot write .*/ovms_mp\.service: Not a directory"):
        install(user(tmp_path), is_dry_run=False)


def test_a_users_service_wants_no_rights_that_only_the_machines_has(tmp_path: Path) -> None:
    text = user(tmp_path).service()
    assert "DynamicUser" not in text
    assert "WantedBy=default.target" in text


def test_without_groups_of_devices_none_is_named() -> None:
    text = default_layout(COMMAND, 9000, 8000, ()).service()
    assert "\nSupplementaryGroups" not in text


@pytest.mark.parametrize(
    "place", ["/root/.pyenv/versions/3.11/bin/python3.11", "/home/me/.venv/bin/ovms_mp", "/run/user/0/v/x"]
)
def test_a_program_that_the_service_cannot_see_is_told_of(place: str) -> None:
    text = hidden_text([Path(COMMAND), Path(place)])

    assert text.startswith(f"the service cannot see {place}, as it has ProtectHome=yes")
    assert "/usr/bin/python3 -m venv /opt/ovms_mp" in text


def test_a_program_of_the_machine_is_seen() -> None:
    assert hidden_text([Path(COMMAND), Path("/usr/bin/python3.11"), Path("/homes/python")]) == ""
