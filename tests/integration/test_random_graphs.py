# SPDX-License-Identifier: Apache-2.0
"""Random graphs, served by a real worker from shared memory, answer bit by bit as OpenVINO called directly.

The full run: ``python -m pytest tests/integration/test_random_graphs.py --graphs 10000``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.wire.allocator import aligned
from ovms_mp.wire.codec import encode
from ovms_mp.wire.messages import LoadModel, ModelStateChanged, UnloadModel
from ovms_mp.wire.records import TensorRef
from ovms_mp.wire.tasks import InferFailed, InferResult, InferTask
from tests.support.random_graphs import build_random_graphs
from tests.support.worker import WorkerUnderTest, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.models import ModelCache
    from tests.support.random_graphs import Call, Graph

CHUNK = 300
PATTERNS = 1
"""The handle of a model that fills its output with the byte it is given."""
REGION_BYTES = 256 << 10
PLACES = 3
"""Tasks of all graphs take the same few places in turns, as leases do."""


@dataclass
class Caller:
    """Sends tasks at places of its choice, one at a time."""

    worker: WorkerUnderTest
    count: int = 0

    def fill(self, place: int) -> None:
        """Have another model leave its answer where the next one's outputs go."""
        byte = np.array([0xA5 if self.count % 2 else 0x5A], np.uint8)
        self._send(PATTERNS, self._write(place, [((1,), byte.tobytes())]), (2 * place + 1) * REGION_BYTES)

    def difference(self, handle: int, call: Call) -> str:
        """How the served answer to a call differs from the engine's; empty if it does not."""
        self.count += 1
        place = self.count % PLACES
        self.fill(place)
        outputs = (2 * place + 1) * REGION_BYTES
        inputs = [(tensor.shape, tensor.content) for tensor in call.inputs]
        refs = self._write(place, inputs)
        before = self._outside(outputs)
        answer = self._send(handle, refs, outputs)
        if isinstance(answer, InferFailed):
            return f"{answer.error_name}: {answer.error_message} {answer.needed_nbytes}"
        for index, (ref, right) in enumerate(zip(answer.outputs, call.outputs, strict=True)):
            content = bytes(self.worker.arena.view(ref))
            if (ref.shape, content) != (right.shape, right.content):
                return (
                    f"output {index}: {ref.shape} {content[:32]!r}, not {right.shape} {right.content[:32]!r}"
                )
        return "" if self._outside(outputs) == before else "it wrote to others' places"

    def _outside(self, outputs: int) -> tuple[bytes, bytes]:
        """All places but the one of these outputs."""
        memory = self.worker.arena.memory
        return bytes(memory[:outputs]), bytes(memory[outputs + REGION_BYTES : 2 * PLACES * REGION_BYTES])

    def _write(self, place: int, inputs: list[tuple[tuple[int, ...], bytes]]) -> list[TensorRef]:
        offset, refs = 2 * place * REGION_BYTES, list[TensorRef]()
        for shape, content in inputs:
            refs.append(TensorRef(offset, len(content), shape))
            self.worker.arena.view(refs[-1])[:] = content
            offset += aligned(len(content))
        return refs

    def _send(self, handle: int, inputs: list[TensorRef], outputs: int) -> InferResult | InferFailed:
        task_id = 1 + len(self.worker.answers)
        task = InferTask(task_id, handle, tuple(inputs), outputs, REGION_BYTES, 0)
        self.worker.data.send(encode([task]))
        return self.worker.answer(task_id)


def differences(worker: WorkerUnderTest, graphs: list[Graph], caller: Caller) -> list[str]:
    """What is wrong with the served answers of these graphs."""
    found: list[str] = []
    served: list[tuple[int, Graph, str]] = []
    for handle, graph in enumerate(graphs, PATTERNS + 1):
        worker.tell(LoadModel(handle, f"graph-{graph.seed}", 1, graph.file, settings(), ""))
    for handle, graph in enumerate(graphs, PATTERNS + 1):
        state = worker.expect(ModelStateChanged)
        assert state.handle == handle
        if state.error is not None:
            found.append(f"seed {graph.seed} ({graph.story}): {state.error.message}")
        else:
            served.append((handle, graph, state.detail))
    for number in range(min(len(graph.calls) for graph in graphs)):
        for handle, graph, detail in served:
            if difference := caller.difference(handle, graph.calls[number]):
                found.append(f"seed {graph.seed} ({graph.story}), {detail}, call {number}: {difference}")
    for handle, _, _ in served:
        worker.tell(UnloadModel(handle))
    for _ in served:
        assert worker.expect(ModelStateChanged).error is None
    return found


@pytest.fixture(scope="module")
def worker(model_cache: ModelCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerUnderTest]:
    models = model_cache.get("tests.support.build_worker_models")
    with WorkerUnderTest(tmp_path_factory.mktemp("worker") / "log") as worker:
        assert worker.load(PATTERNS, models / "patterns" / "1" / "model.xml", settings()).error is None
        yield worker


def test_random_graphs_answer_as_the_engine_does(
    request: pytest.FixtureRequest, worker: WorkerUnderTest, tmp_path: Path
) -> None:
    count = request.config.getoption("--graphs")
    compared, found, caller = 0, list[str](), Caller(worker)
    for first in range(0, count, CHUNK):
        graphs = build_random_graphs(tmp_path / str(first), first, min(CHUNK, count - first))
        found += differences(worker, graphs, caller)
        compared += len(graphs)

    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:10])
    assert compared > 0.9 * count
