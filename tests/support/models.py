# SPDX-License-Identifier: Apache-2.0
"""Real models for the tests, built by a process of its own: the test process holds grpc and never imports openvino."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovms_mp.model.dtypes import AnyArray

_CHECKOUT = Path(__file__).parents[2]

DTYPES = (
    "boolean", "u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64",
    "f16", "bf16", "f32", "f64", "f8e4m3", "f8e5m2",
)  # fmt: skip

DTYPES_OF_64_BITS = ("u64", "i64", "f64")


@dataclass(frozen=True)
class ModelZoo:
    """Base paths of models, by name.

    tiny: ``x`` f32 [1,10] -> ``y`` = x + 1; onnx_tiny: the same as ONNX; plus_two: with 2 in place of 1.
    id_DTYPE: ``x`` [-1] -> ``y`` = x, but called ``x`` too where a dtype has 64 bits.
    pair: ``a`` f32 [2,3], ``b`` i64 [2,3] -> ``sum`` f32 = a + b, ``product`` f32 = a * b.
    batch: ``x`` f32 [-1,4] -> ``y`` = 2x. range: ``x`` f32 [2..4,3] -> ``y`` = x.
    nonzero: ``x`` f32 [-1] -> ``places`` i64 [1,-1]. scalar: ``x`` f32 [] -> ``y`` = x + 1.
    sum: ``a``, ``b`` f32 [-1] -> ``sum``; the engine raises where their lengths differ and neither is 1.
    labelled: tiny with a type and labels in its ``rt_info``.
    slow: ``x`` f32 [1] -> ``y``, about half a second of one core a run.
    """

    root: Path

    def base_path(self, name: str) -> Path:
        """The directory that holds ``1/``."""
        return self.root / name

    def install(self, name: str, base_path: Path, version: int) -> Path:
        """Make the zoo's model a version below another base path; it appears there at once, by a rename."""
        base_path.mkdir(parents=True, exist_ok=True)
        half_done = base_path.parent / f".{base_path.name}-{version}"
        shutil.copytree(self.base_path(name) / "1", half_done)
        return half_done.rename(base_path / str(version))

    def config_file(self, directory: Path, names: list[str], **settings: object) -> Path:
        """A configuration file that serves these models, all with the same further settings."""
        entries = [
            {"config": {"name": name, "base_path": str(self.base_path(name)), **settings}} for name in names
        ]
        path = directory / "config.json"
        path.write_text(json.dumps({"model_config_list": entries}))
        return path

    def infer(self, name: str, inputs: Mapping[str, AnyArray], directory: Path) -> dict[str, AnyArray]:
        """What OpenVINO itself answers, called directly in a process of its own."""
        return infer_directly(self.base_path(name) / "1" / "model.xml", inputs, directory)


def infer_directly(model_file: Path, inputs: Mapping[str, AnyArray], directory: Path) -> dict[str, AnyArray]:
    """What OpenVINO itself answers for a model file, called directly in a process of its own."""
    given, answered = directory / "inputs.npz", directory / "outputs.npz"
    np.savez(given, **{key: np.asarray(value) for key, value in inputs.items()})  # type: ignore[arg-type]  # keywords are arrays
    subprocess.run(
        [sys.executable, "-m", "tests.support.direct_infer", str(model_file), str(given), str(answered)],
        check=True,
        timeout=120,
    )
    with np.load(answered, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


class ModelCache:
    """Directories of models by what made them, for all test processes of a checkout and for later runs.

    Args:
        root: Where they are. ``pytest --cache-clear`` empties it.
    """

    _SOURCES = ("tests/support/build_*.py", "tests/support/random_graphs.py", "perf/models/model_builder.py")
    _LIBRARIES = ("numpy", "onnx", "openvino", "tensorflow")

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, module: str, *options: str) -> Path:
        """The directory that ``module`` fills, given as its last argument; nobody may change what is in it."""
        found = self._root / f"{module.rpartition('.')[2]}-{self._key(module, *options)}"
        with found.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not found.exists():
                half_done = found.with_suffix(".part")
                shutil.rmtree(half_done, ignore_errors=True)
                half_done.mkdir()
                command = [sys.executable, "-m", module, *options, str(half_done)]
                subprocess.run(command, check=True, timeout=300)
                half_done.rename(found)
        return found

    @classmethod
    def _key(cls, *names: str) -> str:
        digest = hashlib.sha256("\0".join(names).encode())
        for pattern in cls._SOURCES:
            for path in sorted(_CHECKOUT.glob(pattern)):
                digest.update(path.read_bytes())
        for library in cls._LIBRARIES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                digest.update(importlib.metadata.version(library).encode())
        return digest.hexdigest()[:16]
