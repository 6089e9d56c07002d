# SPDX-License-Identifier: Apache-2.0
"""A fleet as the command line drives it: on a Ray cluster that exists, or on one of this machine that ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from ovms_mp.errors import BootError
from ovms_mp.fleet.cluster import Cast, last_line
from ovms_mp.fleet.controller import Controller
from ovms_mp.places import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.fleet.file import Fleet

_NO_REPORTS = "RAY_USAGE_STATS_ENABLED"
_NICENESS = "RAY_worker_niceness"
_OBJECTS_BYTES = 80 << 20
"""As little as Ray takes: what actors say is short."""
_ASK_S = 10.0
_DOWN_S = 600.0
_PACE_S = 0.5


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a driver of a cluster.

    Args:
        address: Of its head, or ``auto`` for the one of this machine; empty to begin one.

    Raises:
        BootError: There is none, or it wants another token.
    """
    # A server's administrator decides what is told to whom, and what runs beside servers.
    os.environ.setdefault(_NO_REPORTS, "0")
    os.environ.setdefault(_NICENESS, "0")
    own = {"num_cpus": len(usable_cores()), "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else own),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BootError(f"no Ray cluster at {address or 'this machine'}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


class Driver:
    """What there is to do with one fleet. What it raises is a BootError that says what is wrong."""

    def __init__(self, name: str) -> None:
        """Of the fleet of this name."""
        self._name = name
        self._cast = Cast(name)

    def up(self, fleet: Fleet) -> None:
        """Begin it, as a file says."""
        if self._cast.controller() is not None:
            raise BootError(f"the fleet {self._name!r} is up already; use update or down")
        self._cast.start_controller(Controller, fleet)

    def update(self, fleet: Fleet) -> None:
        """Have it become what another file says."""
        self._ask("update", fleet)

    def status(self) -> dict[str, Any]:
        """What it is."""
        found: dict[str, Any] = self._ask("status")
        return found

    def settled(self, within_s: float) -> dict[str, Any]:
        """What it is when all is as the file says, or when the time is over."""
        deadline_s = time.monotonic() + within_s
        pause = threading.Event()
        while not (status := self.status())["is_settled"] and time.monotonic() < deadline_s:
            pause.wait(_PACE_S)
        return status

    def down(self) -> None:
        """End it, in order."""
        self._ask("stop", within_s=_DOWN_S)
        self._cast.end(self._cast.controller())

    def _ask(self, method: str, *given: Fleet, within_s: float = _ASK_S) -> Any:
        controller = self._cast.controller()
        if controller is None:
            raise BootError(
                f"there is no fleet {self._name!r} here; give its --name, or the --address of its cluster"
            )
        try:
            return ray.get(getattr(controller, method).remote(*given), timeout=within_s)
        except GetTimeoutError:
            raise BootError(f"the fleet's controller does not answer within {within_s:g} s") from None
        except RayError as error:
            raise BootError(f"the fleet's controller: {last_line(error)}") from None
