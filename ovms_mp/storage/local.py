# SPDX-License-Identifier: Apache-2.0
"""Local model directories: which versions are there, and which file of each OpenVINO is to read."""

from __future__ import annotations

import re
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
    """

    model_files: dict[int, Path]
    problems: dict[str, str]
    exists: bool


def list_versions(base_path: Path) -> Listing:
    """Look at ``base_path/1``, ``base_path/2``, ...; symbolic links are followed."""
    try:
        entries = sorted(base_path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return Listing({}, {}, exists=False)
    except OSError as error:
        return Listing({}, {str(base_path): f"cannot be listed: {error.strerror}"}, exists=True)
    files: dict[int, Path] = {}
    problems: dict[str, str] = {}
    for entry in entries:
        if not _VERSION_NAME.fullmatch(entry.name) or int(entry.name) > _MAX_VERSION:
            if entry.is_dir() and not entry.name.startswith("."):
                problems[entry.name] = "is no version: names of version directories are positive integers"
            continue
        if not entry.is_dir():
            continue
        try:
            found = find_model_file(entry)
        except OSError as error:
            problems[entry.name] = f"cannot be listed: {error.strerror}"
            continue
        if found is None:
            problems[entry.name] = "holds no model: a NAME.xml with its NAME.bin, or a NAME.onnx, is expected"
        else:
            files[int(entry.name)] = found
    return Listing(files, problems, exists=True)


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
