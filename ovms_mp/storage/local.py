# SPDX-License-Identifier: Apache-2.0
"""Local model directories: which versions are there, and which file of each OpenVINO is to read."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_VERSION_NAME = re.compile(r"[1-9][0-9]{0,18}")
_MAX_VERSION = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Listing:
    """What a base path holds at one moment.

    Attributes:
        model_files: File to read, by version.
        problems: Why something there is no version, by its name; for the log.
        exists: Whether the base path is a directory at all.
        is_certain: False when something could not be looked at, so that what is missing here may still be there.
    """

    model_files: dict[int, Path]
    problems: dict[str, str]
    exists: bool
    is_certain: bool = True


def list_versions(base_path: Path) -> Listing:
    """Look at ``base_path/1``, ``base_path/2``, ...; symbolic links are followed."""
    try:
        entries = sorted(base_path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return Listing({}, {}, exists=False)
    except OSError as error:
        problem = {str(base_path): f"cannot be listed: {error.strerror}"}
        return Listing({}, problem, exists=True, is_certain=False)
    files: dict[int, Path] = {}
    problems: dict[str, str] = {}
    is_certain = True
    for entry in entries:
        try:
            problem_text = _look_at(entry, files)
        except OSError as error:
            problem_text = f"cannot be listed: {error.strerror}"
            is_certain = False
        if problem_text:
            problems[entry.name] = problem_text
    return Listing(files, problems, exists=True, is_certain=is_certain)


def _look_at(entry: Path, files: dict[int, Path]) -> str:
    """Note the version that an entry is, or say why it is none; empty where nobody would expect one."""
    # Not Path.is_dir(), which takes an entry that cannot be looked at for one that is not there.
    try:
        is_directory = stat.S_ISDIR(entry.stat().st_mode)
    except FileNotFoundError:
        return ""
    is_version = _VERSION_NAME.fullmatch(entry.name) is not None and int(entry.name) <= _MAX_VERSION
    if not is_directory or entry.name.startswith("."):
        return ""
    if not is_version:
        return "is no version: names of version directories are positive integers"
    found = find_model_file(entry)
    if found is None:
        return "holds no model: a NAME.xml with its NAME.bin, or a NAME.onnx, is expected"
    files[int(entry.name)] = found
    return ""


def find_model_file(directory: Path) -> Path | None:
    """The file to read in a version directory: OpenVINO IR first, then ONNX; None when there is neither.

    Raises:
        OSError: The directory cannot be listed.
    """
    names = {entry.name: entry for entry in directory.iterdir() if entry.is_file()}
    for name in sorted(names):
        if name.endswith(".xml") and f"{name[:-4]}.bin" in names:
            return names[name]
    for name in sorted(names):
        if name.endswith(".onnx"):
            return names[name]
    return None
