# SPDX-License-Identifier: Apache-2.0
"""Local model directories: which versions are there, which file of each OpenVINO is to read, and what they look like.

A look only lists directories and asks for the state of entries. It opens no file, so nothing that lies there (a
FIFO, a device) can block it, and everything may change meanwhile: a directory that is not the same before and after is
looked at again.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ovms_mp.files import refusal
from ovms_mp.model.formats import (
    FORMATS_TEXT,
    SAVED_MODEL,
    companions,
    is_part_of,
    may_be_of_model,
    models_among,
    shown,
    unfinished_text,
    version_number,
)
from ovms_mp.storage.misplaced import directory_of_models_text, models_below
from ovms_mp.storage.tree import IS_NOTHING, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

ValueT = TypeVar("ValueT")

_TRIES = 3
_MAX_LOOKS = 100_000
"""Files and directories of all versions of a base path that are looked at."""

_NO_VERSION = "is not a version: names of version directories are positive integers"

Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Relative name, size in bytes, time of the last change of content in ns, and inode of each file, ordered by name."""


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """The files of a version at one moment.

    Attributes:
        model_file: What OpenVINO is to read: a file, or the directory that holds a ``saved_model.pb``.
        fingerprint: Changes with any change of its files that the file system tells of.
        changed_at: When its files were last changed in any way, in seconds of the wall clock of whoever keeps them.
        directory: Where they lie.
        device: Of the file system that ``directory`` is on; -1 where that is not known.
    """

    model_file: Path
    fingerprint: Fingerprint
    changed_at: float
    directory: Path = Path()
    device: int = -1


@dataclass(frozen=True, slots=True)
class Listing:
    """What a base path holds at one moment.

    Attributes:
        versions: Files of each version that holds a model, ascending.
        problems: Why something there is no version, or what is odd about one, by its name; for the log.
        exists: Whether there is anything at all.
        is_certain: False when something could not be looked at, so that what is missing here may still be there.
        is_reachable: False when that is because the system refused to; True when it only changed all the time.
    """

    versions: dict[int, VersionFiles] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    exists: bool = True
    is_certain: bool = True
    is_reachable: bool = True

    @property
    def model_files(self) -> dict[int, Path]:
        """What OpenVINO is to read, by version."""
        return {number: files.model_file for number, files in self.versions.items()}


def list_versions(base_path: Path) -> Listing:
    """Look at ``base_path/1``, ``base_path/2``, ...; symbolic links are followed.

    A base path that is a model file, or a directory with exactly one model directly inside and no version directory,
    is version 1.
    """
    try:
        listing, is_steady = _steadily(base_path, lambda: _look_at_base(base_path))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return Listing(exists=False)
        problem = f"cannot be listed: {refusal(base_path, error)}"
        return Listing(problems={shown(str(base_path)): problem}, is_certain=False, is_reachable=False)
    return listing if is_steady else replace(listing, is_certain=False)


def _steadily(path: Path, look: Callable[[], ValueT]) -> tuple[ValueT, bool]:
    """Look, again if the directory changed meanwhile; the last look, and whether nothing changed during it."""
    is_steady = False
    for _ in range(_TRIES):
        before = _identity(path)
        found = look()
        is_steady = _identity(path) == before
        if is_steady:
            break
    return found, is_steady


def _identity(path: Path) -> tuple[int, ...]:
    try:
        state = os.stat(path)
    except OSError:
        return ()
    if not S_ISDIR(state.st_mode):
        return (state.st_dev, state.st_ino)  # Its content may grow; what that means is for whoever settles.
    return (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)


def _look_at_base(base_path: Path) -> Listing:
    mode = os.stat(base_path).st_mode
    if S_ISREG(mode):
        return _look_at_model_file(base_path)
    if not S_ISDIR(mode):
        return Listing(problems={shown(base_path.name): "is neither a directory nor a file"})
    with os.scandir(base_path) as iterator:
        entries = sorted(iterator, key=lambda entry: entry.name)
    numbered: dict[int, list[os.DirEntry[str]]] = {}
    for entry in entries:
        if not entry.name.startswith("."):
            numbered.setdefault(version_number(entry.name) or 0, []).append(entry)
    listing = Listing()
    for entry in numbered.pop(0, []):
        if _is_directory(entry):
            listing.problems[shown(entry.name)] = _NO_VERSION
    looks = _Looks()
    # The newest first: should there be too much to look at, that is what most policies want.
    is_certain = True
    for number in sorted(numbered, reverse=True):
        is_certain &= _look_at_number(number, numbered[number], listing, looks)
    if looks.left <= 0:
        listing.problems[shown(base_path.name)] = (
            f"holds more than {_MAX_LOOKS} files; of its versions only the newest are looked at"
        )
    if not numbered:
        _look_for_flat_model(base_path, [entry.name for entry in entries], listing)
    return replace(
        listing,
        versions=dict(sorted(listing.versions.items())),
        is_certain=is_certain,
        is_reachable=looks.is_reachable,
    )


@dataclass(slots=True)
class _Looks:
    """Files and directories that may still be looked at, and whether the system has refused none so far."""

    left: int = _MAX_LOOKS
    is_reachable: bool = True


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return S_ISDIR(entry.stat().st_mode)
    except OSError:
        return False  # Gone, or nothing that could be looked at.


def _look_at_number(number: int, entries: list[os.DirEntry[str]], listing: Listing, looks: _Looks) -> bool:
    """Note the version of this number, or why there is none; False when something could not be looked at."""
    # "1" before "01".
    for entry in sorted(entries, key=lambda entry: (entry.name != str(number), entry.name)):
        try:
            _look_at_entry(entry, number, listing, looks)
        except OSError as error:
            listing.problems[shown(entry.name)] = f"cannot be listed: {refusal(entry.path, error)}"
            looks.is_reachable &= error.errno == errno.EAGAIN
            return False
    return True


def _look_at_entry(entry: os.DirEntry[str], number: int, listing: Listing, looks: _Looks) -> None:
    """Note the version that an entry with a version's name is, or why it is none.

    Raises:
        OSError: It cannot be looked at, and may be a version.
    """
    if looks.left <= 0:
        return
    try:
        if not S_ISDIR(entry.stat().st_mode):
            return
        directory = Path(entry.path)
        (files, problem), is_steady = _steadily(directory, lambda: _look_at_version(directory, looks))
    except OSError as error:
        if error.errno in IS_NOTHING:
            return
        raise
    name = shown(entry.name)
    if files is None and not is_steady:
        raise OSError(errno.EAGAIN, "it is being changed")
    if files is not None and number in listing.versions:
        taken = listing.versions[number].model_file
        listing.problems[name] = f"is version {number}, too; {taken} is taken, and this is not served"
        return
    if files is not None:
        listing.versions[number] = files
    if problem:
        listing.problems[name] = problem


def _look_at_version(directory: Path, looks: _Looks | None = None) -> tuple[VersionFiles | None, str]:
    """The files of a version directory, None without a model; and what is odd about it, or empty.

    Raises:
        OSError: It cannot be looked at.
    """
    tree = Tree(directory)
    tree.walk(str(directory), "")
    if looks is not None:
        looks.left -= tree.count
    top = sorted(name for name in tree.files if "/" not in name)
    models = models_among(top)
    if not models:
        return None, unfinished_text(tree.files)
    chosen = models[0]
    problem = ""
    if tree.has_more:
        problem = tree.excess_text()
    elif len(models) > 1:
        problem = f"holds several models; {chosen} is taken, not {', '.join(models[1:])}"
    return _files_of(tree, directory if chosen == SAVED_MODEL else directory / chosen), problem


def _look_for_flat_model(base_path: Path, names: list[str], listing: Listing) -> None:
    """Take a model that lies in the base path itself for version 1, when it is the only one."""
    regular = [name for name in names if os.path.isfile(base_path / name)]
    models = models_among(regular)
    if len(models) == 1:
        files, problem = _look_at_version(base_path)
        if files is not None:
            listing.versions[1] = files
            for name in [name for name, text in listing.problems.items() if text == _NO_VERSION]:
                del listing.problems[name]
            listing.problems[models[0]] = problem or (
                f"lies in the base path itself and is taken as version 1; the usual place is 1/{models[0]}"
            )
    elif models:
        listing.problems[", ".join(models)] = (
            "lie in the base path itself; give the path of one of them, or put each into a version directory of its "
            f"own base path, e.g. 1/{models[0]}"
        )
    elif any(map(may_be_of_model, regular)):
        listing.problems[shown(base_path.name)] = unfinished_text(regular)
    elif below := models_below(base_path, [name for name in names if name not in regular]):
        for directory in below:
            listing.problems.pop(shown(directory), None)
        listing.problems[shown(base_path.name)] = directory_of_models_text(base_path, below)


def _look_at_model_file(path: Path) -> Listing:
    """A base path that is a file: version 1 if it is a model with all its parts."""
    if path.name == SAVED_MODEL:
        files, problem = _look_at_version(path.parent)
        return Listing({1: files} if files else {}, {path.name: problem} if problem else {})
    try:
        names = [name for name in os.listdir(path.parent) if is_part_of(path.name, name)]
    except PermissionError:
        # The file may be readable where its directory is not.
        names = [path.name, *companions(path.name)]
    tree = Tree(path.parent)
    for name in sorted(names):
        tree.add(name, str(path.parent / name))
    if path.name not in models_among(list(tree.files)):
        missing = [name for name in companions(path.name) if name not in tree.files]
        text = f"needs {missing[0]} beside it" if missing else f"is not a model: expected is {FORMATS_TEXT}"
        return Listing(problems={shown(path.name): text})
    return Listing({1: _files_of(tree, path)})


def _files_of(tree: Tree, model_file: Path) -> VersionFiles:
    """What was found, as the version of this model file."""
    fingerprint = tuple(
        (shown(name), state.st_size, state.st_mtime_ns, state.st_ino)
        for name, state in sorted(tree.files.items())
    )
    changed_at = max(state.st_ctime for state in tree.files.values())
    return VersionFiles(model_file, fingerprint, changed_at, tree.directory, tree.device)
