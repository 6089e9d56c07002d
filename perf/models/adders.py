# SPDX-License-Identifier: Apache-2.0
"""Versions of ``tiny`` whose version N answers x + N, so that every answer tells which version gave it."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from perf.models.declared import MODELS, Float32Array, ModelFiles, ModelSpec


@dataclass(frozen=True, slots=True)
class Adder:
    """A model of such versions.

    Attributes:
        tiny: The built model that versions are copies of.
        base_path: Holds the version directories; its parent must be on the same file system and not be watched.
    """

    tiny: ModelFiles
    base_path: Path

    @property
    def spec(self) -> ModelSpec:
        """Its signature: tiny's, under the name of the directory."""
        return dataclasses.replace(MODELS["tiny"], name=self.base_path.name)

    def install(self, version: int) -> None:
        """Add a version; the directory appears complete, by a rename."""
        half_done = self._hidden(version)
        half_done.mkdir(parents=True)
        original = self.tiny.version_path
        shutil.copyfile(original / "model.xml", half_done / "model.xml")
        (half_done / "model.bin").write_bytes(_weights(original / "model.bin", version))
        self.base_path.mkdir(exist_ok=True)
        self.restore(version)

    def hide(self, version: int) -> None:
        """Take a version away."""
        self._directory(version).rename(self._hidden(version))

    def restore(self, version: int) -> None:
        """Bring a hidden version back."""
        self._hidden(version).rename(self._directory(version))

    def remove(self, version: int) -> None:
        """Delete a version's files."""
        shutil.rmtree(self._directory(version))

    def newest(self) -> int:
        """The highest version on disk."""
        return max(int(entry.name) for entry in self.base_path.iterdir())

    def _directory(self, version: int) -> Path:
        return self.base_path / str(version)

    def _hidden(self, version: int) -> Path:
        return self.base_path.parent / f".{self.base_path.name}-{version}"


def answering_version(asked: Float32Array, answer: npt.NDArray[Any]) -> int:
    """The version that an answer's values tell; 0 where they are nobody's."""
    if answer.shape != asked.shape:
        return 0
    version = int(answer.ravel()[0] - asked.ravel()[0])
    return version if version > 0 and np.array_equal(answer, asked + np.float32(version)) else 0


def _weights(tiny_weights: Path, addend: int) -> bytes:
    """The weights of ``tiny``, which adds 1, with another addend.

    Raises:
        ValueError: Tiny is not what it was.
    """
    one, other = np.float32(1).tobytes(), np.float32(addend).tobytes()
    weights = tiny_weights.read_bytes()
    if weights.count(one) != 1:
        raise ValueError(f"{tiny_weights} has {weights.count(one)} ones, not 1: which is the addend?")
    return weights.replace(one, other)
