# SPDX-License-Identifier: Apache-2.0
"""Adding models to a configuration file and removing them, while a server may follow it and people may edit it.

Only the entry is touched: everything else keeps its octets, whatever a reader of this release makes of it. What comes
out is read by the server's own reader before it replaces the file, by a rename, so that nobody ever sees half of it.
Who edits holds a lock of the directory meanwhile.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.config.file import MAX_BYTES, read_config_file
from ovms_mp.config.json_document import child_place
from ovms_mp.config.json_members import ListText, list_member
from ovms_mp.errors import ConfigError
from ovms_mp.files import read_regular, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_LIST = "model_config_list"
_LOCK_DEADLINE_S = 10.0
_LOCK_PACE_S = 0.05
_TRIES = 5
_NEW_FILE = b'{"model_config_list": []}\n'
_NEW_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Edit:
    """What was done.

    Attributes:
        path: The file that was written; symbolic links are followed.
        is_new: Whether there was none before.
        notices: What the author of the entry should know.
    """

    path: Path
    is_new: bool
    notices: tuple[str, ...] = ()


def add_model(path: Path, body: Mapping[str, object], *, store_dir: str = "") -> Edit:
    """Append a model's entry to a configuration file; a file that does not exist is made.

    Args:
        path: The file.
        body: The entry's keys, ``name`` and ``base_path`` among them.
        store_dir: Where models from object stores are downloaded to.

    Raises:
        ConfigError: The file or the entry is wrong, there is a model of this name, or the file cannot be written.
    """
    name = str(body.get("name"))

    def append(text: str, found: ListText) -> str:
        for index, entry in enumerate(found.values):
            if _name_of(entry) == name:
                where = child_place(f"$.{_LIST}", index)
                raise ConfigError(
                    f"{path} has a model {name!r} already, at {where}; give another --model_name, or remove that one "
                    f"by `ovms_mp remove`"
                )
        return found.appended(text, json.dumps({"config": dict(body)}, ensure_ascii=False))

    return _edit(path, append, store_dir, added=name)


def remove_model(path: Path, name: str, *, store_dir: str = "") -> Edit:
    """Remove a model's entry, and any other of the same name, which would count then.

    Raises:
        ConfigError: The file is wrong or has no such model, or it cannot be written.
    """

    def cut(text: str, found: ListText) -> str:
        names = [_name_of(entry) for entry in found.values]
        if name not in names:
            known = [other for other in names if other]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, known)) or 'none'}"
            raise ConfigError(f"{path} has no model {name!r}; {hint}")
        return found.without(text, {index for index, other in enumerate(names) if other == name})

    return _edit(path, cut, store_dir)


def _name_of(entry: object) -> str:
    body = entry.get("config") if isinstance(entry, dict) else None
    name = body.get("name") if isinstance(body, dict) else None
    return name if isinstance(name, str) else ""


def _edit(path: Path, change: Callable[[str, ListText], str], store_dir: str, *, added: str = "") -> Edit:
    target = Path(os.path.realpath(path))
    with _locked(target.parent):
        for _ in range(_TRIES):
            edit = _edit_once(target, path, change, store_dir, added)
            if edit is not None:
                return edit
    raise ConfigError(
        f"{path} is being written by somebody else all the time; nothing was changed, try again"
    )


def _edit_once(
    target: Path, path: Path, change: Callable[[str, ListText], str], store_dir: str, added: str
) -> Edit | None:
    """Edit the file as it is now; None where somebody, who knows of no lock, has written it meanwhile."""
    known: tuple[str, ...] = ()
    try:
        old: bytes | None = read_regular(target, MAX_BYTES)
    except FileNotFoundError:
        if not added:
            raise ConfigError(f"--config_path {path} does not exist") from None
        old = None
    except OSError as error:
        raise ConfigError(f"--config_path {path}: {refusal(target, error)}") from None
    else:
        known = _read(target, path, store_dir)
        if not os.access(target, os.W_OK):
            raise ConfigError(f"--config_path {path} is read-only for this user, and was left as it is")
    before = _NEW_FILE if old is None else old
    text = before.decode("utf-8-sig")
    new = change(text, list_member(text, _LIST)).encode()
    mark = b"\xef\xbb\xbf"
    content = mark + new if before.startswith(mark) else new
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} would be longer than the {MAX_BYTES >> 20} MiB that are read")
    notices = _replace(target, old, content, path, store_dir, added)
    if notices is None:
        return None
    return Edit(target, old is None, tuple(notice for notice in notices if notice not in known))


def _read(file: Path, named: Path, store_dir: str, added: str = "") -> tuple[str, ...]:
    """Read a file as the server does; notices about the model that was added.

    Raises:
        ConfigError: It is no configuration, or the added model cannot be served.
    """
    try:
        document = read_config_file(file, store_dir=store_dir)
    except ConfigError as error:
        raise ConfigError(f"{named} is not valid, and was left as it is:\n{error.message}") from None
    for refused in document.refused:
        if added and refused.name == added:
            reasons = "\n".join(refused.reasons)
            raise ConfigError(f"the model {added!r} cannot be served, and was not added:\n{reasons}")
    return document.notices


def _replace(
    target: Path, old: bytes | None, content: bytes, named: Path, store_dir: str, added: str
) -> tuple[str, ...] | None:
    """Write beside the file, look at what is there, rename it over the file; None if that is not ``old`` any more."""
    try:
        descriptor, beside = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
    except OSError as error:
        raise ConfigError(
            f"{named} cannot be replaced: no file can be made in {target.parent} ({error.strerror})"
        ) from None
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            _keep_attributes(target, beside)
            os.fsync(file.fileno())
        notices = _read(Path(beside), named, store_dir, added)
        if _content(target) != old:
            return None
        os.rename(beside, target)
    except OSError as error:
        raise ConfigError(f"{named} cannot be replaced: {_reason(error, target)}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
    _sync_directory(target.parent)
    return notices


def _content(target: Path) -> bytes | None:
    try:
        return read_regular(target, MAX_BYTES)
    except FileNotFoundError:
        return None


def _keep_attributes(target: Path, beside: str) -> None:
    """Give the new file the old one's mode, owner and extended attributes, with ACLs."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, _NEW_MODE & ~mask)
        return
    new = os.stat(beside)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.chown(beside, old.st_uid, old.st_gid)
    shutil.copystat(target, beside)
    os.chmod(beside, stat.S_IMODE(old.st_mode))
    os.utime(beside)


def _reason(error: OSError, target: Path) -> str:
    match error.errno:
        case errno.EPERM:
            state = os.stat(target)
            return (
                f"it belongs to uid {state.st_uid}, gid {state.st_gid}, which this user (uid {os.geteuid()}) cannot "
                "give a new file; run this as that user or as root"
            )
        case errno.EBUSY:
            return f"{target} is a mount of its own; mount its directory instead of the file"
    return error.strerror or str(error)


def _sync_directory(directory: Path) -> None:
    """Have the rename survive a loss of power; file systems that cannot do it do not matter."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock: one edit at a time, and no file of locks that stays.

    Raises:
        ConfigError: There is no such directory, or another edit takes too long.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"--config_path: {refusal(directory, error)}: {directory}") from None
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    deadline_s = time.monotonic() + _LOCK_DEADLINE_S
    pause = threading.Event()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise ConfigError(
                    f"another program has locked {directory} for {_LOCK_DEADLINE_S:.0f} s; try again"
                ) from None
        except OSError:
            return  # Some network file systems lock no directories; the rename is whole there as well.
        pause.wait(_LOCK_PACE_S)
