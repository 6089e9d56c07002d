# SPDX-License-Identifier: Apache-2.0
"""The kinds of children, and what differs when one is started: module, environment, OOM score."""

from __future__ import annotations

import enum
import os

from ovms_mp.places import module_environment

_WORKER_MMAP_THRESHOLD = str(4 << 20)


class Kind(enum.Enum):
    """What a child is."""

    WORKER = "worker"
    PROBE = "probe"
    FETCHER = "fetcher"
    GRPC = "grpc"
    ARBITER = "arbiter"
    REST = "rest"

    @property
    def is_front(self) -> bool:
        """Whether it owns an arena and routes requests."""
        return self in (Kind.GRPC, Kind.REST)

    @property
    def ends_by_itself(self) -> bool:
        """Whether it exits when its work is done."""
        return self in (Kind.PROBE, Kind.FETCHER)


MODULES = {
    Kind.WORKER: "ovms_mp.worker",
    Kind.PROBE: "ovms_mp.worker.probe",
    Kind.FETCHER: "ovms_mp.fetcher",
    Kind.GRPC: "ovms_mp.front.grpc",
    Kind.ARBITER: "ovms_mp.front.rest",
}
"""What ``python -m`` runs. REST fronts are forked by the arbiter."""
OOM_POINTS = {Kind.PROBE: 1000, Kind.FETCHER: 1000, Kind.WORKER: 200, Kind.GRPC: 100, Kind.ARBITER: 100}
"""Added to the OOM score: a trial or a download loses nobody's work, a worker is replaced, the manager goes last."""


_FOR_STORES = ("AWS_", "AZURE_", "GOOGLE_")
"""Beginnings of the names of variables that credentials of object stores are in; only the fetcher has them."""


def environment_of(kind: Kind) -> dict[str, str]:
    """The manager's environment with what our processes need to stay small."""
    environment = module_environment(os.environ)
    if kind is not Kind.FETCHER:
        environment = {name: value for name, value in environment.items() if not name.startswith(_FOR_STORES)}
    # Fronts and workers do no linear algebra in NumPy; OpenBLAS would start a thread and 30 MB for every
    # core.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    environment.setdefault("MALLOC_ARENA_MAX", "2")
    if kind is Kind.WORKER:
        # glibc raises these limits by itself when a model's large blocks are freed, and then keeps the next model's
        # on its heap, where they leave holes: 200 loads of 100 MB ended at 1.29 times the memory, so at 1.01.
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", _WORKER_MMAP_THRESHOLD)
        environment.setdefault("MALLOC_TRIM_THRESHOLD_", _WORKER_MMAP_THRESHOLD)
    return environment
