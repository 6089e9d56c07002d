# SPDX-License-Identifier: Apache-2.0
"""Model files that point to what is not theirs, or expand without end: refused, or read as what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.worker.load.memory_references import refuse_memory_references

OUTSIDE = "which is outside the base directory"
MEMORY = "a tensor's external data is a memory address"
OTHER_FORMAT = "it is not a valid"
READ = {
    "own": "[0, 1, 2, 3]",
    "kubernetes": "[0, 1, 2, 3]",
    "plain": "plain [0, 1, 2, 3]",
    # The parser knows no entities and includes nothing: what is written is a name like any other.
    "entity": "&e; [0, 1, 2, 3]",
    "laughs": "&a9; [0, 1, 2, 3]",
    "include": "plain [0, 1, 2, 3]",
}
REFUSED = {
    "parent": OUTSIDE,
    "absolute": OUTSIDE,
    "through": OUTSIDE,
    "passwd": OUTSIDE,
    "endless": OUTSIDE,
    "link": OUTSIDE,
    "beyond": "own.bin, offset: 1099511627776",
    "memory": MEMORY,
    "memory as pb": MEMORY,
    "memory as pdmodel": MEMORY,
    "memory as tflite": OTHER_FORMAT,
    "memory as xml": OTHER_FORMAT,
    "offset": "Incorrect weights in bin file",
    "negative offset": "-16",
    "wide offset": "model.xml",
    "long": "model.xml",
}
NAME = b"*/_ORT_MEM_ADDR_/*"
PIECE = 1 << 20


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each file, all read by one process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile_child", str(tmp_path_factory.mktemp("hostile"))],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_every_file_is_expected(outcomes: dict[str, str]) -> None:
    assert outcomes.keys() == READ.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_what_it_is(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name].endswith(READ[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_wants_more_is_refused(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name].startswith("ModelLoadFailed: cannot read ")
    assert REFUSED[name] in outcomes[name]


@pytest.mark.parametrize("at", [0, 1, PIECE - 1, PIECE - len(NAME), PIECE - len(NAME) + 1, 2 * PIECE - 5])
def test_the_name_of_memory_is_found_anywhere(tmp_path: Path, at: int) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(at) + NAME + bytes(30))

    with pytest.raises(ModelLoadFailed, match="memory address"):
        refuse_memory_references(str(file))


@pytest.mark.parametrize("content", [b"", NAME[:-1], bytes(2 * PIECE)])
def test_other_content_is_not_for_this_rule(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    refuse_memory_references(str(file))
    refuse_memory_references(str(tmp_path))
