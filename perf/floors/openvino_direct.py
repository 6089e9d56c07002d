# SPDX-License-Identifier: Apache-2.0
"""Floor of inference: OpenVINO called directly in one process, with input tensors that are set once.

``sync``: one infer request, one ``infer()`` after another. ``async``: as many in flight as the compiled model
finds optimal. Neither OpenVINO's affinity nor its thread count is touched beyond the given properties.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

# NOTE: OpenVINO ships no types; taken this way it is Any under every mypy configuration.
ov: Any = importlib.import_module("openvino")

_MOST_CALLS = 1_000_000


def _compile(model: Path, properties: dict[str, object]) -> Any:
    return ov.Core().compile_model(str(model), "CPU", properties)


def measure_sync(
    model: Path, properties: dict[str, object], image: npt.NDArray[Any], seconds: float
) -> dict[str, float]:
    """Latencies of a single request."""
    request = _compile(model, properties).create_infer_request()
    request.set_input_tensor(ov.Tensor(image))
    for _ in range(3):
        request.infer(share_outputs=True)
    times_ms: list[float] = []
    started_s = time.perf_counter()
    before_s = started_s
    while before_s - started_s < seconds and len(times_ms) < _MOST_CALLS:
        request.infer(share_outputs=True)
        after_s = time.perf_counter()
        times_ms.append((after_s - before_s) * 1000)
        before_s = after_s
    ordered = sorted(times_ms)
    return {
        "requests": float(len(ordered)),
        "seconds": before_s - started_s,
        "mean_ms": sum(ordered) / len(ordered),
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[int(len(ordered) * 0.99)],
    }


def measure_async(
    model: Path, properties: dict[str, object], image: npt.NDArray[Any], seconds: float
) -> dict[str, float]:
    """Throughput of an AsyncInferQueue, its drain included."""
    queue = ov.AsyncInferQueue(_compile(model, properties))
    for request in queue:
        request.set_input_tensor(ov.Tensor(image.copy()))
    for _ in range(2 * len(queue)):
        queue.start_async()
    queue.wait_all()
    count = 0
    started_s = time.perf_counter()
    while time.perf_counter() - started_s < seconds and count < _MOST_CALLS:
        queue.start_async()
        count += 1
    queue.wait_all()
    elapsed_s = time.perf_counter() - started_s
    return {"requests": float(count), "seconds": elapsed_s, "in_flight": float(len(queue))}


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="version directory with model.xml")
    parser.add_argument("--reference", type=Path, required=True, help="the .npz of perf.models.model_builder")
    parser.add_argument("--mode", choices=("sync", "async"), required=True)
    parser.add_argument("--plugin-config", default="{}", help="JSON object of OpenVINO properties")
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    with np.load(arguments.reference) as reference:
        image = np.ascontiguousarray(reference["inputs"][0])
    measure = measure_sync if arguments.mode == "sync" else measure_async
    properties: dict[str, object] = orjson.loads(arguments.plugin_config)
    figures = measure(arguments.model / "model.xml", properties, image, arguments.seconds)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


if __name__ == "__main__":
    main()
