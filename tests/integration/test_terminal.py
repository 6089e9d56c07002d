# SPDX-License-Identifier: Apache-2.0
"""The server as somebody has it on a terminal: what the start and the stop say there."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovms_mp import __version__
from tests.support.server import free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tests.support.models import ModelZoo

READY_S = 60.0
CTRL_C = b"\x03"
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""Becomes a program that Ctrl-C on its stdin's terminal is sent to."""


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._controller, program_end = pty.openpty()
        os.set_blocking(self._controller, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, sys.executable, "-m", "ovms_mp", *arguments],
            stdin=program_end,
            stdout=program_end,
            stderr=program_end,
        )
        os.close(program_end)
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A terminal that is closed ends what runs on it.
        os.close(self._controller)
        self.process.wait(30)

    def lines(self) -> list[str]:
        """All that stands on it, without the times, and without reports of loads that last on a busy machine."""
        try:
            while octets := os.read(self._controller, 65536):
                self._text += octets.decode()
        except OSError:
            pass  # Nothing more for now, or for ever.
        lines = [re.sub(r"^(\^C)?\d\d:\d\d:\d\d ", "", line) for line in self._text.splitlines()]
        return [line for line in lines if not line.startswith("Loading ")]

    def wait_for(self, beginning: str) -> None:
        eventually(lambda: any(line.startswith(beginning) for line in self.lines()), READY_S, beginning)

    def type(self, keys: bytes) -> None:
        os.write(self._controller, keys)


def served(zoo: ModelZoo, directory: Path, names: list[str]) -> list[str]:
    """Arguments that serve these models on free ports."""
    port, rest_port = free_ports(2)
    ports = ["--port", str(port), "--rest_port", str(rest_port)]
    if len(names) == 1:
        return ["model", "--model_name", names[0], "--model_path", str(zoo.base_path(names[0])), *ports]
    entries = [{"config": {"name": name, "base_path": str(zoo.base_path(name))}} for name in names]
    config = directory / "config.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    return ["config", "--config_path", str(config), *ports]


@pytest.mark.parametrize("names", [["tiny"], ["tiny", "pair", "batch"]])
def test_a_start_is_five_lines_and_a_stop_two(names: list[str], zoo: ModelZoo, tmp_path: Path) -> None:
    with Terminal(*served(zoo, tmp_path, names)) as terminal:
        terminal.wait_for("Ask: ")
        version, plan, loaded, ready, ask = terminal.lines()
        assert version.startswith(f"ovms_mp {__version__} (OpenVINO 20")
        assert re.match(r"\d+ cores .*: CPU on ", plan)
        if len(names) == 1:
            assert loaded.startswith("Loaded tiny/1: load_s=")
        else:
            assert loaded.startswith("Loaded 3 versions: ")
            assert all(f"{name}/1" in loaded for name in names)
        assert ready.startswith("Ready: REST http://")
        assert all(f"{name}/1" in ready for name in names)
        assert "curl http://" in ask
        terminal.type(CTRL_C)
        assert terminal.process.wait(30) == 0
        assert [line.split(" ")[0] for line in terminal.lines()[5:]] == ["Stopping", "Stopped"]


def on_free_ports(*arguments: str) -> list[str]:
    port, rest_port = free_ports(2)
    return ["model", "--model_name", "m", *arguments, "--port", str(port), "--rest_port", str(rest_port)]


def test_a_path_that_does_not_exist_is_one_line(zoo: ModelZoo, tmp_path: Path) -> None:
    base_path = tmp_path / "typo"
    with Terminal(*on_free_ports("--model_path", str(base_path))) as terminal:
        terminal.wait_for("warning: Listening, but serving nothing: m (")
        assert len(terminal.lines()) == 3
        base_path.symlink_to(zoo.base_path("tiny"))
        terminal.wait_for("Ask: ")
        base_path.unlink()
        eventually(lambda: len(terminal.lines()) == 8, READY_S, "that it is gone")
        assert sorted(terminal.lines()[6:]) == ["Unloaded m/1", terminal.lines()[2]]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "model.onnx",
            b"\x08\x09\x12\x10ab",
            "1/model.onnx: it is not a valid ONNX model, or only a part of one (6 bytes)",
        ),
        ("model.onnx", b"", "1/model.onnx: it is not a valid ONNX model, or only a part of one (0 bytes)"),
        ("model.tflite", b"hello world", "it is not a valid TensorFlow Lite model"),
        ("model.xml", b"hello world", "it is not a valid OpenVINO IR"),
    ],
)
def test_a_file_that_is_no_model_is_one_line_of_ours(
    file: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    """And it is tried again without another; the engine prints nothing."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / file).write_bytes(content)
    (tmp_path / "1" / "model.bin").write_bytes(b"")
    log = tmp_path / "log"
    with Terminal(*on_free_ports("--model_path", str(tmp_path), "--log_path", str(log))) as terminal:
        terminal.wait_for("error: Listening, but serving nothing: m/1 (")
        eventually(lambda: log.read_text().count("event=load_failed") > 1, READY_S, "the second try")
        assert len(terminal.lines()) == 3
        assert reason in terminal.lines()[2]


def test_a_missing_device_is_one_line(zoo: ModelZoo) -> None:
    path = str(zoo.base_path("tiny"))
    with Terminal(*on_free_ports("--model_path", path, "--target_device", "GPU")) as terminal:
        assert terminal.process.wait(60) == 3
        assert len(terminal.lines()) == 3
        assert terminal.lines()[2].startswith("error: Could not start: model=m version=1: ")


def test_ctrl_c_while_a_model_is_being_loaded_is_a_stop(zoo: ModelZoo, tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = on_free_ports("--model_path", str(zoo.base_path("tiny")), "--log_path", str(log))
    with Terminal(*arguments) as terminal:
        eventually(lambda: log.exists() and "event=load " in log.read_text(), READY_S, "the load")
        terminal.type(CTRL_C)
        assert terminal.process.wait(30) == 0
        lines = [line for line in terminal.lines()[2:] if not line.startswith(("Loaded", "Ready", "Ask"))]
        assert [line.split(" ")[0] for line in lines] == ["Stopping", "Stopped"]


INTERRUPTED = """
import os, signal, sys
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)
MODULE = sys.argv.pop(1)
sys.meta_path.insert(0, CtrlC())
from ovms_mp.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module", ["ovms_mp.cli", "ovms_mp.config.server", "numpy._core.umath", "ovms_mp.manager.main", "zmq"]
)
def test_ctrl_c_before_anything_runs_is_no_traceback(module: str, zoo: ModelZoo) -> None:
    arguments = on_free_ports("--model_path", str(zoo.base_path("tiny")))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_second_ctrl_c_is_one_more_line(zoo: ModelZoo, tmp_path: Path) -> None:
    with Terminal(*served(zoo, tmp_path, ["tiny"])) as terminal:
        terminal.wait_for("Ask: ")
        terminal.type(CTRL_C)
        terminal.wait_for("Stopping (SIGINT)")
        terminal.type(CTRL_C)
        assert terminal.process.wait(30) in (0, 130)
        # It may have stopped before the second one came.
        stop = terminal.lines()[5:]
        assert stop[0].startswith("Stopping (SIGINT)")
        assert stop[1] in ("Stopped", "warning: event=stop_now reason=second SIGINT")
        assert [line for line in stop[2:] if line.strip("^C")] == []


def run(*arguments: str, stdout: int, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ovms_mp", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["help", "settings"], ["--list_models", "--model_repository_path", "/"]]
)
def test_who_reads_only_a_line_ends_it_quietly(arguments: list[str], tmp_path: Path) -> None:
    if "/" in arguments:
        arguments = [*arguments[:-1], str(tmp_path)]
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "1" / "model.onnx").touch()
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(*arguments, stdout=writing)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        done = run("help", stdout=full.fileno())

    assert done.returncode == 3
    assert done.stderr == "ovms_mp: error: what is printed cannot be written: No space left on device\n"


def test_a_name_that_the_terminal_has_no_letters_for_is_shown_all_the_same(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_config_list": [{"config": {"name": "\u6a21\u578b", "base_path": "/m"}}]}')
    done = run("config", "--check", str(config), stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")

    assert done.returncode == 0
    assert "\\u6a21\\u578b" in done.stdout
