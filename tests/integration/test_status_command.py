# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp status`` and what may answer it: a status, something else, or nobody."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ovms_mp import __version__
from ovms_mp.cli import main
from ovms_mp.commands.status_source import local_servers
from tests.support.server import Server
from tests.support.terminal import Terminal
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models import ModelZoo


ROOT = Path(__file__).parents[2]
NEW_PICTURE = "\x1b[?2026h\x1b[H"


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """An HTTP server with one answer for ``/v1/status``; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v1/status"
            self.send_response(status if found else 404)
            self.end_headers()
            self.wfile.write(body if found else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join(10)


def test_a_status_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # Not for this machine's own servers.
    body = json.dumps({"plan": ["one core"], "models": {"m": {"default_version": 1}}}).encode()
    with answering(200, body) as port:
        assert main(["status", "--rest_port", str(port)]) == 0

    out, err = capsys.readouterr()
    assert (out, err) == ("one core\n\nm: default version 1\n", "")


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b"", "answers 404: no ovms_mp of this release"),
        (200, b"hello", "the answer is not a status document"),
    ],
)
def test_something_else_answers(
    status: int, body: bytes, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status, body) as port:
        assert main(["status", "--rest_port", str(port)]) == 3

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ovms_mp: error: ")
    assert text in err


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "no such host", "a\nb"])
def test_nobody_answers(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: connections are refused.
        port = taken.getsockname()[1]
        assert main(["status", "--host", host, "--rest_port", str(port)]) == 3

    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing answers at" in err
    assert "--rest_port" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "http://127.0.0.1", "[::1", "::1]", "[::1]:8000", "me@there"]
)
def test_what_is_no_host(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--host", host]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert f"--host {host}: give a name or an address" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"\x00\x00\x12\x04 not http\r\n\r\n", id="a gRPC server"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", id="an SSH server"),
        pytest.param(b"220 mail.example ESMTP\r\n", id="a mail server"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x46", id="a TLS server"),
        pytest.param(b"HTTP/1.1 two hundred\r\n\r\n", id="hardly HTTP"),
        pytest.param(b"x" * 100_000, id="endless"),
    ],
)
def test_what_answers_is_no_http(said: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                with contextlib.suppress(OSError):  # The client need not take all of it.
                    connection.sendall(said)

        thread = threading.Thread(target=speak)
        thread.start()
        assert main(["status", "--rest_port", str(listener.getsockname()[1])]) == 3
        thread.join(10)

    err = capsys.readouterr().err
    assert "does not speak HTTP" in err
    assert "--rest_port" in err
    assert err.isprintable() or err.count("\n") == 1


def test_the_grpc_port_gets_a_sentence(shared_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--host", "127.0.0.1", "--rest_port", str(shared_server.port)]) == 3

    err = capsys.readouterr().err
    assert "does not speak HTTP; give the server's --rest_port (not its gRPC port)" in err
    assert err.count("\n") == 1


# A server on this machine, asked by its status socket.


@pytest.fixture(scope="module")
def grpc_only(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a REST port, whose second model does not exist."""
    directory = tmp_path_factory.mktemp("grpc_only")
    config = directory / "config.json"
    entries = [
        {"name": "tiny", "base_path": str(zoo.base_path("tiny"))},
        {"name": "typo", "base_path": "/typo"},
    ]
    config.write_text(json.dumps({"model_config_list": [{"config": entry} for entry in entries]}))
    server = Server(["config", "--config_path", str(config)], directory / "log", has_rest=False)
    with server:
        yield server


def status(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ovms_mp", "status", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        user=user,
        cwd="/",
    )


def test_a_server_without_rest_tells_its_status(grpc_only: Server) -> None:
    done = status("--port", str(grpc_only.port))

    assert (done.returncode, done.stderr) == (0, "")
    assert "tiny: default version 1" in done.stdout
    assert "AVAILABLE" in done.stdout
    assert "typo: no default version" in done.stdout


def test_the_document_is_for_programs(grpc_only: Server) -> None:
    done = status("--json", "--port", str(grpc_only.port))

    document = json.loads(done.stdout)
    assert document["server"] == {"version": __version__, "is_draining": False}
    assert document["models"]["tiny"]["versions"][0]["state"] == "AVAILABLE"


def test_it_answers_before_anything_is_loaded(zoo: ModelZoo, tmp_path: Path) -> None:
    server = Server(
        ["model", "--model_name", "slow", "--model_path", str(zoo.base_path("tiny"))], tmp_path / "log"
    )
    server.launch()
    try:
        eventually(lambda: f"-{server.port}-" in Path("/proc/net/unix").read_text(), 10, "status socket")
        done = status("--port", str(server.port))
        assert done.returncode == 0, done.stderr
        assert "slow: " in done.stdout
        server.wait_ready()
    finally:
        server.stop()


def test_several_servers_are_told_apart_by_their_ports(grpc_only: Server, shared_server: Server) -> None:
    done = status()

    assert done.returncode == 3
    assert f"gRPC {grpc_only.port}" in done.stderr
    assert f"REST {shared_server.rest_port}" in done.stderr
    assert status("--rest_port", str(shared_server.rest_port)).stdout.count("resnet50: ") == 1
    assert "resnet50" not in status("--port", str(grpc_only.port)).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_is_told_nothing(grpc_only: Server) -> None:
    # Not by running the command: that user may not be able to read this checkout.
    (found,) = [server for server in local_servers() if server.port == grpc_only.port]
    script = (
        "import os, socket, sys; os.setresuid(65534, 65534, 65534); s = socket.socket(socket.AF_UNIX); "
        "s.connect(sys.argv[1].replace('@', chr(0))); print(socket.recv_fds(s, 1, 1)[:2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, found.address.replace("\0", "@")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout == "(b'', [])\n"


def test_who_asks_in_a_loop_costs_the_manager_little(grpc_only: Server) -> None:
    (found,) = [server for server in local_servers() if server.port == grpc_only.port]
    before = psutil.Process(grpc_only.process.pid).cpu_times()
    count, ends_at = 0, time.monotonic() + 1.0
    while time.monotonic() < ends_at:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(found.address)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            os.close(descriptors[0])
            count += 1
    after = psutil.Process(grpc_only.process.pid).cpu_times()

    assert 2 <= count <= 100
    assert after.user + after.system - before.user - before.system < 0.5


# Live.


ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def test_a_terminal_shows_it_live_and_has_its_screen_back(grpc_only: Server, tmp_path: Path) -> None:
    program = f"set -m; {sys.executable} -P -m ovms_mp status --watch --port {grpc_only.port}; fg"
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    with Terminal(program, tmp_path, environment) as terminal:
        terminal.resize(20, 60)
        eventually(lambda: terminal.read().count(NEW_PICTURE) >= 2, 30.0, "pictures")
        terminal.resize(8, 40)
        eventually(lambda: "lines more" in terminal.read(), 30.0, "a smaller picture")
        terminal.press_ctrl_z()
        # The shell has the screen back, and goes on with `fg`.
        eventually(lambda: ENTER + NEW_PICTURE in terminal.read().partition(LEAVE)[2], 30.0, "it goes on")
        terminal.press_ctrl_c()
        assert terminal.exit_code(30.0) == 0
        printed = terminal.printed

    assert printed.startswith(ENTER)
    assert printed.endswith(LEAVE)
    assert "\x1b[32mAVAILABLE\x1b[0m" in printed
    assert "\x1b[2J" not in printed  # Which would flicker.
    last = re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", printed.rpartition(NEW_PICTURE)[2])
    assert len(last.splitlines()) == 8
    assert max(map(len, last.splitlines())) <= 40
    assert "Traceback" not in printed


def test_others_have_lines(grpc_only: Server) -> None:
    command = [sys.executable, "-m", "ovms_mp", "status", "--watch", "--port", str(grpc_only.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        first, second = watching.stdout.readline(), watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
        assert watching.stderr.read() == ""

    assert re.fullmatch(r"\d\d:\d\d:\d\d \w+/1 AVAILABLE \d+ answered \d+ failed\n", first)
    assert re.fullmatch(r".* failed \d+\.\d/s\n", second)


def test_who_has_seen_enough_closes_the_pipe(grpc_only: Server) -> None:
    command = [sys.executable, "-m", "ovms_mp", "status", "--watch", "--json", "--port", str(grpc_only.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert "models" in json.loads(watching.stdout.readline())
        watching.stdout.close()
        assert watching.wait(30) == 128 + signal.SIGPIPE
        assert watching.stderr.read() == ""


# A server whose configuration changes.


@pytest.fixture(scope="module")
def changing(zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server on IPv6 with a model that fails, and its configuration file."""
    directory = tmp_path_factory.mktemp("changing")
    (directory / "broken" / "1").mkdir(parents=True)
    (directory / "broken" / "1" / "model.onnx").write_bytes(b"this is no model")
    config = directory / "config.json"
    config.write_text(configuration(zoo, "tiny", broken=directory / "broken"))
    with configured_server(config, directory / "log") as server:
        yield server, config


def configured_server(config: Path, log_path: Path) -> Server:
    arguments = ["config", "--config_path", str(config), "--rest_bind_address", "[::1]"]
    return Server(arguments, log_path, is_patient=False)


def configuration(zoo: ModelZoo, *names: str, broken: Path | None = None, device: str = "CPU") -> str:
    entries: list[dict[str, str]] = [
        {"name": name, "base_path": str(zoo.base_path(name)), "target_device": device} for name in names
    ]
    if broken is not None:
        entries.append({"name": "broken", "base_path": str(broken)})
    return json.dumps({"model_config_list": [{"config": entry} for entry in entries]})


def asked(*arguments: str) -> str:
    """What the command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["status", *arguments]) == 0
    return out.getvalue()


def told(server: Server) -> list[str]:
    """What people are told, by the status socket and over REST: the same but for passing time."""

    def same() -> str:
        texts = [
            re.sub(r"next try in \d+ s|being tried again", "next try", asked(*where))
            for where in (
                ("--port", str(server.port)),
                ("--host", "[::1]", "--rest_port", str(server.rest_port)),
            )
        ]
        return texts[0] if texts[0] == texts[1] else ""

    return eventually(same, 10.0, "both say the same").splitlines()


def documents(server: Server) -> list[Any]:
    """What programs are told in both ways."""
    return [
        json.loads(asked("--json", *where))
        for where in (
            ("--port", str(server.port)),
            ("--host", "::1", "--rest_port", str(server.rest_port)),
        )
    ]


def test_a_version_that_failed_says_why_and_when_it_is_tried_again(changing: tuple[Server, Path]) -> None:
    server, _ = changing

    eventually(lambda: "  1  FAILED  next try in " in asked("--port", str(server.port)), 30.0, "failed")
    lines = told(server)
    index = lines.index("broken: default version 1")
    assert re.fullmatch(r"  1  FAILED +next try", lines[index + 1])
    assert "! cannot read" in lines[index + 2]
    assert "model.onnx" in lines[index + 2]
    for document in documents(server):
        (version,) = document["models"]["broken"]["versions"]
        assert version["is_failed"]
        assert version["is_being_loaded"] or version["next_try_in_s"] >= 0
        (good,) = document["models"]["tiny"]["versions"]
        assert (good["is_failed"], good["next_try_in_s"]) == (False, None)


@pytest.mark.parametrize("content", ["", "{", '{"model_config_list": 1}'])
def test_a_refused_file_is_on_top_until_it_is_right(
    content: str, changing: tuple[Server, Path], zoo: ModelZoo
) -> None:
    server, config = changing
    before = config.read_text()
    config.write_text(content)
    lines = eventually(
        lambda: [line for line in [told(server)] if "configuration" in line[0]], 30.0, "the refusal"
    )[0]
    assert re.fullmatch(
        r"configuration file of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*: refused; the one before it is followed",
        lines[0],
    )
    assert lines[1].startswith("    ! ")
    assert any("tiny: default version 1" in line for line in lines)
    for document in documents(server):
        assert document["configuration"]["is_refused_whole"]
        assert document["configuration"]["reason"]
    config.write_text(before)
    eventually(lambda: told(server)[0].startswith("machine: "), 30.0, "no refusal")
    assert all(document["configuration"] is None for document in documents(server))


def test_the_plan_follows_a_reload(zoo: ModelZoo, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(configuration(zoo, "tiny"))
    with configured_server(config, tmp_path / "log") as server:
        config.write_text(configuration(zoo, "tiny", device="AUTO:CPU"))
        eventually(
            lambda: [line.split(":")[0] for line in told(server)[1:3]] == ["AUTO", "AUTO"],
            30.0,
            "AUTO:CPU alone",
        )
        config.write_text(configuration(zoo, "tiny"))
        eventually(lambda: told(server)[1].startswith("CPU: 1 worker; "), 30.0, "CPU")
        eventually(lambda: not any("AUTO" in line for line in told(server)), 30.0, "no AUTO any more")


def test_sighup_logs_its_outcome(changing: tuple[Server, Path], zoo: ModelZoo) -> None:
    server, config = changing
    before = config.read_text()
    config.write_text(configuration(zoo, "tiny"))
    eventually(lambda: not any("broken" in line for line in told(server)), 30.0, "no broken model")
    server.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: "event=reloaded reason=SIGHUP nothing changed" in server.log(), 30.0, "nothing changed"
    )
    config.write_text("{")
    server.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: re.search(r"WARNING .*event=reloaded reason=SIGHUP nothing changed; .*JSON", server.log()),
        30.0,
        "the refusal",
    )
    config.write_text(before)


def test_names_of_others_in_the_kernel_s_table_are_passed_over(tmp_path: Path) -> None:
    table = tmp_path / "unix"
    row = "0000000000000000: 00000002 00000000 00010000 0001 01 14715 "
    names = [
        "@ovms_mp-status-12-9000-0",
        "@ovms_mp-status-x-1-2",
        "@ovms_mp-status-1-2",
        "/run/ovms_mp-status-1-2-3",
    ]
    table.write_text(
        "Num RefCount Protocol Flags Type St Inode Path\n" + "".join(f"{row}{name}\n" for name in names)
    )

    (found,) = local_servers(str(table))

    assert (found.pid, found.port, found.rest_port) == (12, 9000, 0)
    assert found.address == "\0ovms_mp-status-12-9000-0"
    assert found.text() == "pid 12 (gRPC 9000)"
    assert local_servers(str(tmp_path / "missing")) == []


STRANGER = """
import os, socket, sys
os.setuid(65534)
held = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(200)]
for each in held:
    each.connect_ex("\\0" + sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")
def test_strangers_keep_nobody_from_the_status(
    shared_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"ovms_mp-status-{shared_server.process.pid}-{shared_server.port}-{shared_server.rest_port}"
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "connected\n"
        assert main(["status", "--port", str(shared_server.port)]) == 0
        stranger.communicate("", timeout=10)
    assert "tiny: default version 1" in capsys.readouterr().out
