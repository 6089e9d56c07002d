# SPDX-License-Identifier: Apache-2.0
"""A version as the worker's loop sees it: what runs its tasks does not outlive it."""

from __future__ import annotations

import subprocess
import sys

from ovms_mp.worker.run.demand import Form
from ovms_mp.worker.run.queues import VersionQueue
from ovms_mp.worker.run.served import ServedVersion

ENDS = """
import gc, weakref
import numpy as np, openvino as ov, openvino.opset13 as ops
from ovms_mp.worker.load.compiled import CompiledVersion
from ovms_mp.worker.run.queues import VersionQueue
from ovms_mp.worker.run.served import ServedVersion
x = ops.parameter([1], np.float32)
model = ov.Model([ops.result(ops.add(x, np.float32(1)))], [x], "add_one")
compiled = CompiledVersion(ov.Core().compile_model(model, "CPU"), ("x",), ("y",), 1)
gc.disable()
version = ServedVersion(1, "m version 1", VersionQueue(1, 1))
version.equip(compiled, 0.0)
print(version.free_pool() is version.pool is not None)
pool = weakref.ref(version.pool)
print(version.unequip() is compiled, pool(), version.free_pool(), version.unequip())
"""


def test_infer_requests_end_with_their_version_and_wait_for_no_collector() -> None:
    """In a process of its own, as it makes OpenVINO's threads."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stderr, done.stdout.split()) == ("", ["True", "True", "None", "None", "None"])


def test_what_a_run_of_another_form_takes_is_for_one_task() -> None:
    """The form before had batches; a task would seem to take an eighth of its time."""
    version = ServedVersion(1, "m version 1", VersionQueue(1, 1), run_time_s=0.008, batch_size=8.0)
    version.use(None, Form.PARALLEL, 0.002)

    assert version.run_time_s / version.batch_size == 0.002
