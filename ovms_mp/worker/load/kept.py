# SPDX-License-Identifier: Apache-2.0
"""Compiled models that are kept in the cache directory, so that a load need not read what they were compiled from.

OpenVINO's own cache takes a model's content for its key: it is read and converted first, which for a large one is most
of the time and, beside what is imported then, half of the memory. Here the key is what the file system and the settings
say (:func:`entry_of`), and what else a load learns from the model is written beside the compiled one (:class:`Facts`)::

    KEY/          published by a rename, once its proof has held
        1.blob        by OpenVINO, under the number that CACHE_BLOB_ID gives it
        entry.json    the facts, and checksums of both files
        trying-*      whoever imports it now; locked as long as that process lives
    KEY.filling/  what is being compiled now; locked in the same way
    KEY.refused   OpenVINO did not take what it had written itself; the model is read every time

An entry is not used, and is removed, when its length or checksums differ, or when a process has died while it imported
it: then the model is read, and the entry made anew. One that is whole and that OpenVINO does not take is not made
again. Seen with OpenVINO 2026.4 on CPU: it can export models with states, and import none.

What belongs to others is left alone. That nobody else may write to the directory is checked at the start of the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import openvino as ov
from openvino import opset13 as ops

import ovms_mp
from ovms_mp.files import read_regular
from ovms_mp.model.devices import engine_device, meta_device
from ovms_mp.wire.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ovms_mp.wire.messages import LoadModel
    from ovms_mp.wire.records import ModelSettings

_log = logging.getLogger(__name__)

_FORMAT: Final = 1
"""Of entries, and of what the facts say; another one makes another key."""
_BLOB_ID: Final = "1"
_BLOB, _ENTRY, _TRYING = f"{_BLOB_ID}.blob", "entry.json", "trying-"
_MOST_ENTRY_BYTES = 4 << 20
_MOST_FILES = 4096
"""A version with more files beside its model is not kept; looking at so many takes 20 ms."""
_PIECE_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_MOST_READERS = 4


class Facts(Record, frozen=True):
    """What a load learns from a model, besides the compiled model.

    Attributes:
        inputs: The names that clients use.
        outputs: The same.
        own_shapes: Shapes to try it on, where the model has one of each input.
        exact: Of each input, the range in which the engine is exact.
        remarks: Of its preparation, for the log.
        notices: What people should know of its answers.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    own_shapes: tuple[tuple[int, ...], ...] | None
    exact: tuple[tuple[float, float] | None, ...]
    remarks: tuple[str, ...]
    notices: tuple[str, ...]


class _Contents(Record, frozen=True):
    """An entry's file."""

    nbytes: int
    checksums: tuple[int, ...]
    facts: Facts


def is_kept(settings: ModelSettings) -> bool:
    """Whether versions with these settings are kept here: those of one device that are one compiled model.

    The others are left to OpenVINO's cache: what a list of devices compiles, and where, only OpenVINO knows, and a
    version with ``auto`` shapes is compiled again and again.
    """
    device = engine_device(settings.device)
    return not settings.inputs.is_auto and not meta_device(device)


def entry_of(core: ov.Core, request: LoadModel, properties: Mapping[str, object]) -> Entry | None:
    """Where a version is kept, or will be; None where that cannot be said.

    The key has everything that decides what is compiled: the files, each with its length, times and number on its file
    system, so that also one that was changed without changing its length or its time stamp makes another key; settings
    and properties; the device; the versions of OpenVINO and of this server.
    """
    if not request.cache_directory or not is_kept(request.settings):
        return None
    files = _files_of(request.model_file)
    if files is None:
        return None
    settings = request.settings
    device = engine_device(settings.device)
    try:
        device_name = str(core.get_property(device, "FULL_DEVICE_NAME"))
    except RuntimeError:
        return None  # Compiling says what is wrong with it.
    document = (
        (_FORMAT, ovms_mp.__version__, ov.get_version(), device, device_name),
        sorted((key, repr(value)) for key, value in properties.items()),
        (settings.inputs, settings.refuses_lossy),
        (os.path.abspath(request.model_file), files),
    )
    try:
        key = hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()[:32]
    except UnicodeEncodeError:
        return None  # A path that is no text.
    return Entry(core, request, properties, Path(request.cache_directory), key)


def stand_in() -> ov.Model:
    """What OpenVINO is given to compile where it shall take a kept model."""
    parameter = ops.parameter([1], np.float32)
    return ov.Model([ops.result(parameter)], [parameter], "stand-in")


@dataclass(frozen=True, slots=True)
class Entry:
    """A version's place in the cache directory."""

    _core: ov.Core
    _request: LoadModel
    _properties: Mapping[str, object]
    _root: Path
    key: str

    def is_current(self) -> bool:
        """Whether the files are still those that the key is of."""
        now = entry_of(self._core, self._request, self._properties)
        return now is not None and now.key == self.key

    def import_properties(self) -> dict[str, object]:
        """What to compile :func:`stand_in` with, between :meth:`trying`.

        Where what is kept stays, it is mapped: nobody changes a file of an entry, and one that is removed remains for
        who has mapped it. A private directory is emptied after the load, and its memory or disk should be free then.
        PERF: 1.9 GB are imported in 0.7 s instead of 1.1.
        """
        return _cache_properties(self._path) | {"ENABLE_MMAP": self._request.is_cache_kept}

    @contextlib.contextmanager
    def trying(self) -> Iterator[Facts | None]:
        """The facts of the kept model, which may be imported inside the block; None where none can be used.

        A process that dies inside the block has seen to it that nobody imports this entry any more.
        """
        contents = self._read()
        if contents is None:
            yield None
            return
        with contextlib.ExitStack() as stack:
            try:
                # Locked before it has the name that others look for.
                descriptor, name = tempfile.mkstemp(prefix=".", suffix=_TRYING, dir=self._path)
                stack.callback(os.close, descriptor)
                stack.callback(_remove, name)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark = self._path / f"{_TRYING}{Path(name).name}"
                os.rename(name, mark)
                stack.callback(_remove, mark)
            except OSError as error:
                _log.warning("event=cache_not_used directory=%s: %s", self._path, error)
                contents = None
            yield contents.facts if contents else None

    def discard(self, reason: str) -> None:
        """Remove what is kept, as it is of no use."""
        _log.warning("event=cache_discarded directory=%s reason=%s", self._path, reason)
        shutil.rmtree(self._path, ignore_errors=True)

    def refuse(self, reason: str) -> None:
        """The same for one that is whole; it is not made again."""
        self.discard(reason)
        with contextlib.suppress(OSError):
            self._refused.touch()

    def fill(self) -> Filling | None:
        """Begin to make the entry; None where another process does, or where it is of no use."""
        path = self._root / f"{self.key}.filling"
        try:
            if self._refused.exists():
                return None
            # No parents: a private directory that was removed with its server must not come back.
            self._root.mkdir(exist_ok=True)
            if path.exists():
                descriptor = _lock(path)
                if descriptor is None:
                    return None
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)
            path.mkdir(mode=0o700)
            descriptor = _lock(path)
        except OSError as error:
            _log.warning("event=cache_not_filled directory=%s: %s", self._root, error)
            return None
        return None if descriptor is None else Filling(path, self._path, descriptor)

    @property
    def _path(self) -> Path:
        return self._root / self.key

    @property
    def _refused(self) -> Path:
        return self._root / f"{self.key}.refused"

    def _read(self) -> _Contents | None:
        try:
            state = os.lstat(self._path)
        except OSError:
            return None
        if not S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
            _log.warning("event=cache_not_used directory=%s: it is no directory of this user's", self._path)
            return None
        try:
            contents = _decode(read_regular(self._path / _ENTRY, _MOST_ENTRY_BYTES))
            if _has_died_trying(self._path):
                self.discard("a process died while it imported this")
                return None
            checksums = _checksums(self._path / _BLOB, contents.nbytes)
        except (OSError, ValueError) as error:
            self.discard(f"it cannot be read: {error}")
            return None
        if checksums != contents.checksums:
            self.discard("it is damaged: its checksum is not the one that was written with it")
            return None
        return contents


class Filling:
    """An entry that is being made; :meth:`close` it, whether it was published or not."""

    def __init__(self, path: Path, target: Path, descriptor: int) -> None:
        """Take over a fresh directory and the lock on it."""
        self._path = path
        self._target = target
        self._descriptor = descriptor

    def properties(self) -> dict[str, object]:
        """What to compile the model with."""
        return _cache_properties(self._path)

    def publish(self, facts: Facts) -> None:
        """Make what was compiled an entry; a device that can keep nothing has left nothing."""
        blob = self._path / _BLOB
        try:
            nbytes = os.lstat(blob).st_size
            contents = _Contents(nbytes, _checksums(blob, nbytes), facts)
            (self._path / _ENTRY).write_bytes(_encode(contents))
            self._path.rename(self._target)
        except FileNotFoundError:
            return
        except (OSError, UnicodeEncodeError) as error:
            # Another process may have been quicker; else there is no room.
            _log.info("event=not_kept directory=%s: %s", self._target, error)

    def close(self) -> None:
        """Remove what was not published."""
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._descriptor)


def _encode(contents: _Contents) -> bytes:
    """A line with the checksum of the rest, and JSON."""
    text = msgspec.json.encode(contents)
    return b"%08x\n%s\n" % (zlib.crc32(text), text)


def _decode(content: bytes) -> _Contents:
    """The reverse.

    Raises:
        ValueError: It was not written so.
    """
    checksum, _, text = content.partition(b"\n")
    text = text.removesuffix(b"\n")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError(f"the checksum of {_ENTRY} is not the one that was written with it")
    return msgspec.json.decode(text, type=_Contents)


def _cache_properties(path: Path) -> dict[str, object]:
    return {"CACHE_DIR": str(path), "CACHE_BLOB_ID": _BLOB_ID}


def _files_of(model_file: str) -> list[tuple[str, int, int, int, int]] | None:
    """Name, length, times and number of each file that a model may consist of, its settings' files among them.

    These are all in its directory and those below, e.g. external weights; None where there are too many, or links to
    directories, whose content changes elsewhere.
    """
    given = Path(model_file)
    roots = {given} if given.is_dir() else {given.parent, Path(os.path.realpath(given)).parent}
    found: list[tuple[str, int, int, int, int]] = []
    try:
        for root in roots:
            for directory, names, files in os.walk(root, onerror=_raise):
                if any(os.path.islink(os.path.join(directory, name)) for name in names):
                    return None
                for path in (os.path.join(directory, name) for name in files):
                    state = os.stat(path)
                    found.append((path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
                if len(found) > _MOST_FILES:
                    return None
    except OSError:
        return None
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _checksums(path: Path, nbytes: int) -> tuple[int, ...]:
    """The CRC-32 of each 64 MiB of a file of this length.

    PERF: 1.9 GB in the page cache take 0.3 s on two cores.

    Raises:
        OSError: It cannot be read, is no file, or has another length.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        state = os.fstat(descriptor)
        if not S_ISREG(state.st_mode) or state.st_size != nbytes:
            raise OSError(f"{path.name} is no file of {nbytes} bytes")

        def checksum(start: int) -> int:
            buffer, value = bytearray(_READ_BYTES), 0
            for offset in range(start, min(start + _PIECE_BYTES, nbytes), _READ_BYTES):
                count = os.preadv(descriptor, [buffer], offset)
                value = zlib.crc32(memoryview(buffer)[:count], value)
            return value

        readers = max(1, min(_MOST_READERS, len(os.sched_getaffinity(0))))
        with ThreadPoolExecutor(readers, thread_name_prefix="checksum") as threads:
            return tuple(threads.map(checksum, range(0, nbytes, _PIECE_BYTES)))
    finally:
        os.close(descriptor)


def _has_died_trying(path: Path) -> bool:
    """Whether a process that imported an entry has ended before it could say how that went."""
    for name in path.glob(f"{_TRYING}*"):
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # It is done.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
        if name.exists():  # Else it was removed, as it went well, while we looked.
            return True
    return False


def _lock(path: Path) -> int | None:
    """Lock a directory of ours; None when another process has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: str | Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
