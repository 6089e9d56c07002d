# SPDX-License-Identifier: Apache-2.0
"""Repeated fields of strings: as protobuf's own classes write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.front.protobuf.strings import delimited
from ovms_mp.front.strings import Strings
from ovms_mp.front.tfs._proto.tensorflow_framework_pb2 import TensorProto
from ovms_mp.front.tfs.protobuf.tags import STRINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

LENGTHS = (127, 128, 16383, 16384, (1 << 21) - 1, 1 << 21)


@pytest.mark.parametrize(
    "items",
    [
        [],
        [b""],
        [b"\0\xff"],
        [b"a" * length for length in LENGTHS],
        [b""] * 100,
        [b"", b"a", b"\0" * 200] * 5000,
        [bytes(index % 251 for index in range(length)) for length in (*range(300), *LENGTHS)],
    ],
)
def test_protobuf_writes_the_same(items: Sequence[bytes]) -> None:
    expected = TensorProto(string_val=items).SerializeToString()
    assert bytes(delimited(Strings.of(items), STRINGS)) == expected
