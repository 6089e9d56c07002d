# SPDX-License-Identifier: Apache-2.0
"""Floor of alternating shapes: a model called directly in one process, each request in the next shape.

``dynamic``: the dimensions in which the reference's inputs differ are dynamic. An AsyncInferQueue keeps as many
requests in flight as the compiled model finds optimal; inputs are set for each request, without a copy. ``static``: a
compiled model for each shape, one request of each in flight, begun and waited for in turn. Each shape has had its
round before time is taken.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from perf.models.declared import Float32Array
from perf.models.nets import load_references

# NOTE: OpenVINO ships no types; taken this way it is Any under every mypy configuration.
ov: Any = importlib.import_module("openvino")

_WARM_UP_S = 0.7
_MOST_CALLS = 1_000_000


class DynamicCalls:
    """One compiled model for all shapes."""

    def __init__(self, path: Path, inputs: list[Float32Array], properties: dict[str, object]) -> None:
        core = ov.Core()
        model = core.read_model(str(path))
        shapes = zip(*(image.shape for image in inputs), strict=True)
        model.reshape([sizes[0] if len(set(sizes)) == 1 else -1 for sizes in shapes])
        self._queue = ov.AsyncInferQueue(core.compile_model(model, "CPU", properties))
        self._turns = itertools.cycle([ov.Tensor(image, shared_memory=True) for image in inputs])

    def begin_next(self) -> None:
        """Begin a request, as soon as one is free."""
        self._queue.start_async({0: next(self._turns)}, share_inputs=True)

    def wait(self) -> None:
        """Wait for all requests."""
        self._queue.wait_all()


class StaticCalls:
    """A compiled model for each shape."""

    def __init__(self, path: Path, inputs: list[Float32Array], properties: dict[str, object]) -> None:
        core = ov.Core()
        self._requests = []
        for image in inputs:
            model = core.read_model(str(path))
            model.reshape(list(image.shape))
            request = core.compile_model(model, "CPU", properties).create_infer_request()
            request.set_input_tensor(ov.Tensor(image, shared_memory=True))
            self._requests.append(request)
        self._turns = itertools.cycle(self._requests)

    def begin_next(self) -> None:
        """Begin the next shape's request, as soon as its last one is done."""
        request = next(self._turns)
        request.wait()
        request.start_async()

    def wait(self) -> None:
        """Wait for all requests."""
        for request in self._requests:
            request.wait()


def _run(calls: DynamicCalls | StaticCalls, seconds: float) -> tuple[int, float]:
    """Requests, and seconds until the last of them is done."""
    count = 0
    started_s = time.perf_counter()
    while time.perf_counter() - started_s < seconds and count < _MOST_CALLS:
        calls.begin_next()
        count += 1
    calls.wait()
    return count, time.perf_counter() - started_s


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="version directory with model.xml")
    parser.add_argument("--reference", type=Path, required=True, help="the .npz of perf.models.net_builder")
    parser.add_argument("--mode", choices=("dynamic", "static"), default="dynamic")
    parser.add_argument("--plugin-config", default="{}", help="JSON object of OpenVINO properties")
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    inputs = [image for image, _ in load_references(arguments.reference)]
    properties: dict[str, object] = orjson.loads(arguments.plugin_config)
    make = DynamicCalls if arguments.mode == "dynamic" else StaticCalls
    calls = make(arguments.model / "model.xml", inputs, properties)
    _run(calls, _WARM_UP_S)
    count, elapsed_s = _run(calls, arguments.seconds)
    figures = {"requests": float(count), "seconds": elapsed_s}
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


if __name__ == "__main__":
    main()
