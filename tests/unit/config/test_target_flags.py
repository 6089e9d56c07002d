# SPDX-License-Identifier: Apache-2.0
"""Keys that commands send: from a flag, a file or the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.target_flags import KEY_VARIABLE, add_target_flags, read_key
from ovms_mp.errors import ConfigError


def key(*arguments: str, **environment: str) -> str:
    parser = Parser(prog="ovms_mp test", description="")
    add_target_flags(parser)
    return read_key(parser.read(arguments), environment)


def test_a_flag_goes_before_the_environment() -> None:
    assert key() == ""
    assert key(**{KEY_VARIABLE: "of-the-environment"}) == "of-the-environment"
    assert key("--api_key", "given", **{KEY_VARIABLE: "of-the-environment"}) == "given"
    assert key("--api_key", "", **{KEY_VARIABLE: "of-the-environment"}) == ""


@pytest.mark.parametrize("text", ["a-key", "alice a-key\n", "# whose it is\n\nalice a-key\nbob another\n"])
def test_a_file_is_read_as_the_server_reads_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)

    assert key("--api_key", f"@{tmp_path / 'keys'}") == "a-key"
    assert key(**{KEY_VARIABLE: f"@{tmp_path / 'keys'}"}) == "a-key"


@pytest.mark.parametrize("text", ["a\r\nb: c", "a b", "\xe4"])
def test_what_no_header_can_carry_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--api_key: a key has"):
        key("--api_key", text)


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n")

    with pytest.raises(ConfigError, match="no key in it"):
        key("--api_key", f"@{tmp_path / 'keys'}")
    with pytest.raises(ConfigError, match="No such file"):
        key("--api_key", f"@{tmp_path / 'none'}")
    with pytest.raises(ConfigError, match="not a regular file"):
        key("--api_key", f"@{tmp_path}")
