# SPDX-License-Identifier: Apache-2.0
"""A version as the worker's loop sees it: what runs its tasks, and that nothing of that outlives it."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

from ovms_mp.worker.load.compiled import CompiledVersion
from ovms_mp.worker.run.queues import VersionQueue
from ovms_mp.worker.run.served import ServedVersion

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def compiled() -> CompiledVersion:
    x = ops.parameter([1], np.float32)
    model = ov.Model([ops.result(ops.add(x, np.float32(1)))], [x], "add_one")
    return CompiledVersion(ov.Core().compile_model(model, "CPU"), ("x",), ("y",), 1)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_infer_requests_end_with_their_version_and_wait_for_no_collector(compiled: CompiledVersion) -> None:
    version = ServedVersion(1, "m version 1", VersionQueue(1, 1))
    version.equip(compiled, 0.0)
    assert version.free_pool() is version.pool is not None
    pool = weakref.ref(version.pool)

    assert version.unequip() is compiled
    assert (pool(), version.free_pool(), version.unequip()) == (None, None, None)
