# SPDX-License-Identifier: Apache-2.0
"""The way to a Ray cluster: one that exists, or one of this machine that ends with the command that begins it."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from ovms_mp.errors import BootError
from ovms_mp.fleet.actors import last_line
from ovms_mp.places import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_REPORTS = "RAY_USAGE_STATS_ENABLED"
_NICENESS = "RAY_worker_niceness"
_OBJECTS_BYTES = 80 << 20
"""As little as Ray takes: what actors say is short."""


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


def answer(reference: Any, within_s: float) -> Any:
    """What the controller answers.

    Raises:
        BootError: Nothing in time, or that it failed.
    """
    try:
        return ray.get(reference, timeout=within_s)
    except GetTimeoutError:
        raise BootError(f"the fleet's controller does not answer within {within_s:g} s") from None
    except RayError as error:
        raise BootError(f"the fleet's controller: {last_line(error)}") from None
