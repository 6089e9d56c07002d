# SPDX-License-Identifier: Apache-2.0
"""Values of a tensor that came one by one, in fields by their type: noted where they are, counted, then made.

Between those steps the caller holds counts against a shape, so nothing is made of values that nobody takes.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.protobuf.packed import Numbers, count_varints, read_varints
from ovms_mp.front.protobuf.records import BYTES, FIXED32, FIXED64, VARINT
from ovms_mp.front.strings import STEP_ELEMENTS, Strings, refuse_too_many

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from ovms_mp.front.protobuf.records import FieldReader
    from ovms_mp.model.dtypes import AnyArray

_ELEMENT_SIZES = {FIXED32: 4, FIXED64: 8}


@dataclass(frozen=True, slots=True)
class ValueField:
    """A repeated field of values.

    Attributes:
        name: In the .proto file.
        kind: Wire type of one element.
        numbers: What its varints are, if they are.
    """

    name: str
    kind: int
    numbers: Numbers = Numbers.UINT64


class Values:
    """What a tensor has in such fields.

    Attributes:
        counts: Elements by the field's name; complete after :meth:`count`.
    """

    def __init__(self, body: memoryview, fields: Mapping[int, ValueField]) -> None:
        """Begin without values.

        Args:
            body: The message.
            fields: By number.
        """
        self._body, self._fields = body, fields
        self._numbers: dict[str, memoryview | bytearray] = {}
        self._places: dict[str, array[int]] = {}
        self.counts: dict[str, int] = {}

    def note(
        self, reader: FieldReader, number: int, kind: int, start: int, stop: int, end: int
    ) -> Generator[None, None, None]:
        """Take a field of the tensor, if it is one of values; of strings those that follow it, too.

        Args:
            reader: Gave the field, and is read on from.
            number: The field's.
            kind: Its wire type.
            start: Where its payload begins.
            stop: Where that ends.
            end: Of the tensor.

        Raises:
            MalformedPayload: There are more strings than any tensor has.
        """
        field = self._fields.get(number)
        if field is None or kind not in (BYTES, field.kind):
            return
        if field.kind == BYTES:
            # Two numbers instead of a view: a string may have no bytes at all. Strings cannot be packed, so they have a
            # limit of their own.
            places = self._places.setdefault(field.name, array("i"))
            places.extend((start, stop))
            before = 0
            while before != stop:
                before, stop = stop, reader.read_alike(number, stop, end, STEP_ELEMENTS, places)
                refuse_too_many(len(places) // 2, "the request")
                yield
            return
        part = self._body[start:stop]
        earlier = self._numbers.get(field.name)
        if not earlier:
            self._numbers[field.name] = part
            return
        # An element has the same bytes alone as in a packed field, so all parts are one packed field.
        if isinstance(earlier, memoryview):
            earlier = self._numbers[field.name] = bytearray(earlier)
        earlier += part

    def count(self, input_name: str) -> Generator[None, None, None]:
        """Fill ``counts``; yields now and then.

        Args:
            input_name: For messages.

        Raises:
            MalformedPayload: A field is no sequence of its elements.
        """
        for field in self._fields.values():
            payload = memoryview(self._numbers.get(field.name, b""))
            if field.kind == VARINT:
                count = yield from count_varints(payload)
            elif field.kind == BYTES:
                count = len(self._places.get(field.name, ())) // 2
            else:
                size = _ELEMENT_SIZES[field.kind]
                count = -1 if len(payload) % size else len(payload) // size
            if count < 0:
                raise MalformedPayload(f"Input {input_name!r}: {field.name} does not consist of numbers")
            if count:
                self.counts[field.name] = count

    def octets(self, name: str) -> memoryview:
        """The payload of a field of numbers of fixed size: their memory."""
        return memoryview(self._numbers[name])

    def numbers(
        self, field: ValueField, numpy: np.dtype[np.generic], input_name: str
    ) -> Generator[None, None, AnyArray]:
        """The values of a field of numbers, one-dimensional; yields now and then.

        Args:
            field: Whose.
            numpy: Of the result; for numbers of fixed size their own.
            input_name: For messages.

        Raises:
            MalformedPayload: A number does not fit.
        """
        if field.kind != VARINT:
            return np.frombuffer(self.octets(field.name), numpy)
        count = self.counts[field.name]
        return (
            yield from read_varints(
                self.octets(field.name), count, field.numbers, numpy, f"Input {input_name!r}: {field.name}"
            )
        )

    def strings(self, name: str) -> Strings:
        """The elements of a field of bytes, where they are in the message."""
        places = np.array(self._places.get(name, ()), np.int32)
        starts = places[0::2]
        return Strings(self._body, starts, places[1::2] - starts)
