# SPDX-License-Identifier: Apache-2.0
"""`ovms_mp demo`: what a new user runs first. It shows its digit and the answers, and nothing of the server's log."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ovms_mp.demo import digits
from ovms_mp.demo.command import SURE_DIGIT
from tests.support.server import free_ports
from tests.support.waiting import eventually

SERVES_WITHIN_S = 60.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ovms_mp", "demo", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=90, check=False)


def without_progress(stderr: str) -> str:
    """A start that takes more than five seconds on a busy machine is told of."""
    return "".join(line for line in stderr.splitlines(keepends=True) if ", still starting (" not in line)


def test_demo_once_asks_both_protocols_and_leaves() -> None:
    """It offers no request to a server that is gone."""
    done = run("--once", "--port", "0", "--rest_port", "0")

    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    _, labels = digits.load_held_out()
    label = int(labels[SURE_DIGIT])
    lines = done.stdout.splitlines()
    assert len(lines) == 10  # The drawing between two empty lines.
    assert lines[4].endswith(f"gRPC says {label}, REST says {label}, the label is {label}")
    assert "curl" not in done.stdout


def test_demo_serves_this_machine_only_until_ctrl_c_and_sends_its_key(tmp_path: Path) -> None:
    port, rest_port = free_ports(2)
    out, err, keys = tmp_path / "out", tmp_path / "err", tmp_path / "keys"
    keys.write_text("me a-key-that-is-long-enough\n")
    keys.chmod(0o600)
    flags = ("--rest_prefix", "/models", "--api_key_file", str(keys))
    with out.open("wb") as to_out, err.open("wb") as to_err:
        demo = subprocess.Popen(
            command("--port", str(port), "--rest_port", str(rest_port), *flags),
            stdout=to_out,
            stderr=to_err,
            start_new_session=True,
        )
    try:
        eventually(lambda: "Serving until Ctrl-C" in out.read_text(), SERVES_WITHIN_S, "it serves")
        assert _listening_addresses(port, rest_port) == {"0100007F"}
        assert re.search(
            rf"^curl .*Bearer KEY.*http://127.0.0.1:{rest_port}/models/v1/models/digits:predict",
            out.read_text(),
            re.M,
        )
        os.killpg(demo.pid, signal.SIGINT)  # As a terminal does it.
        assert demo.wait(30) == 0
    finally:
        demo.kill()
        demo.wait()
    assert without_progress(err.read_text()) == ""
    assert (
        out.read_text().rstrip().endswith(f"REST http://127.0.0.1:{rest_port}/models  gRPC 127.0.0.1:{port}")
    )


@pytest.mark.parametrize("flag", ["--port", "--rest_port"])
def test_a_port_that_is_taken(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--rest_port" if flag == "--port" else "--port"
        done = run("--once", flag, str(port), other, "0")

    assert (done.returncode, done.stdout) == (3, "")
    name = "gRPC" if flag == "--port" else "REST"
    assert done.stderr == (
        f"ovms_mp: error: {name} port {port} cannot be used (Address already in use); choose another {flag}, 0 for any "
        "free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--no_such_flag", "1"), 2, "--no_such_flag is unknown"),
        (("--target_device", "GPU"), 3, "target_device 'GPU': GPU is not available"),
    ],
)
def test_errors_of_the_server_show(arguments: tuple[str, ...], code: int, text: str) -> None:
    done = run("--once", "--port", "0", "--rest_port", "0", *arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert f"The server ended before it answered, with exit code {code}; its reason is above." in done.stderr
    assert "INFO" not in done.stderr
    assert "WARNING" not in done.stderr


def _listening_addresses(*ports: int) -> set[str]:
    """Where somebody listens on these ports, as the kernel writes addresses."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            address, _, port = row.split()[1].partition(":")
            if row.split()[3] == "0A" and int(port, 16) in ports:
                found.add(address)
    return found
