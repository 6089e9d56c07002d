# SPDX-License-Identifier: Apache-2.0
"""Hints from inotify that a look at the repositories is worth while; the only module that knows inotify.

The order that loses nothing::

    watch.read() is True  ->  watch.arm(...)  ->  list_versions(...), read the configuration file, ...

Everything that happens after ``arm`` set a watch makes the descriptor readable; everything before is seen by the look
that follows. So that this holds for directories that appear meanwhile, ``arm`` sets each watch *before* it looks at
what is below.

What is watched on the way to a path, say ``/srv/models/resnet`` where ``models`` is a link to ``/data/m``:

==========================  ==========================================================
``/``                       if it is itself moved or removed
``/srv``                    the same, and entries called ``models``: the link may be replaced
``/data``                   if it is itself moved or removed
``/data/m``                 the same, and entries called ``resnet``
``/data/m/resnet``          everything in it
``/data/m/resnet/3``        everything in it, and in its directories
==========================  ==========================================================

Where a part of the path is missing, the directory that would hold it is watched for its name. Noise in a directory
that is watched for names only (``/tmp``) makes the descriptor readable, but :meth:`RepositoryWatch.read` False.
There is no IN_MODIFY: a copy would be a stream of events, and its end is IN_CLOSE_WRITE. So truncate(2), writing
through a mapping or through a hard link elsewhere is left to the periodic look, as is a mount over a directory.

Sources: inotify(7); https://github.com/kubernetes/kubernetes/blob/master/pkg/volume/util/atomic_writer.go for the
``..data`` links of Kubernetes.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from typing import TYPE_CHECKING

from inotify_simple import INotify, flags  # type: ignore[import-untyped]  # it has no types

from ovms_mp.model.formats import SAVED_MODEL, is_part_of, models_among, version_number
from ovms_mp.storage.mounts import Mounts
from ovms_mp.storage.tree import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

MAX_WATCHES = 10_000
"""Of one server; the kernel's limit is by user (``fs.inotify.max_user_watches``) and often 8192 or 65536."""
_MAX_LINKS = 40
"""In one path; as the kernel."""
_MAX_READS = 64
"""In one :meth:`RepositoryWatch.read`; whoever writes faster makes the descriptor readable again."""

_SELF = flags.DELETE_SELF | flags.MOVE_SELF
_NAMES = _SELF | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
# IN_ATTRIB: a directory or file that could not be read may now be.
_CONTENT = _NAMES | flags.CLOSE_WRITE | flags.ATTRIB
_FILE = _SELF | flags.CLOSE_WRITE | flags.ATTRIB
_GONE = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT


@dataclass(slots=True)
class _Watched:
    """One inode that inotify watches, and which of its events matter.

    Attributes:
        mask: What inotify was asked for.
        names: Names of entries that matter.
        file_names: Model files of which all parts matter, e.g. ``m.bin`` for ``m.xml``.
    """

    mask: int
    names: set[str] = field(default_factory=set)
    file_names: set[str] = field(default_factory=set)

    def matters(self, name: str) -> bool:
        """Whether an event about this entry does; an empty name is the watched inode itself."""
        return (
            not name
            or (bool(self.mask & flags.CLOSE_WRITE) and not _is_hidden(name))
            or name in self.names
            or any(is_part_of(file_name, name) for file_name in self.file_names)
        )


def _is_hidden(name: str) -> bool:
    """Whether no hint is due: what fetchers and copies keep for themselves, but not the ``..data`` of Kubernetes."""
    return name.startswith(".") and not name.startswith("..")


class _LimitReached(Exception):
    """No more watches can be set; the text says what sets the limit."""


class RepositoryWatch:
    """Watches base paths and single files. Owned by the manager's loop.

    Attributes:
        polled: Paths given to :meth:`arm` that inotify cannot tell about, with the reason; the caller polls these.
    """

    def __init__(
        self, *, max_watches: int = MAX_WATCHES, mount_table: Path = Path("/proc/self/mountinfo")
    ) -> None:
        """Ask the kernel for an inotify instance. Without one everything is ``polled``.

        Args:
            max_watches: More are not set.
            mount_table: Where the types of file systems are read.
        """
        self.polled: Mapping[Path, str] = {}
        self._max_watches = max_watches
        self._mount_table = mount_table
        self._watched: dict[int, _Watched] = {}
        self._paths: dict[str, int] = {}
        self._refusals: list[str] = []
        self._mounts = Mounts.none()
        self._inotify: INotify | None = None
        self._stand_in = -1
        self._no_inotify = ""
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            # Too many instances of this user, or a sandbox without it. A descriptor that is never readable spares
            # the caller a second way.
            self._no_inotify = (
                f"inotify is not available: {error.strerror}; if too many instances are open, raise "
                "fs.inotify.max_user_instances with sysctl"
            )
            self._stand_in = os.eventfd(0)

    def fileno(self) -> int:
        """Descriptor that is readable when :meth:`read` has something to take."""
        return self._stand_in if self._inotify is None else self._inotify.fileno()

    def close(self) -> None:
        """Give the descriptor, and with it all watches, back."""
        if self._inotify is not None:
            self._inotify.close()
        elif self._stand_in >= 0:
            os.close(self._stand_in)
            self._stand_in = -1

    def __enter__(self) -> RepositoryWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self) -> bool:
        """Take all events there are, without waiting; whether one of them matters.

        What was removed or moved is not watched any more after this; :meth:`arm` sets it again.
        """
        if self._inotify is None:
            return False
        is_hint = False
        for _ in range(_MAX_READS):
            events = self._inotify.read(timeout=0)
            if not events:
                break
            for event in events:
                is_hint |= self._take(event.wd, event.mask, event.name)
        return is_hint

    def _take(self, wd: int, mask: int, name: str) -> bool:
        """Whether an event matters. One of a watch that was given up does not: a look has followed that."""
        if mask & flags.Q_OVERFLOW:
            return True
        watched = self._watched.get(wd)
        if watched is None:
            return False
        if mask & _GONE:
            del self._watched[wd]
            if mask & flags.MOVE_SELF:
                self._give_up(wd)
            return True
        return watched.matters(name)

    def arm(self, base_paths: Iterable[Path], files: Iterable[Path]) -> None:
        """Watch these, and nothing else. Cheap; to be called before every look.

        Args:
            base_paths: With their version directories, or model files.
            files: Such as the configuration file.
        """
        polled: dict[Path, str] = {}
        self.polled = polled
        former, self._watched, self._paths = self._watched, {}, {}
        self._mounts = Mounts.read(self._mount_table)
        for path, is_base_path in [
            *((path, True) for path in base_paths),
            *((path, False) for path in files),
        ]:
            if self._no_inotify:
                polled[path] = self._no_inotify
                continue
            self._refusals = []
            try:
                reason = self._arm_base_path(path) if is_base_path else self._arm_file(path)
            except _LimitReached as reached:
                reason = str(reached)
            except Exception as error:  # This path's, not all others'.
                reason = f"it cannot be watched: {type(error).__name__}: {error}"
            reasons = [text for text in (reason, *self._refusals) if text]
            if reasons:
                polled[path] = reasons[0]
        for wd in former.keys() - self._watched.keys():
            self._give_up(wd)

    def _arm_file(self, path: Path) -> str:
        """Watch a file; why inotify cannot tell about it, or empty."""
        real = self._follow(path)
        if real is not None:
            self._watch_file(real)
        return self._mounts.reason(real or str(path.parent))

    def _arm_base_path(self, path: Path) -> str:
        if path.name == SAVED_MODEL:
            path = path.parent  # Its variables belong to it.
        real = self._follow(path)
        if real is None:
            return self._mounts.reason(str(path.parent))
        if not os.path.isdir(real):
            # A model file: its parts are siblings of the path as it was given, links or not.
            self._watch_file(real)
            holder = self._follow(path.parent)
            if holder is not None:
                self._watch(holder, _NAMES, file_name=path.name)
                for name in self._names_in(holder):
                    if is_part_of(path.name, name):
                        self._arm_file(Path(holder, name))
            return self._mounts.reason(real)
        reasons = self._watch_tree(real, set(), is_base=True)
        return next((reason for reason in reasons if reason), "")

    def _watch_tree(
        self, directory: str, seen: set[tuple[str, bool]], *, is_base: bool = False, depth: int = 0
    ) -> list[str]:
        """Watch a directory and what is below; the reasons why inotify cannot tell about some of it."""
        if (directory, is_base) in seen or depth > MAX_DEPTH + 1:  # A version's own depth is 1.
            return []
        seen.add((directory, is_base))
        reasons = [self._mounts.reason(directory)]
        if not self._watch(directory, _CONTENT):
            return reasons  # Gone meanwhile, which whoever holds it tells; or not ours to read.
        try:
            with os.scandir(directory) as iterator:
                entries = {entry.name: entry for entry in iterator}
        except OSError:
            return reasons  # Gone, or not ours to read: the look says so.
        for name in self._names_below(entries, is_base=is_base):
            entry = entries[name]
            if entry.is_symlink():
                real = self._follow(Path(entry.path))
                if real is None:
                    continue
                if os.path.isdir(real):
                    reasons += self._watch_tree(real, seen, depth=depth + 1)
                else:
                    self._watch_file(real)
                    reasons.append(self._mounts.reason(real))
            elif entry.is_dir(follow_symlinks=False):
                reasons += self._watch_tree(entry.path, seen, depth=depth + 1)
        return reasons

    @staticmethod
    def _names_below(entries: Iterable[str], *, is_base: bool) -> list[str]:
        """Entries that are worth following: of a base path its versions, or all if it is a model itself."""
        names = sorted(name for name in entries if not name.startswith("."))
        if not is_base:
            return names
        versions = [name for name in names if version_number(name) is not None]
        return versions or (names if models_among(names) else [])

    @staticmethod
    def _names_in(directory: str) -> list[str]:
        try:
            return os.listdir(directory)
        except OSError:
            return []

    def _follow(self, path: Path) -> str | None:
        """Watch the way to a path; its place without links, None while nothing is there.

        Raises:
            _LimitReached: Not all of the way is watched.
        """
        here = "/"
        names = _parts(str(path.absolute()))
        links = 0
        while names:
            name = names.pop()
            if name == "..":
                here = os.path.dirname(here)
                continue
            entry = os.path.join(here, name)
            if names and self._watch(entry, _SELF, is_optional=True):
                here = entry
                continue
            # The last one, or a link, or missing: told by who holds it, and looked at after that is watched.
            self._watch(here, _NAMES, name=name)
            try:
                mode = os.lstat(entry).st_mode
                target = os.readlink(entry) if S_ISLNK(mode) else ""
            except OSError:
                return None
            if target:
                links += 1
                names += _parts(target)
                here = "/" if target.startswith("/") else here
            elif names and not S_ISDIR(mode):
                return None
            else:
                here = entry
            if links > _MAX_LINKS:
                return None
        return here

    def _watch_file(self, path: str) -> None:
        """Watch a file for being written in place; what else happens to it is told by who holds it."""
        self._watch(path, _FILE, kind=flags.DONT_FOLLOW)

    def _watch(
        self,
        path: str,
        mask: int,
        *,
        kind: int = flags.DONT_FOLLOW | flags.ONLYDIR,
        name: str = "",
        file_name: str = "",
        is_optional: bool = False,
    ) -> bool:
        """Watch an inode, besides what is watched of it already; False when it is not there, or not ours to read.

        Raises:
            _LimitReached: It is not watched.
        """
        watched = self._watched.get(self._paths.get(path, -1))
        if watched is None or mask & ~watched.mask:
            wd = self._add(path, mask | kind, is_optional=is_optional)
            if wd is None:
                return False
            watched = self._watched.setdefault(wd, _Watched(mask))
            if watched.mask & ~mask:
                # Watched before, maybe by another path to the same inode: the later mask has replaced the earlier.
                self._add(path, watched.mask | mask | kind)
            watched.mask |= mask
            self._paths[path] = wd
        if name:
            watched.names.add(name)
        if file_name:
            watched.file_names.add(file_name)
        return True

    def _add(self, path: str, mask: int, *, is_optional: bool = False) -> int | None:
        if self._inotify is None:
            return None
        if len(self._watched) >= self._max_watches:
            raise _LimitReached(f"more than {self._max_watches} watches would be needed; not all are set")
        try:
            wd: int = self._inotify.add_watch(path, mask)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise _LimitReached(
                    f"inotify cannot watch {path}: the user's limit of watches is reached; raise "
                    "fs.inotify.max_user_watches with sysctl"
                ) from None
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and not is_optional:
                self._refusals.append(f"inotify cannot watch {path}: {error.strerror}")
            return None
        return wd

    def _give_up(self, wd: int) -> None:
        if self._inotify is None:
            return
        try:
            self._inotify.rm_watch(wd)
        except OSError:
            return  # The kernel has given it up before us.


def _parts(path: str) -> list[str]:
    """Components of a path, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
