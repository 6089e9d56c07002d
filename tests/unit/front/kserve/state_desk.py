# SPDX-License-Identifier: Apache-2.0
"""A service that plays a manager which does whatever it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.front.call_context import CallContext
from ovms_mp.front.routing import RoutingTable
from ovms_mp.wire.changes import SetLog, SetTrace
from ovms_mp.wire.messages import RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, TraceSettings, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.wire.changes import AnyChange


def version(number: int, state: int, *, code: int = 0, note: str = "") -> VersionRecord:
    return VersionRecord(
        version=number,
        state=state,
        error_code=code,
        error_message=note,
        handle=number,
        endpoints=("e",) if state == 30 else (),
        nireq=1,
        detail="",
        inputs=(),
        outputs=(),
    )


@dataclass
class PlayedRequest:
    """A request whose body is here."""

    path: str
    body: bytes
    verb: str = "POST"

    @property
    def raw_path(self) -> bytes:
        return self.path.encode()

    async def read_body(self, bound_bytes: int | None) -> bytes:
        assert bound_bytes == 64 << 10
        return self.body


@dataclass
class Desk:
    """A front, and its service."""

    models: Sequence[ModelRecord] = ()
    log_file: str = ""
    trace: TraceSettings | None = None
    asked: list[AnyChange] = field(default_factory=list)

    def __post_init__(self) -> None:
        snapshot = RoutingSnapshot(
            1, False, (), (), tuple(self.models), log_file=self.log_file, trace=self.trace
        )
        self.table = RoutingTable(snapshot)
        self.service = self
        self.context = CallContext(0, 0, "kserve", "", None)  # type: ignore[arg-type]  # nobody asks for it

    def request(self, path: str, body: bytes = b"", verb: str = "POST") -> PlayedRequest:
        return PlayedRequest(path, body, verb)

    async def change(self, change: AnyChange, context: CallContext) -> bool:
        self.asked.append(change)
        snapshot = self.table.snapshot
        given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        if isinstance(change, SetTrace):
            assert snapshot.trace is not None
            trace = msgspec.structs.replace(snapshot.trace, **given)
            self.table = RoutingTable(msgspec.structs.replace(snapshot, trace=trace))
        if isinstance(change, SetLog):
            levels = replace(snapshot.levels, **given)
            self.table = RoutingTable(msgspec.structs.replace(snapshot, levels=levels))
        return True
