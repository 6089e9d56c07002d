# SPDX-License-Identifier: Apache-2.0
"""`ovms_mp demo --export`: the demo's model and requests for it as files, to try the server's commands with."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.demo import digits
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

REQUEST_FILE = "digit.json"
KSERVE_REQUEST_FILE = "digit-v2.json"
# A 2, which the model reads rightly.
_DIGIT = 0


def export(directory: Path) -> list[Path]:
    """Write the model with its version directory, and bodies of REST requests, each with the same digit.

    Args:
        directory: Made if it is missing. What is there already is left alone.

    Returns:
        The files, in the order of their names.

    Raises:
        ConfigError: A file or directory of that name is there, or cannot be written.
    """
    base = directory / digits.MODEL_NAME
    requests = {
        directory / KSERVE_REQUEST_FILE: kserve_request_body,
        directory / REQUEST_FILE: request_body,
    }
    for path in (base, *requests):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"--export {directory}: {path} exists; remove it or name another directory")
    images, _ = digits.load_held_out()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copytree(digits.model_directory(), base, copy_function=shutil.copyfile)
        for path, body_of in requests.items():
            path.write_text(body_of(images[_DIGIT]))
    except OSError as error:
        raise ConfigError(
            f"--export {directory}: cannot write {error.filename or directory}: {error.strerror}"
        ) from error
    return sorted(path for path in (*base.rglob("*"), *requests) if path.is_file())


def request_body(image: NDArray[np.float32]) -> str:
    """The row form of a predict request, one row of pixels a line."""
    return '{"instances": [' + _rows(image) + "]}\n"


def kserve_request_body(image: NDArray[np.float32]) -> str:
    """KServe's form of the same."""
    shape = [1, *image.shape]
    return (
        f'{{"inputs": [{{"name": "{digits.INPUT_NAME}", "datatype": "FP32", "shape": {shape}, "data": ['
        + _rows(image)
        + "]}]}\n"
    )


def _rows(image: NDArray[np.float32]) -> str:
    rows = [json.dumps(row) for row in np.rint(image).astype(int).tolist()]
    return "[\n  " + ",\n  ".join(rows) + "\n]"
