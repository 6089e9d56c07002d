# SPDX-License-Identifier: Apache-2.0
"""A message on its way out, in pieces: what a protocol's encoder wrote, and tensors where the worker left them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovms_mp.front.infer.leases import Lease
    from ovms_mp.front.tensors import ResultTensor

SHORTEST_GATHERED_BYTES = 16 << 10
"""Outputs from which sending them out of the arena pays; below it a copy is cheaper than the bookkeeping."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """A reply in pieces. Memory behind views must stay as it is until ``release`` is called, which is once."""

    pieces: Sequence[bytes | memoryview]
    release: Callable[[], None] = lambda: None

    def joined(self) -> bytes:
        """All of it as a copy; the pieces are released."""
        whole = b"".join(self.pieces)
        self.release()
        return whole


def reply_nbytes(reply: bytes | bytearray | Gathered) -> int:
    """How long a reply is."""
    return sum(map(len, reply.pieces)) if isinstance(reply, Gathered) else len(reply)


def reply_of(
    pieces: Sequence[bytes | memoryview],
    outputs: Sequence[ResultTensor],
    hold: Callable[[Lease], Callable[[], None]],
) -> bytes | Gathered:
    """A reply that is sent out of the arena if its outputs are long, and is a copy if they are short.

    Args:
        pieces: What is sent.
        outputs: What they are made of. All outputs of one inference lie in one lease.
        hold: Holds a lease; what it gives back lets go of it.
    """
    lease = outputs[0].lease if outputs else None
    if lease is None or sum([output.data.nbytes for output in outputs]) < SHORTEST_GATHERED_BYTES:
        return b"".join(pieces)
    return Gathered(pieces, hold(lease))
