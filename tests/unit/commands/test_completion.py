# SPDX-License-Identifier: Apache-2.0
"""Completion scripts: they know every command and flag, and bash does what its script says."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ovms_mp import cli
from ovms_mp.cli import main
from ovms_mp.commands.completion import PARSERS, SHELLS, bash_script, flags_of
from ovms_mp.config.server_parser import COMMANDS
from ovms_mp.docs import PAGES

BASH = "/bin/bash"


def completed(*words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(map(shlex.quote, words))
    typed = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}"
    program = f"{bash_script()}\n{typed}; _ovms_mp; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run([BASH, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_every_command_is_known_everywhere() -> None:
    assert set(PARSERS) == {"", *COMMANDS}
    assert set(COMMANDS) == {"model", "config", *cli._COMMANDS}
    for command in COMMANDS:
        assert command in completed("ovms_mp", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("st",), ["status"]),
        (("status", "--w"), ["--watch"]),
        (("model", "--log_l"), ["--log_level"]),
        (("--rest_por",), ["--rest_port"]),
        (("model", "--log_level", "D"), ["DEBUG"]),
        (("model", "--log_level", "=", "W"), ["WARNING"]),
        (("help", "set"), ["settings"]),
        (("completion", "f"), ["fish"]),
        (("status", "--none"), []),
        (("bench", "http://h", "m", "--generator", "h"), ["h2load"]),
    ],
)
def test_bash_completes(words: tuple[str, ...], expected: list[str]) -> None:
    assert completed("ovms_mp", *words) == expected


def test_names_of_files_may_have_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a model.onnx").touch()
    monkeypatch.chdir(tmp_path)
    typed = "COMP_WORDS=(ovms_mp add a); COMP_CWORD=2; _ovms_mp; printf '<%s>' \"${COMPREPLY[@]}\""
    done = subprocess.run(
        [BASH, "-c", f"{bash_script()}\n{typed}"], capture_output=True, text=True, check=True
    )

    assert done.stdout == "<a model.onnx>"


def test_every_topic_is_offered() -> None:
    assert completed("ovms_mp", "help", "") == list(PAGES)


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_whole(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0

    script = capsys.readouterr().out
    for command in PARSERS:
        for flag in flags_of(command):
            assert flag.name[2:] in script
    if (program := shutil.which(shell)) is not None:
        done = subprocess.run([program, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2

    assert "csh" in capsys.readouterr().err
