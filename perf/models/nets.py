# SPDX-License-Identifier: Apache-2.0
"""The models whose shapes or size are the point; a child process builds them (``net_builder.py``)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from perf.models.declared import Float32Array, ModelSpec
from perf.processes.child import module_argv, run_for_output

_BUILD_TIMEOUT_S = 180.0
BALLAST_WIDTH = 2560


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A model of one float32 input ``x`` and one float32 output ``y``.

    Attributes:
        shapes: Of the input; the model is stored with the first.
        tolerance: Greatest accepted distance of an output's value from the expected one, relative to the largest of
            the expected ones; see :class:`perf.models.declared.ModelSpec`.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    tolerance: float

    def spec(self, index: int) -> ModelSpec:
        """The signature for one of the shapes; its outputs are not looked at."""
        return ModelSpec(
            name=self.name,
            input_name="x",
            input_shape=self.shapes[index],
            output_name="y",
            output_shape=(),
            tolerance=self.tolerance,
        )


_IMAGES = tuple((1, 3, size, size) for size in range(96, 160, 8))

NETS = MappingProxyType(
    {
        "convnet": Net(name="convnet", shapes=_IMAGES, tolerance=0.02),
        "binarynet": Net(name="binarynet", shapes=_IMAGES, tolerance=0.02),
        "sizes": Net(name="sizes", shapes=tuple((1, size) for size in range(10, 18)), tolerance=0.0),
        "ballast": Net(name="ballast", shapes=((1, BALLAST_WIDTH),), tolerance=0.02),
    }
)


def load_references(path: Path) -> list[tuple[Float32Array, Float32Array]]:
    """Input and expected output for each shape."""
    with np.load(path) as arrays:
        return [
            (arrays[f"inputs_{index}"], arrays[f"expected_{index}"])
            for index in range(len(arrays.files) // 2)
        ]


def is_right(net: Net, output: Float32Array, expected: Float32Array) -> bool:
    """Whether an answer's tensor is the one that its request must have."""
    if output.shape != expected.shape:
        return False
    return bool(np.abs(output - expected).max() <= net.tolerance * np.abs(expected).max())


def build_nets(root: Path, names: Collection[str]) -> None:
    """Build nets and their references below ``root``.

    Raises:
        ChildFailed: The builder failed.
    """
    run_for_output(
        module_argv("perf.models.net_builder", "--root", str(root), *sorted(names)), _BUILD_TIMEOUT_S
    )
