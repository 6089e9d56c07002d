# SPDX-License-Identifier: Apache-2.0
"""What clients may have changed of the server's state, which is the manager's: values of ``ChangeState`` messages."""

from __future__ import annotations

from typing import TypeAlias

from ovms_mp.wire.records import Record

LONGEST_REGION_NAME = 256
"""Characters. A name is a part of every routing snapshot."""


class RegionRecord(Record, frozen=True):
    """A part of a client's shared memory, as the front that was asked to register it has found it.

    Attributes:
        name: What requests call it.
        key: What the system calls the shared memory.
        offset: Where the region begins, in bytes.
        byte_size: How long it is.
        device: Of the file, which may have been replaced by another one when a front opens it.
        inode: Of the file.
        descriptor: Of sealed memory, the manager's, from which fronts open it; -1 for what has a name in the system.
        is_writable: Whether results may go there.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    device: int
    inode: int
    descriptor: int = -1
    is_writable: bool = True

    @property
    def is_sealed(self) -> bool:
        """Whether its size is fixed, so that a mapping of it is safe, and it is a connection's."""
        return self.descriptor >= 0


class Change(Record, frozen=True, tag=True):
    """Base of what a client may want changed."""

    @property
    def title(self) -> str:
        """What is going on, for messages: ``the reload``."""
        raise NotImplementedError


class ReloadConfig(Change, frozen=True):
    """Look at the configuration and the repositories now."""

    @property
    def title(self) -> str:
        """See :class:`Change`."""
        return "the reload"


class LoadNamed(Change, frozen=True):
    """Look at a model's directory now, and serve what its version policy wants."""

    name: str

    @property
    def title(self) -> str:
        """See :class:`Change`."""
        return f"loading model {self.name!r}"


class UnloadNamed(Change, frozen=True):
    """Serve no version of a model until somebody has it loaded again."""

    name: str

    @property
    def title(self) -> str:
        """See :class:`Change`."""
        return f"unloading model {self.name!r}"


class RegisterRegion(Change, frozen=True):
    """Know a region of a client's shared memory by a name that is not taken."""

    region: RegionRecord

    @property
    def title(self) -> str:
        """See :class:`Change`."""
        return f"registering region {self.region.name!r}"


class UnregisterRegion(Change, frozen=True):
    """Forget a region; one that is not known is forgotten already.

    With an empty name all that have names in the system; sealed ones are their connections'.
    """

    name: str

    @property
    def title(self) -> str:
        """See :class:`Change`."""
        return f"unregistering region {self.name!r}" if self.name else "unregistering all regions"


class SetLog(Change, frozen=True):
    """Log something else from now on, in every process; see :class:`~ovms_mp.log_levels.LogLevels`.

    What is None stays as it is.
    """

    info: bool | None = None
    warning: bool | None = None
    error: bool | None = None
    verbose: int | None = None
    form: str | None = None

    @property
    def title(self) -> str:
        """See :class:`Change`."""
        return "the change of the log's settings"


class SetTrace(Change, frozen=True):
    """Trace more or less from now on; see :class:`~ovms_mp.wire.records.TraceSettings`. What is None stays as it is."""

    is_on: bool | None = None
    rate: int | None = None

    @property
    def title(self) -> str:
        """See :class:`Change`."""
        return "the change of the trace settings"


AnyChange: TypeAlias = (
    SetLog | SetTrace | ReloadConfig | LoadNamed | UnloadNamed | RegisterRegion | UnregisterRegion
)
