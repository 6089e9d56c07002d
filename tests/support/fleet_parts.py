# SPDX-License-Identifier: Apache-2.0
"""The parts of a fleet on several machines: their processes, and which failures of clients their deaths explain."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.support.machines import Machine

WORDS = {
    "controller": "ray::Controller",
    "balancer": "ray::BalancerActor",
    "actor": "ray::ServerActor",
    "haproxy": "haproxy -W",
    "server": "--stop_notice_s",
}
"""In the command lines of each."""
_AT_ONCE_S = 0.01
"""From the moment that is noted until the signal has come."""
_CLOCKS_S = 0.1
"""How far the notes of two processes may be apart."""
_LISTENS_S = 0.5
"""From a successor's start until it takes connections."""
_UNSEEN_S = 3.0
"""As long as requests may be sent to a machine whose link has been cut."""
_GIVEN_UP_S = 8.0
"""When all that was under way on a link has been given up."""
_WAITED_S = 0.9
"""What fails on a link that was cut has waited for a connection or an answer; a second is the shortest such wait."""


def processes(machines: Iterable[Machine], words: str) -> set[int]:
    """Those on some machines whose command line has these words; none that hold the machines."""
    holders = {machine.holder.pid for machine in machines}
    networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in holders}
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in holders:
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if words in command and os.readlink(entry / "ns/net") in networks:
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def victims(machines: Sequence[Machine], what: str) -> set[int]:
    """Processes of a part."""
    return processes(machines, WORDS[what])


def parents(machines: Sequence[Machine]) -> set[int]:
    """Of the servers: those that status names."""
    found = set()
    for pid in victims(machines, "server"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                found.add(pid)
    return found


@dataclass
class Blow:
    """What was killed or cut.

    Attributes:
        at_s: When, by the clock of the wall, as clients note it.
        replaced_s: When there was a successor, where that has been waited for.
    """

    what: str
    at_s: float
    victim: str
    replaced_s: float | None = None


def cause(failure: Sequence[float | str], blows: Iterable[Blow]) -> str:
    """Why a call may have failed; empty where nothing explains it.

    Args:
        failure: When it was noticed, how long the call took, and more.
        blows: All there were.
    """
    ended_s, took_s = float(failure[0]), float(failure[1])
    began_s = ended_s - took_s
    for blow in blows:
        earliest_s = blow.at_s - _CLOCKS_S
        if ended_s < earliest_s:
            continue
        if blow.what == "haproxy" and began_s <= blow.at_s + _AT_ONCE_S:
            return "under way in HAProxy when it was killed"
        if blow.what == "haproxy" and began_s <= (blow.replaced_s or blow.at_s) + _LISTENS_S:
            return "before HAProxy was there again"
        if (
            blow.what == "link"
            and began_s <= blow.at_s + _UNSEEN_S
            and ended_s <= blow.at_s + _GIVEN_UP_S
            and took_s >= _WAITED_S
        ):
            return "on the link that was cut"
    return ""
