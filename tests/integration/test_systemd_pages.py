# SPDX-License-Identifier: Apache-2.0
"""What pages have root do on a machine with systemd, done in a real one: services are made and answer.

Ports become free ones, as the network of the namespace is this machine's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.commands.service_units import SERVICE, SOCKET
from ovms_mp.docs import PAGES
from tests.support import systemd
from tests.support.readme import blocks, difference, outputs
from tests.support.server import free_ports
from tests.support.systemd import LIBRARIES, PREFIX, NotBootedError, Systemd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.readme import Block

REASON = systemd.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

HERE = "systemd"
WORK = "/root/work"
DROP_IN = f"/etc/systemd/system/{SERVICE}.d/test.conf"
WITHIN_S = 120.0
INSTALL = f"{PREFIX}/bin/ovms_mp install-service\n"


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    host = Systemd(tmp_path_factory.mktemp("systemd"))
    try:
        host.__enter__()
    except NotBootedError as reason:
        pytest.skip(str(reason))
    try:
        host.write(DROP_IN, f"[Service]\nEnvironment=LD_LIBRARY_PATH={LIBRARIES}\n")
        yield host
    finally:
        host.close()


@pytest.fixture
def host(booted: Systemd) -> Iterator[Systemd]:
    """A machine without the service, before and after."""
    yield booted
    booted.control("disable", "--now", SERVICE, SOCKET, check=False)
    booted.run("rm", "-rf", "/etc/ovms_mp", "/srv", WORK, check=True)
    assert not booted.run("pgrep", "-f", f"{PREFIX}/bin/").stdout, booted.journal(SERVICE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("topic", ["systemd", "tutorial"])
def test_root_does_what_the_page_says(host: Systemd, topic: str) -> None:
    page = blocks(PAGES[topic].text())
    prepare(host, page)
    port, rest_port = map(str, free_ports(2))

    def printed(command: str) -> str:
        flags = f"--port {port} --rest_port {rest_port}\n"
        text = command.replace(INSTALL, INSTALL.replace("\n", f" {flags}")).replace("8000", rest_port)
        done = host.run("bash", "-euc", f"cd {WORK}\n{text}", within_s=WITHIN_S)
        assert done.returncode == 0, (
            f"{command}: {done.stdout}{done.stderr}{host.journal(SERVICE, '-n', '20')}"
        )
        return done.stdout

    ran = [(block, shown, printed(block.text)) for block, shown in outputs(page) if block.run_in == HERE]
    assert ran
    for block, shown, text in ran:
        if shown is not None:
            assert not (wrong := difference(shown, text)), f"{block.text}: {wrong}"


def prepare(host: Systemd, page: Sequence[Block]) -> None:
    """Do what the page's reader has done before, as any user."""
    host.run("mkdir", "-p", WORK, "/srv", check=True)
    programs = [block for block in page if block.file and block.language == "python"]
    for program in programs:
        host.write(f"{WORK}/{program.file}", program.text)
    for block in page:
        if block.run_in or block.not_run or block.language != "sh":
            continue
        if any(word in block.text for word in ("demo --export", "make_model.py", "cv2.imwrite")):
            command = block.text.replace("python ", f"{PREFIX}/bin/python3 ").replace(
                "ovms_mp demo", f"{PREFIX}/bin/ovms_mp demo"
            )
            host.run("bash", "-euc", f"cd {WORK}\n{command}", check=True)
