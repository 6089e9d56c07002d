# SPDX-License-Identifier: Apache-2.0
"""Predict requests that are small on the wire and large for whoever takes them as they come; and packed garbage.

Each is at most 60 kB, so that it fits every server's first window. As a program it reads lines ``SECONDS NAME``, sends
that bomb for so long, one after the other, and prints a JSON object of the answers.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import struct
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.http2_peer import REQUEST_BLOCK, Attacker, block, data, opening, request_fields
from tests.support.protobuf_messages import BYTES, FIXED32, GROUP, GROUP_END, VARINT, record, varint
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNPACKED_BYTES = 4_000_000
"""Below what requests to models of any input size may become when they are short."""
INVALID, EXHAUSTED, INTERNAL, UNIMPLEMENTED = 3, 8, 13, 12
_FRAME_BYTES = 16_384
_ANSWER_WITHIN_S = 20.0


@dataclass(frozen=True)
class Bomb:
    """A request as it goes over the wire, and the statuses that it may be answered with."""

    body: bytes
    statuses: tuple[int, ...]
    encoding: str = "gzip"
    is_flagged: bool = True

    def frames(self, stream: int) -> bytes:
        """The whole call."""
        fields = REQUEST_BLOCK if not self.encoding else _block(self.encoding)
        octets = bytes([self.is_flagged]) + struct.pack(">I", len(self.body)) + self.body
        pieces = [octets[at : at + _FRAME_BYTES] for at in range(0, len(octets), _FRAME_BYTES)]
        last = len(pieces) - 1
        return opening(stream, fields=fields) + b"".join(
            data(piece, stream, end=index == last) for index, piece in enumerate(pieces)
        )


@functools.cache
def _block(encoding: str) -> bytes:
    return block(request_fields(extra=[("grpc-encoding", encoding)]))


def _model(name: str = "id_f32") -> bytes:
    return record(1, BYTES, record(1, BYTES, name.encode()))


def _head(dtype: int, *shape: int) -> bytes:
    dimensions = b"".join(record(2, BYTES, record(1, VARINT, varint(size))) for size in shape)
    return record(1, VARINT, varint(dtype)) + record(2, BYTES, dimensions)


def _entry(tensor: bytes, key: bytes = b"x") -> bytes:
    return record(2, BYTES, record(1, BYTES, key) + record(2, BYTES, tensor))


def _packed(body: bytes) -> bytes:
    return gzip.compress(body, 9, mtime=0)


def _many(part: bytes, nbytes: int = UNPACKED_BYTES) -> bytes:
    return part * (nbytes // len(part))


def _repeated(part: bytes) -> bytes:
    """A request with nothing but a part of it again and again, and the model's name behind them."""
    return _packed(_many(part) + _model())


def _tensor_with(fields: bytes, *head: int) -> bytes:
    return _packed(_entry(_head(*(head or (1, 10))) + fields) + _model())


_GOOD = _model() + _entry(_head(1, 1) + record(5, BYTES, struct.pack("<f", 1)))
_EMPTY_MEMBER = gzip.compress(b"", mtime=0)
_ONE_FLOAT = record(5, BYTES, struct.pack("<f", 1.5))

_MAKERS: Mapping[str, Callable[[], Bomb]] = {
    "names in the output filter": lambda: Bomb(_repeated(record(3, BYTES, b"")), (INVALID,)),
    "empty map entries": lambda: Bomb(_repeated(record(2, BYTES, b"")), (INVALID,)),
    "one key again and again": lambda: Bomb(_repeated(_entry(_head(1, 1) + _ONE_FLOAT)), (INVALID,)),
    "unknown fields": lambda: Bomb(_repeated(record(9, VARINT, b"\x01")), (INVALID,)),
    "groups in groups": lambda: Bomb(
        _packed(_many(varint(9 << 3 | GROUP), 2_000_000) + _many(varint(9 << 3 | GROUP_END), 2_000_000)),
        (INVALID,),
    ),
    "dimensions": lambda: Bomb(
        _packed(_entry(record(2, BYTES, _many(record(2, BYTES, b"")))) + _model()), (INVALID,)
    ),
    "strings": lambda: Bomb(_tensor_with(_many(record(8, BYTES, b"")), 7, 1), (INVALID,)),
    "numbers one by one": lambda: Bomb(_tensor_with(_many(record(7, VARINT, b"\x01")), 3, 1), (INVALID,)),
    "integers for no shape": lambda: Bomb(
        _tensor_with(record(10, BYTES, bytes(UNPACKED_BYTES)), 9, 1, 10), (INVALID,)
    ),
    "halves for no shape": lambda: Bomb(
        _tensor_with(record(13, BYTES, bytes(UNPACKED_BYTES)), 19, 10), (INVALID,)
    ),
    "content for no shape": lambda: Bomb(
        _tensor_with(record(4, BYTES, bytes(UNPACKED_BYTES)), 1, 10), (INVALID,)
    ),
    "a tensor in many parts": lambda: Bomb(
        _packed(
            record(2, BYTES, record(1, BYTES, b"x") + _many(record(2, BYTES, record(5, FIXED32, bytes(4)))))
            + _model()
        ),
        (INVALID,),
    ),
    "more than may come of it": lambda: Bomb(_packed(_many(record(3, BYTES, b""), 50_000_000)), (EXHAUSTED,)),
    "members of nothing": lambda: Bomb(_EMPTY_MEMBER * 2900, (INVALID,)),
    "one value for a large shape": lambda: Bomb(
        _model() + _entry(_head(1, 100_000_000) + _ONE_FLOAT), (EXHAUSTED, INVALID), "", False
    ),
    "one value for a shape that the model lacks": lambda: Bomb(
        _model() + _entry(_head(1, 10_000_000, 10) + _ONE_FLOAT), (INVALID,), "", False
    ),
    "no value for a large shape": lambda: Bomb(
        _model() + _entry(_head(3, 1 << 31)), (EXHAUSTED, INVALID), "", False
    ),
    "one half for a large shape": lambda: Bomb(
        _model() + _entry(_head(19, 1 << 28) + record(13, BYTES, b"\x01")),
        (EXHAUSTED, INVALID),
        "",
        False,
    ),
    "a shape beyond all numbers": lambda: Bomb(
        _model() + _entry(_head(1, *[(1 << 62)] * 300) + _ONE_FLOAT), (INVALID,), "", False
    ),
}

GARBAGE: Mapping[str, Bomb] = {
    "no gzip": Bomb(b"garbage", (INVALID,)),
    "nothing": Bomb(b"", (INVALID,)),
    "cut off": Bomb(_packed(_GOOD)[:-3], (INVALID,)),
    "another checksum": Bomb(_packed(_GOOD)[:-8] + bytes(4) + _packed(_GOOD)[-4:], (INVALID,)),
    "another length": Bomb(_packed(_GOOD)[:-1] + b"\x01", (INVALID,)),
    "garbage behind it": Bomb(_packed(_GOOD) + b"garbage", (INVALID,)),
    "gzip for deflate": Bomb(_packed(_GOOD)[:-3], (INVALID,), "deflate"),
    "deflate cut off": Bomb(zlib.compress(_GOOD)[:-3], (INVALID,), "deflate"),
    "an unknown encoding": Bomb(_packed(_GOOD), (UNIMPLEMENTED,), "snappy"),
}
"""What is packed in no way, or in another one than the call says."""
GOOD: Mapping[str, Bomb] = {
    "gzip": Bomb(_packed(_GOOD), (0,)),
    "deflate": Bomb(zlib.compress(_GOOD), (0,), "deflate"),
    "two members": Bomb(_packed(_GOOD[:9]) + _packed(_GOOD[9:]), (0,)),
    "plain in a call with an encoding": Bomb(_GOOD, (0,), "gzip", False),
}
"""What must go on to be answered."""


@functools.cache
def bomb(name: str) -> Bomb:
    """The bomb of a name; made when it is asked for, as all of them together take a second."""
    return _MAKERS[name]()


BOMBS = tuple(_MAKERS)


def answers(port: int, request: Bomb, times: int = 1) -> Counter[str]:
    """What the server says to a call, each on a connection of its own: later answers may refer to earlier ones."""
    reactions: Counter[str] = Counter()
    for number in range(times):
        attacker = Attacker(port, reactions)
        attacker.send(request.frames(1))
        eventually(functools.partial(is_answered, attacker, number), _ANSWER_WITHIN_S, "an answer")
        attacker.close()
    # Who is refused before the request's end is told to stop sending, too.
    return Counter({heard: count for heard, count in reactions.items() if heard != "rst NO_ERROR"})


def is_answered(attacker: Attacker, seen: int = 0) -> bool:
    """Whether there was a further status; reads meanwhile."""
    attacker.listen(0.01)
    return sum(count for heard, count in attacker.reactions.items() if heard.startswith("status")) > seen


def main(port: int) -> None:
    """Send what is asked for."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for line in sys.stdin:
        seconds, _, name = line.strip().partition(" ")
        request = bomb(name)
        print("{}", flush=True)  # noqa: T201  # it is made
        until = time.monotonic() + float(seconds)
        heard: Counter[str] = Counter()
        while not heard or time.monotonic() < until:
            heard += answers(port, request)
        print(json.dumps(heard), flush=True)  # noqa: T201  # for the test


if __name__ == "__main__":
    main(int(sys.argv[1]))
