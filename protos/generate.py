# SPDX-License-Identifier: Apache-2.0
"""Write the Python code of the ``.proto`` files beside this script into the package, or check it.

    python protos/generate.py            write
    python protos/generate.py --check    compare only; exit 1 and name the files that differ

Needs ``grpcio-tools`` (protoc). The generated code is committed, so that neither a user nor the server does.

protoc derives a generated file's place and its imports from the path that a ``.proto`` file has in protoc's
eyes, so each file is shown to protoc below the package that receives it (``-I package=protos``); nothing has
to be patched afterwards. Two comments are added: the licence and, for stubs, what mypy has to overlook.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent

PACKAGES = {
    "ovms_mp/front/tfs/_proto": (
        "tensorflow_error.proto",
        "tensorflow_framework.proto",
        "tensorflow_serving.proto",
    ),
    "ovms_mp/front/kserve/_proto": ("kserve.proto",),
    "ovms_mp/front/health/_proto": ("grpc_health.proto",),
    "ovms_mp/front/reflection/_proto": ("grpc_reflection.proto", "grpc_reflection_v1alpha.proto"),
}
"""The ``.proto`` files by the package that receives their code."""

LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"
FIRST_LINES = {".py": LICENCE, ".pyi": LICENCE + "# mypy: disable-error-code=type-arg\n"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Generate the protobuf code of the package from protos/*.proto."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the committed code differs"
    )
    check = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as scratch:
        wanted = generated(Path(scratch))
    differing = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    surplus = [path for path in committed() if path not in wanted]
    if not check:
        for path in differing:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
        for path in surplus:
            path.unlink()
        sys.stdout.write(
            f"{len(differing)} of {len(wanted)} generated files written, {len(surplus)} removed\n"
        )
        return 0
    for path in differing:
        sys.stderr.write(f"{path.relative_to(ROOT)} is not what protoc makes of protos/\n")
    for path in surplus:
        sys.stderr.write(f"{path.relative_to(ROOT)} has no .proto file any more\n")
    if differing or surplus:
        sys.stderr.write(
            f"Run `python protos/generate.py` and commit the result. protoc here is of grpcio-tools "
            f"{version('grpcio-tools')}; another release of it writes other code, so CI pins it.\n"
        )
        return 1
    return 0


def generated(scratch: Path) -> dict[Path, str]:
    """What protoc makes of the ``.proto`` files, by the path in the package where each file belongs.

    Args:
        scratch: An empty directory for protoc's output.

    Raises:
        SystemExit: protoc refuses a file; its own message is on stderr.
    """
    mappings = [f"-I{package}={PROTOS}" for package in PACKAGES]
    outputs = [f"--python_out={scratch}", f"--pyi_out={scratch}"]
    files = [f"{package}/{name}" for package, names in PACKAGES.items() for name in names]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", *mappings, *outputs, *files]
    if subprocess.run(protoc, cwd=ROOT, check=False).returncode != 0:
        raise SystemExit("protoc failed; its message is above")
    return {
        ROOT / path.relative_to(scratch): FIRST_LINES[path.suffix] + path.read_text()
        for path in sorted(scratch.rglob("*_pb2.py*"))
    }


def committed() -> list[Path]:
    """The generated files that are in the package now."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).glob("*_pb2*.py*"))]


if __name__ == "__main__":
    sys.exit(main())
