# SPDX-License-Identifier: Apache-2.0
"""The fronts that a worker knows: their arenas, which of them are dead, and when a dead one's arena is let go of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ovms_mp.errors import ProtocolError, RegionUnusable
from ovms_mp.wire.arena import Arena
from ovms_mp.wire.tasks import AttachRegion
from ovms_mp.worker.run.queues import Peer
from ovms_mp.worker.run.region_maps import RegionMaps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.wire.records import ArenaHandle
    from ovms_mp.wire.tasks import DetachRegion

_log = logging.getLogger(__name__)


class Peers:
    """Fronts by their address. Belongs to the loop's thread."""

    def __init__(self, handles: tuple[ArenaHandle, ...]) -> None:
        """Begin with none.

        Args:
            handles: All arenas; one is mapped when its front is met.
        """
        self._handles = handles
        self._arenas: dict[int, Arena] = {}
        self._peers: dict[bytes, Peer] = {}
        self._retired: dict[int, int] = {}
        self._waiting: list[tuple[int, int]] = []
        self._running: dict[tuple[int, int], int] = {}
        self._maps = RegionMaps()

    def get(self, identity: bytes) -> Peer:
        """A front by its address, ``b"<arena>:<epoch>"``.

        Raises:
            ProtocolError: It is not the address of a front.
            OSError: Its arena cannot be mapped.
        """
        return self._peers.get(identity) or self._meet(identity)

    def _meet(self, identity: bytes) -> Peer:
        index_text, _, epoch_text = identity.partition(b":")
        try:
            index, epoch = int(index_text), int(epoch_text)
            arena = self._arenas.get(index) or Arena(self._handles[index])
        except (ValueError, IndexError):
            raise ProtocolError(f"peer {identity!r} is not a front") from None
        self._arenas[index] = arena
        peer = Peer(identity, index, epoch, arena)
        self._peers[identity] = peer
        return peer

    def is_dead(self, peer: Peer) -> bool:
        """Whether nobody waits for its answers any more."""
        return peer.arena_epoch <= self._retired.get(peer.arena_index, 0)

    def follow(self, peer: Peer, message: AttachRegion | DetachRegion) -> None:
        """Attach a client's memory to a front's arena, or give it back. What cannot be attached fails its tasks."""
        if isinstance(message, AttachRegion):
            try:
                region = peer.regions[message.number] = self._maps.attach(message)
            except RegionUnusable as error:
                _log.error("event=region_not_attached front=%r reason=%s", peer.identity, error.message)
                return
            peer.arena.regions[message.number] = region.memory
        else:
            self._detach(peer, message.number)

    def _detach(self, peer: Peer, number: int) -> None:
        region = peer.regions.pop(number, None)
        if region is not None:
            del peer.arena.regions[number]
            self._maps.detach(region)

    def retire(self, arena: int, epoch: int) -> None:
        """The front that had an arena is dead, and the manager wants it back."""
        self._retired[arena] = max(epoch, self._retired.get(arena, 0))
        self._waiting.append((arena, epoch))

    @property
    def are_running(self) -> bool:
        """Whether a thread runs a task of any front."""
        return bool(self._running)

    def begun(self, peer: Peer) -> None:
        """A thread may touch its arena from now on."""
        self._running[peer.arena_key] = self._running.get(peer.arena_key, 0) + 1

    def ended(self, peer: Peer) -> None:
        """A thread does not touch its arena any more."""
        self._running[peer.arena_key] -= 1
        if not self._running[peer.arena_key]:
            del self._running[peer.arena_key]

    def released(self) -> Iterator[tuple[int, int]]:
        """(arena, epoch) of those that were wanted back and that nothing touches any more.

        One whose message could not be sent, so that it is not asked to go on, comes again next time.
        """
        for key in [key for key in self._waiting if key not in self._running]:
            arena, epoch = key
            for identity, peer in list(self._peers.items()):
                if peer.arena_index == arena and peer.arena_epoch <= epoch:
                    del self._peers[identity]
                    for number in list(peer.regions):
                        self._detach(peer, number)
            yield key
            self._waiting.remove(key)
