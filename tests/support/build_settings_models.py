# SPDX-License-Identifier: Apache-2.0
"""Builds models of the settings table that the zoo lacks: ``python -m tests.support.build_settings_models ROOT``.

A process of its own, see :mod:`tests.support.models`.

image: ``x`` f32 [1,3,4,6] -> ``y`` = x times 1, 10, 100 by channel. gray: ``x`` f32 [1,1,4,6] -> ``y`` = x.
folded: ``x`` f32 [1,4,2] -> ``y`` f32 [1,8], the same values; no other number of values fits.
recurrent: ``x`` f32 [1,5,4] -> ``y`` = x; cannot be compiled with dynamic dimensions.
rankless: ``x`` f32 of any rank -> ``y`` = x + 1. weightless: ``x`` f32 [1,10] -> ``y`` = max(x, 0), without a ``.bin``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as ops


def main() -> None:
    """Build everything below the directory of the first argument."""
    root = Path(sys.argv[1])
    for name, model in {
        "image": _image(),
        "gray": _scaled("gray", [1, 1, 4, 6], np.float32(1)),
        "folded": _folded(),
        "recurrent": _recurrent(),
        "rankless": _rankless(),
        "weightless": _weightless(),
    }.items():
        directory = root / name / "1"
        directory.mkdir(parents=True)
        ov.save_model(model, directory / "model.xml", compress_to_fp16=False)
    (root / "weightless" / "1" / "model.bin").unlink()


def _model(name: str, x: ov.Node, y: ov.Node) -> ov.Model:
    result = ops.result(y)
    x.output(0).set_names({"x"})
    result.output(0).set_names({"y"})
    return ov.Model([result], [x], name)


def _parameter(shape: ov.PartialShape | list[int]) -> ov.Node:
    return ops.parameter(ov.PartialShape(shape), ov.Type.f32, name="x")


def _scaled(name: str, shape: list[int], factors: object) -> ov.Model:
    x = _parameter(shape)
    return _model(name, x, ops.multiply(x, factors))


def _image() -> ov.Model:
    return _scaled("image", [1, 3, 4, 6], np.array([1, 10, 100], np.float32).reshape(1, 3, 1, 1))


def _folded() -> ov.Model:
    x = _parameter([1, 4, 2])
    return _model("folded", x, ops.add(ops.reshape(x, np.array([1, 8]), False), np.float32(0)))


def _recurrent() -> ov.Model:
    """With weights of zero the recurrent part is zero; OpenVINO cannot know that."""
    x = _parameter([1, 5, 4])
    state = np.zeros((1, 1, 4), np.float32)
    weights, recurrence = np.zeros((1, 16, 4), np.float32), np.zeros((1, 16, 4), np.float32)
    lengths = np.array([5])
    sequence = ops.lstm_sequence(
        x, state, state, lengths, weights, recurrence, np.zeros((1, 16), np.float32), 4, "forward"
    )
    return _model("recurrent", x, ops.add(x, ops.squeeze(sequence.output(0), np.array([1]))))


def _rankless() -> ov.Model:
    x = _parameter(ov.PartialShape.dynamic())
    return _model("rankless", x, ops.add(x, np.float32(1)))


def _weightless() -> ov.Model:
    x = _parameter([1, 10])
    return _model("weightless", x, ops.relu(x))


if __name__ == "__main__":
    main()
