# SPDX-License-Identifier: Apache-2.0
"""Build the distribution ``ovms_mp_client``: the client alone, which needs nothing but NumPy.

    python deploy/client/build.py DIRECTORY

It has modules of the package ``ovms_mp``, so a place has either this or the whole server.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = (
    "__init__.py",
    "py.typed",
    "codes.py",
    "client_regions.py",
    "client",
    "front/__init__.py",
    "front/tfs/__init__.py",
    "front/tfs/_proto",
)
"""All that the client imports; of ``front`` the messages of TensorFlow Serving, which need protobuf."""


def build(destination: Path) -> Path:
    """Build a wheel.

    Args:
        destination: Directory that it is put into.
    """
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        shutil.copy(Path(__file__).with_name("pyproject.toml"), tree)
        for name in ("ovms_mp/docs/CLIENT.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        for name in MODULES:
            source, target = ROOT / "ovms_mp" / name, tree / "ovms_mp" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
        subprocess.run([*command, "--wheel-dir", str(destination), str(tree)], check=True)
    (wheel,) = destination.glob("ovms_mp_client-*.whl")
    return wheel


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))  # noqa: T201  # what a command answers
