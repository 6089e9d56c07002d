# SPDX-License-Identifier: Apache-2.0
"""Program that builds the models under test as IR, with reference inputs and outputs.

Run in a process of its own.

ResNet-50 is the topology of https://arxiv.org/abs/1512.03385 (stride in the 3x3 convolution, as everybody
runs it) with random weights from a fixed seed: its arithmetic is the real one's, its opinions are not. Batch
normalization is folded to a scale and a shift for each channel, as in any converted model.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from perf.models.declared import MODELS, Float32Array, ModelFiles, ModelSpec

# NOTE: OpenVINO ships no types; taken this way it is Any under every mypy configuration.
ov: Any = importlib.import_module("openvino")
ops: Any = importlib.import_module("openvino.opset13")

_SEED = 20260101
_REFERENCES = MappingProxyType({"tiny": 16, "mirror": 4, "payload": 8, "resnet50": 4})
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, blocks and first stride of ResNet-50's four stages."""

_BRANCH_SCALE = 0.3
"""Scale after a block's last convolution; keeps sixteen additions from doubling the activations each time."""

_CLASSIFIER_SCALE = 3.0
"""Spreads the logits, so that two images have clearly different probabilities."""

_MIN_SEPARATION = 2.0
"""Two references differ by more tolerances, or a mixed-up answer would pass for a right one."""

Node = Any
"""openvino.Node, untyped."""


def _parameter(spec: ModelSpec) -> Node:
    node = ops.parameter(list(spec.input_shape), np.float32, name=spec.input_name)
    node.output(0).get_tensor().set_names({spec.input_name})
    return node


def _model(spec: ModelSpec, result: Node, parameter: Node) -> Any:
    result.output(0).get_tensor().set_names({spec.output_name})
    return ov.Model([result], [parameter], spec.name)


def build_tiny(spec: ModelSpec) -> Any:
    """Add one: what a request costs when inference costs nothing."""
    x = _parameter(spec)
    return _model(spec, ops.add(x, np.float32(1.0)), x)


def build_payload(spec: ModelSpec) -> Any:
    """Mean of each channel: 602 kB in, 12 bytes out."""
    x = _parameter(spec)
    return _model(spec, ops.reduce_mean(x, np.array([2, 3], dtype=np.int64), keep_dims=False), x)


def build_mirror(spec: ModelSpec) -> Any:
    """Add one to an image: 602 kB in, 602 kB out."""
    return build_tiny(spec)


class _ResNetBuilder:
    """ResNet-50 with weights drawn from one generator, in the order of the layers."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(_SEED)

    def build(self, spec: ModelSpec) -> Any:
        """The whole network, softmax included."""
        image = _parameter(spec)
        x = ops.relu(self._convolution(image, 3, 64, kernel=7, stride=2))
        x = ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
        channels = 64
        for width, blocks, stride in _STAGES:
            for block in range(blocks):
                x = self._bottleneck(x, channels, width, stride if block == 0 else 1)
                channels = 4 * width
        x = ops.reduce_mean(x, np.array([2, 3], dtype=np.int64), keep_dims=False)
        weights = self._normal((channels, 1000), _CLASSIFIER_SCALE / np.sqrt(channels))
        return _model(spec, ops.softmax(ops.matmul(x, weights, False, False), 1), image)

    def _bottleneck(self, x: Node, channels: int, width: int, stride: int) -> Node:
        y = ops.relu(self._convolution(x, channels, width, kernel=1, stride=1))
        y = ops.relu(self._convolution(y, width, width, kernel=3, stride=stride))
        y = self._convolution(y, width, 4 * width, kernel=1, stride=1, scale=_BRANCH_SCALE)
        if channels != 4 * width or stride != 1:
            x = self._convolution(x, channels, 4 * width, kernel=1, stride=stride)
        return ops.relu(ops.add(x, y))

    def _convolution(
        self, x: Node, channels: int, filters: int, *, kernel: int, stride: int, scale: float = 1.0
    ) -> Node:
        """Convolution with He's initialization (variance 2 / fan-in), then the folded normalization."""
        fan_in = channels * kernel * kernel
        weights = self._normal((filters, channels, kernel, kernel), np.sqrt(2.0 / fan_in))
        pad = [kernel // 2] * 2
        y = ops.convolution(x, weights, [stride, stride], pad, pad, [1, 1])
        scales = scale * self._random.uniform(0.9, 1.1, (1, filters, 1, 1)).astype(np.float32)
        shifts = self._normal((1, filters, 1, 1), 0.02)
        return ops.add(ops.multiply(y, scales.astype(np.float32)), shifts)

    def _normal(self, shape: tuple[int, ...], deviation: float) -> Float32Array:
        return self._random.normal(0.0, deviation, shape).astype(np.float32)


def reference_inputs(spec: ModelSpec) -> Float32Array:
    """Inputs, each with another answer."""
    count = _REFERENCES[spec.name]
    random = np.random.default_rng(_SEED)
    if spec.name == "tiny":
        # Integers up to 159: exact in bfloat16 too, so the answer is exact wherever it is computed.
        return np.arange(count * 10, dtype=np.float32).reshape(count, *spec.input_shape)
    # Noise in [0, 1), like pixels, times another factor for each channel and a stripe pattern of its own for
    # each image.
    images = random.random((count, *spec.input_shape), dtype=np.float32)
    factors = random.uniform(0.1, 1.0, (count, 1, 3, 1, 1)).astype(np.float32)
    rows = np.arange(spec.input_shape[2], dtype=np.float32)[:, None]
    periods = np.array([2.0 ** (index + 1) for index in range(count)], dtype=np.float32)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * rows[None] / periods[:, None, None])
    mixed = images * factors * stripes[:, None, None].astype(np.float32)
    return np.ascontiguousarray(mixed, dtype=np.float32)


def expected_outputs(spec: ModelSpec, model: Any, inputs: Float32Array) -> Float32Array:
    """What the model must answer; numpy knows two models, for ResNet-50 OpenVINO is its own witness."""
    if spec.name in ("tiny", "mirror"):
        return inputs + np.float32(1.0)
    if spec.name == "payload":
        means: Float32Array = inputs.mean(axis=(3, 4), dtype=np.float64).astype(np.float32)
        return means
    request = ov.Core().compile_model(model, "CPU").create_infer_request()
    outputs: list[Float32Array] = [np.array(request.infer([image])[0], dtype=np.float32) for image in inputs]
    return np.stack(outputs)


def check_separation(spec: ModelSpec, expected: Float32Array) -> None:
    """Refuse references that are not finite or too alike to tell apart."""
    if not np.isfinite(expected).all():
        raise ValueError(f"{spec.name}: the reference outputs are not finite")
    for first in range(len(expected)):
        for second in range(first):
            distance = np.abs(expected[first] - expected[second]).max()
            if distance <= _MIN_SEPARATION * spec.tolerance:
                raise ValueError(
                    f"{spec.name}: reference outputs {second} and {first} are too alike ({distance})"
                )


def build_resnet50(spec: ModelSpec) -> Any:
    """ResNet-50, softmax included."""
    return _ResNetBuilder().build(spec)


_BUILDERS: Mapping[str, Callable[[ModelSpec], Any]] = MappingProxyType(
    {"tiny": build_tiny, "payload": build_payload, "mirror": build_mirror, "resnet50": build_resnet50}
)


def main() -> None:
    """Build the named models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("names", nargs="+", choices=sorted(MODELS))
    arguments = parser.parse_args()
    for name in arguments.names:
        spec, files = MODELS[name], ModelFiles(arguments.root, name)
        model = _BUILDERS[name](spec)
        inputs = reference_inputs(spec)
        expected = expected_outputs(spec, model, inputs)
        check_separation(spec, expected)
        files.version_path.mkdir(parents=True, exist_ok=True)
        files.reference_path.parent.mkdir(parents=True, exist_ok=True)
        ov.save_model(model, str(files.version_path / "model.xml"), compress_to_fp16=False)
        np.savez(files.reference_path, inputs=inputs, expected=expected)


if __name__ == "__main__":
    main()
