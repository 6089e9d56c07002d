# SPDX-License-Identifier: Apache-2.0
"""Field blocks: put together from HEADERS and CONTINUATION, decoded, encoded (RFC 9113, 4.3 and 6.10; RFC 7541).

Decoding is the ``hpack`` library. What we send never uses the dynamic table, so it can be encoded once for all.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError

from ovms_mp.front.grpc.http2.faults import ErrorCode, Fault
from ovms_mp.front.grpc.http2.headers import FieldSection
from ovms_mp.front.grpc.http2.limits import Hit, Limits

_CACHED_BLOCKS = 64
_LONGEST_CACHED_BLOCK = 4096
_MOST_SIZE_UPDATES = 2
"""In a block: the least size since the last one, then the final one (RFC 7541, 4.2)."""
_SIZE_UPDATE_BITS = 0x1F
"""Of the first octet of a dynamic table size update, for its number; all of them set: more octets follow."""

_encoder = Encoder()


def encode_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A field block that neither needs nor changes a dynamic table: literals are 'never indexed'."""
    return _encoder.encode([(name, value, True) for name, value in fields], huffman=False)


class BlockAssembler:
    """The fragments of the field block that is on its way, if there is one.

    Attributes:
        nbytes: The length of the fragments so far.
        flags: Those of HEADERS; its END_STREAM counts, not that of CONTINUATION (6.10).
    """

    def __init__(self, limits: Limits) -> None:
        self.nbytes = 0
        self.flags = 0
        self._stream_id = 0
        self._continuations = 0
        self._max_continuations = limits.max_continuations
        self._fragments: list[bytes] = []

    def begin(self, flags: int, stream_id: int, fragment: memoryview) -> None:
        """Take the first fragment, of HEADERS."""
        self.flags = flags
        self._stream_id = stream_id
        self._continuations = 0
        self._append(fragment)

    def go_on(self, stream_id: int, fragment: memoryview) -> None:
        """Take a further fragment, of CONTINUATION.

        Raises:
            Fault: It is another stream's, or there are too many of them.
        """
        if stream_id != self._stream_id:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of another stream")
        self._continuations += 1
        if self._continuations > self._max_continuations:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames", Hit.CONTINUATIONS)
        self._append(fragment)

    def _append(self, fragment: memoryview) -> None:
        self._fragments.append(bytes(fragment))
        self.nbytes += len(fragment)

    def end(self) -> bytes:
        """The whole block, which is forgotten here."""
        block = b"".join(self._fragments)
        self._fragments.clear()
        self.nbytes = 0
        return block


class BlockDecoder:
    """Decodes the blocks of one connection.

    PERF: most blocks of a client equal an earlier one (8 fields: 17 us decoded, 0.1 us remembered). One is remembered
    if decoding it changed nothing in the table, until something does: as long as that is the same, so is its meaning.
    """

    def __init__(self, hard_limit_bytes: int) -> None:
        self._decoder = Decoder(max_header_list_size=hard_limit_bytes)
        self._table = self._decoder.header_table.dynamic_entries
        self._known: dict[bytes, FieldSection] = {}

    def decode(self, block: bytes) -> FieldSection:
        """Decode a block. Each one must pass here, in its order, wanted or not (RFC 9113, 4.3).

        Raises:
            Fault: It cannot be decoded, or is too large when it is.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        is_resized = _is_size_update(block, 0)
        if is_resized:
            _check_size_updates(block)
        newest = self._newest_entry()
        section = self._decode(block)
        # An insertion puts a new tuple first or clears the table; a size update, which may evict, is possible only at
        # the start of a block: the library refuses it elsewhere (RFC 7541, 2.3.2, 4.2 and 4.4).
        has_changed = is_resized or self._newest_entry() is not newest
        if has_changed or len(self._known) >= _CACHED_BLOCKS:
            self._known.clear()
        if not has_changed and len(block) <= _LONGEST_CACHED_BLOCK:
            self._known[block] = section
        return section

    def _newest_entry(self) -> object:
        return self._table[0] if self._table else None

    def _decode(self, block: bytes) -> FieldSection:
        try:
            return FieldSection(list(self._decoder.decode(block, raw=True)))
        except OversizedHeaderListError:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "undecodable headers", Hit.HEADER_LIST) from None
        except HPACKError:
            raise Fault(ErrorCode.COMPRESSION_ERROR, "undecodable headers") from None


def _is_size_update(block: bytes, position: int) -> bool:
    """Whether the octet there begins a dynamic table size update, 001xxxxx (RFC 7541, 6.3)."""
    return position < len(block) and 0x20 <= block[position] < 0x40


def _check_size_updates(block: bytes) -> None:
    """Refuse a block with more size updates than any encoder needs. The library takes a block full of them."""
    position = count = 0
    while _is_size_update(block, position):
        count += 1
        if count > _MOST_SIZE_UPDATES:
            raise Fault(ErrorCode.COMPRESSION_ERROR, "too many table size updates in a header block")
        is_last = block[position] & _SIZE_UPDATE_BITS != _SIZE_UPDATE_BITS
        position += 1
        while not is_last and position < len(block):
            # All further octets of the number but the last have the top bit (RFC 7541, 5.1).
            is_last = block[position] < 0x80
            position += 1
