# SPDX-License-Identifier: Apache-2.0
"""Train the demo's model and write it with its held-out digits: ``python -m ovms_mp.demo.train``.

A developer's tool; it needs the ``train`` extra and no server runs it. The weights are scikit-learn's, the
graph is built by hand from OpenVINO operations, so that the shipped IR is small and every node of it is
known. Seeds and split are fixed: a run on the same packages and processor gives the same files (another BLAS
may add in another order).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.codes import ExitCode
from ovms_mp.demo.digits import (
    CLASSES,
    FULL_INK,
    HELD_OUT_FILE,
    IMAGE_SHAPE,
    INPUT_NAME,
    MODEL_NAME,
    OUTPUT_NAME,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SEED = 0
_HELD_OUT_SHARE = 0.25
# Four-fold cross-validation on the training part alone: 0.980, against 0.970 for (128, 64).
_HIDDEN = (256, 128)
_WEIGHT_DECAY = 1e-3
_EPOCHS = 60
_SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
"""The digit in the middle and one pixel to each side: five images from one."""
_LEAST_ACCURACY = 0.97
_INACCURATE = 1
_PIXELS = IMAGE_SHAPE[0] * IMAGE_SHAPE[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The set's two parts.

    Attributes:
        images: Training images, shape (N, 8, 8), pixels 0 to 16.
        labels: Their digits, shape (N,).
        held_out_images: As ``images``, never trained on.
        held_out_labels: As ``labels``.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A dense layer: ``x @ weights + bias``, weights of shape (inputs, outputs)."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def load_split() -> Split:
    """Take scikit-learn's digits apart, each digit in the same proportion on both sides."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]  # no py.typed
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped,unused-ignore]

    digits = load_digits()
    images, held_out_images, labels, held_out_labels = train_test_split(
        digits.images.astype(np.float32),
        digits.target.astype(np.int64),
        test_size=_HELD_OUT_SHARE,
        stratify=digits.target,
        random_state=_SEED,
    )
    return Split(
        images=images, labels=labels, held_out_images=held_out_images, held_out_labels=held_out_labels
    )


def shifted(images: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    """The images moved by at most one pixel each way; what enters at an edge is empty."""
    rows, columns = IMAGE_SHAPE
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - down : 1 - down + rows, 1 - right : 1 - right + columns]


def train(split: Split) -> list[Layer]:
    """Fit the network on the training part and its shifted copies."""
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped,unused-ignore]

    images = np.concatenate([shifted(split.images, down, right) for down, right in _SHIFTS])
    network = MLPClassifier(_HIDDEN, alpha=_WEIGHT_DECAY, max_iter=_EPOCHS, random_state=_SEED)
    # ``partial_fit`` is one epoch; ``fit`` would warn that it stopped at its bound, which is what we want.
    features = images.reshape(-1, _PIXELS) / FULL_INK
    labels = np.tile(split.labels, len(_SHIFTS))
    for epoch in range(1, _EPOCHS + 1):
        network.partial_fit(features, labels, classes=np.arange(CLASSES))
        if epoch % 10 == 0:
            _say(f"epoch {epoch} of {_EPOCHS}: loss {network.loss_:.4f}")
    return [
        Layer(weights=weights.astype(np.float32), bias=bias.astype(np.float32))
        for weights, bias in zip(network.coefs_, network.intercepts_, strict=True)
    ]


def save_ir(layers: Sequence[Layer], path: Path) -> None:
    """Build the graph and write it as OpenVINO IR, in FP32.

    Args:
        layers: From input to output; ReLU between them, softmax after the last.
        path: The ``.xml`` file; the weights go to the ``.bin`` file beside it.
    """
    import openvino as ov  # type: ignore[import-untyped,unused-ignore]  # no py.typed
    from openvino import opset13 as ops  # type: ignore[import-untyped,unused-ignore]

    image = ops.parameter(ov.PartialShape([-1, *IMAGE_SHAPE]), ov.Type.f32, name=INPUT_NAME)
    image.output(0).set_names({INPUT_NAME})
    # A zero in the target shape keeps the batch dimension.
    flat = ops.reshape(image, np.array([0, _PIXELS], dtype=np.int64), special_zero=True)
    values = ops.multiply(flat, np.float32(1 / FULL_INK))
    for number, layer in enumerate(layers):
        if number:
            values = ops.relu(values)
        values = ops.add(ops.matmul(values, layer.weights, False, False), layer.bias)
    probabilities = ops.softmax(values, axis=1, name=OUTPUT_NAME)
    probabilities.output(0).set_names({OUTPUT_NAME})
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(ov.Model([probabilities], [image], MODEL_NAME), path, compress_to_fp16=False)


def measure_accuracy(path: Path, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Run a saved IR on the CPU; the share of images whose likeliest digit is the label."""
    import openvino as ov  # type: ignore[import-untyped,unused-ignore]

    compiled = ov.Core().compile_model(path, "CPU")
    probabilities = compiled({INPUT_NAME: images})[OUTPUT_NAME]
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, save, measure what was saved."""
    parser = argparse.ArgumentParser(
        prog="python -m ovms_mp.demo.train", description="Train the demo's model."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="where to write the model and the held-out digits (default: the package itself)",
    )
    output: Path = parser.parse_args(arguments).output
    try:
        split = load_split()
        # Say that it is missing before the training, not after it.
        import openvino  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
    except ImportError as error:
        sys.stderr.write(
            f"Training needs scikit-learn and openvino: pip install 'ovms_mp[train]' ({error})\n"
        )
        return ExitCode.USAGE

    _say(f"{len(split.images)} digits to train on, {len(split.held_out_images)} held out")
    layers = train(split)
    path = output / "models" / MODEL_NAME / "1" / "model.xml"
    save_ir(layers, path)
    size_bytes = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    _say(f"wrote {path} and its .bin, {size_bytes} bytes together")

    # Pixels and labels are small whole numbers.
    np.savez_compressed(
        output / HELD_OUT_FILE,
        images=split.held_out_images.astype(np.uint8),
        labels=split.held_out_labels.astype(np.uint8),
    )
    _say(f"wrote {output / HELD_OUT_FILE}")

    accuracy = measure_accuracy(path, split.held_out_images, split.held_out_labels)
    _say(f"accuracy of the saved model on the held-out digits: {accuracy:.4f}")
    if accuracy < _LEAST_ACCURACY:
        sys.stderr.write(f"That is less than {_LEAST_ACCURACY}; do not ship this model.\n")
        return _INACCURATE
    return ExitCode.CLEAN


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
