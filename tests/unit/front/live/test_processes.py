# SPDX-License-Identifier: Apache-2.0
"""Which processes are the server's, as a played ``/proc`` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.front.live.processes import Processes

if TYPE_CHECKING:
    from pathlib import Path

STAT = "{pid} (a) b) S 1 1 1 0 -1 0 0 0 0 0 30 20 0 0 20 0 1 0 100 0 0"


def play(root: Path, pid: int, children: str = "", arguments: tuple[str, ...] = ()) -> None:
    place = root / str(pid)
    (place / "task" / str(pid)).mkdir(parents=True)
    (place / "task" / str(pid) / "children").write_text(children)
    (place / "fd").mkdir()
    (place / "stat").write_text(STAT.format(pid=pid))
    (place / "statm").write_text("900 300 100 0 0 0 0")
    (place / "cmdline").write_bytes(b"\0".join(argument.encode() for argument in arguments) + b"\0")


def spec(kind: str, child_id: str) -> tuple[str, ...]:
    return (
        "python",
        "-I",
        "-m",
        f"ovms_mp.{kind}",
        f'{{"child_id": "{child_id}", "kind": "{kind}", "x": [1]}}',
    )


def test_the_manager_and_all_below_it(tmp_path: Path) -> None:
    play(tmp_path, 10, "11 12 13 14 99 ")
    play(tmp_path, 11, "30", arguments=spec("worker", "worker-0.1"))
    play(tmp_path, 12, "20 21", arguments=spec("rest", "arbiter.1"))
    play(tmp_path, 13, arguments=("ls", "-l", "-a", "{}", "{not json"))
    play(tmp_path, 14, arguments=spec("probe", "probe.5"))
    for pid in (20, 21):
        play(tmp_path, pid, arguments=spec("rest", "arbiter.1"))
    play(tmp_path, 30, arguments=spec("worker", "another-servers"))
    processes = Processes(10, tmp_path)

    found = list(processes.look())

    assert [(use.pid, use.kind, use.name) for use in found] == [
        (10, "manager", "manager"),
        (11, "worker", "worker-0.1"),
        (12, "arbiter", "arbiter.1"),
        (20, "rest", "rest-20"),
        (21, "rest", "rest-21"),
        (14, "probe", "probe.5"),
    ]
    assert {use.own_bytes / use.shared_bytes for use in found} == {2.0}
    assert len({use.cpu_ms for use in found}) == 1
    assert list(processes.look()) == found or [use.pid for use in processes.look()] == [u.pid for u in found]


def test_a_manager_that_has_gone_has_no_processes(tmp_path: Path) -> None:
    assert list(Processes(10, tmp_path).look()) == []
