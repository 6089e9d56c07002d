# SPDX-License-Identifier: Apache-2.0
"""Whether a small model is as quick on one thread as on all: then it is compiled for one.

A model whose run takes some ten microseconds gains nothing from a second thread, and pays for it: the engine wakes it
for each run, and it takes a core from whoever has work there. PERF: 602 kB in, sixteen bytes out, on two cores: a run
takes 12.0 us with two threads and 12.5 with one, 24.0 us of processors' time and 12.5; requests whose input is in
shared memory come at 0.88 of a tiny model's rate instead of 0.74. Models that gain something keep their threads:
a transformer block of 61 us would take 78 with one.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from ovms_mp.model.dtypes import DType
from ovms_mp.worker.engine.properties import leaves_threads_open
from ovms_mp.worker.load.agreement import agree
from ovms_mp.worker.load.compiled import OutputPath

if TYPE_CHECKING:
    import openvino as ov

    from ovms_mp.wire.records import ModelSettings
    from ovms_mp.worker.load.compiled import CompiledVersion
    from ovms_mp.worker.load.proof import Proof

ONE_THREAD: Final = MappingProxyType({"NUM_STREAMS": 0})
"""Without streams the thread that asks for a run runs it, by itself. One stream of one thread would be no slower, but
loses failures (:func:`~ovms_mp.worker.engine.engine.hides_failures`). Nor is the thread tied to a core for each run,
which are two system calls and perhaps a move. PERF: a tiny model runs in 5.9 us instead of 7.6, and one at a time takes
clients 0.24 ms instead of 0.26."""

_LONGEST_RUN_S = 0.001
"""Of a model that is compiled a second time to find out."""
_NO_GAIN, _NO_GAIN_S = 1.08, 5e-6
"""What a run on one thread may take more than one on all: a share, or a time that no client sees."""
_ROUNDS, _RUNS = 12, 8
"""As short as they are: the quickest round of each counts, whatever else the machine does meanwhile."""


def may_do_with_one(settings: ModelSettings, compiled: CompiledVersion, proof: Proof) -> bool:
    """Whether it is worth finding out, and ours to choose.

    Not where shapes differ from request to request, as those of the proof are the smallest then; strings and states are
    left alone, too.
    """
    return (
        leaves_threads_open(settings)
        and compiled.is_static
        and not compiled.has_states
        and not any(spec.dtype is DType.BYTES for spec in (*compiled.inputs, *compiled.outputs))
        and proof.path is OutputPath.BOUND
        and not proof.remark
        and proof.run_time_s is not None
        and proof.run_time_s <= _LONGEST_RUN_S
    )


def does_with_one(on_all: CompiledVersion, on_one: CompiledVersion) -> bool:
    """Whether a version answers on one thread as on all, bit by bit, and as soon. Both have been proven."""
    if not agree(on_all.compiled, on_one):
        return False
    requests = [_zeros(version) for version in (on_all, on_one)]
    best_s = [float("inf"), float("inf")]
    for _ in range(_ROUNDS):
        for index, request in enumerate(requests):
            start = time.perf_counter()
            for _ in range(_RUNS):
                request.infer(share_outputs=True)
            best_s[index] = min(best_s[index], (time.perf_counter() - start) / _RUNS)
    return best_s[1] <= max(_NO_GAIN * best_s[0], best_s[0] + _NO_GAIN_S)


def _zeros(version: CompiledVersion) -> ov.InferRequest:
    """A request to be run, with zeros for inputs."""
    request = version.compiled.create_infer_request()
    for index in range(len(version.inputs)):
        np.asarray(request.get_input_tensor(index).data).reshape(-1).view(np.uint8).fill(0)
    request.infer(share_outputs=True)
    return request
