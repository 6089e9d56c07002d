# SPDX-License-Identifier: Apache-2.0
"""A fleet as its controller tells of it, and the file from which a server's page learns that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovms_mp.wire.fleet_status import abridged, write_news

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "<img src=x onerror=alert(1)>"
STATES = ("ready", "ready", "starting", "draining", "unready", "pending", "ended")
OLD, NEW = "0123456789", "abcdef0123"
_PORT, _REST_PORT = 9000, 8000


def held(served: str = NEW, failure: str = "") -> dict[str, Any]:
    """What a server has of a model."""
    return {"revision": NEW, "served": served, "failure": failure, "load": 0.1}


def server(number: int, state: str = "ready", models: int = 3) -> dict[str, Any]:
    """One that is well, unless its state says otherwise; the first model of every fifth is hostile."""
    names = [HOSTILE if not number % 5 and not each else f"model-{each}" for each in range(models)]
    is_there = state != "pending"
    load = {"queue_depth": 3.0, "utilisation": 0.05 * (number % 20), "used_bytes": 400 << 20}
    place = {"host": f"10.0.0.{number % 250}", "port": _PORT, "rest_port": _REST_PORT, "cores": [0], "pid": 7}
    return {
        "number": number,
        "state": state,
        "revision": (NEW if number % 4 else OLD) if is_there else "",
        **(place if is_there else {}),
        **(load if state == "ready" else dict.fromkeys(load)),
        "models": {
            name: held(OLD, "its file is gone" if number % 3 else "")
            if each == 1 and not number % 4
            else held()
            for each, name in enumerate(names)
        },
    }


def status(servers: int, models: int = 3) -> dict[str, Any]:
    """A fleet of so many, with all states."""
    return {
        "fleet": "sightings",
        "entries": [{"host": "10.0.0.1", "port": 8000, "asked": []}, {"error": "HAProxy does not start"}],
        "wanted": servers,
        "is_settled": False,
        "revision": NEW,
        "models": {f"model-{each}": NEW for each in range(models)},
        "servers": [server(number, STATES[number % len(STATES)], models) for number in range(1, servers + 1)],
        "notes": [f"server 99 ended: {HOSTILE}"],
    }


def tell(path: Path, told: dict[str, Any], age_s: float = 0.0) -> None:
    """Write the file as a server's actor does; the page is of the first server."""
    write_news(path, abridged(told), age_s, ("10.0.0.1", _PORT))
