# SPDX-License-Identifier: Apache-2.0
"""The models under test, and where their files are.

They are built by a child process (``model_builder.py``): the harness itself, and every client, stays free of
OpenVINO.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from perf.processes.child import module_argv, run_for_output

_BUILD_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model's signature.

    Attributes:
        input_name: Of its only input, float32 of ``input_shape``.
        tolerance: Greatest accepted distance of an output's value from the expected one. Tiny's inputs are
            small integers, exact in every precision; the others may run in bfloat16, which OpenVINO chooses
            by itself on CPUs that have it.
    """

    name: str
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    output_shape: tuple[int, ...]
    tolerance: float


MODELS = MappingProxyType(
    {
        "tiny": ModelSpec(
            name="tiny",
            input_name="x",
            input_shape=(1, 10),
            output_name="y",
            output_shape=(1, 10),
            tolerance=0.0,
        ),
        "payload": ModelSpec(
            name="payload",
            input_name="x",
            input_shape=(1, 3, 224, 224),
            output_name="mean",
            output_shape=(1, 3),
            tolerance=0.002,
        ),
        "mirror": ModelSpec(
            name="mirror",
            input_name="x",
            input_shape=(1, 3, 224, 224),
            output_name="y",
            output_shape=(1, 3, 224, 224),
            tolerance=0.01,
        ),
        "resnet50": ModelSpec(
            name="resnet50",
            input_name="image",
            input_shape=(1, 3, 224, 224),
            output_name="probabilities",
            output_shape=(1, 1000),
            tolerance=0.02,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files are below the run's directory."""

    root: Path
    name: str

    @property
    def base_path(self) -> Path:
        """Holds the version directories."""
        return self.root / "models" / self.name

    @property
    def version_path(self) -> Path:
        """Version 1: model.xml and model.bin."""
        return self.base_path / "1"

    @property
    def reference_path(self) -> Path:
        """``inputs`` (K, *input_shape) and ``expected`` (K, *output_shape)."""
        return self.root / "reference" / f"{self.name}.npz"


Float32Array = npt.NDArray[np.float32]


def load_reference(path: Path) -> tuple[Float32Array, Float32Array]:
    """Read inputs and the outputs that they must have."""
    with np.load(path) as arrays:
        return arrays["inputs"], arrays["expected"]


def is_expected(spec: ModelSpec, output: npt.NDArray[Any], expected: Float32Array) -> bool:
    """Whether an answer's tensor is the one that its request must have."""
    if output.shape != expected.shape:
        return False
    return bool(np.abs(output - expected).max() <= spec.tolerance)


def build_models(root: Path, names: Collection[str]) -> None:
    """Build models and their references below ``root``.

    Raises:
        ChildFailed: The builder failed.
    """
    run_for_output(
        module_argv("perf.models.model_builder", "--root", str(root), *sorted(names)), _BUILD_TIMEOUT_S
    )
