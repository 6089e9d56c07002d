# SPDX-License-Identifier: Apache-2.0
"""JSON bodies to tensors: the one way in which every protocol's bodies are read. Runs in the fronts.

Two readers, one truth. A protocol's scan goes over simdjson's proxies with the :class:`Scanner` of this module, which
takes the numbers out without a Python object each; it knows the plain forms only. At anything else it gives up without
an opinion, and the protocol's reader reads the same bytes from the start with :mod:`~ovms_mp.front.json.reader`. So
that one alone decides what is malformed and words every error, and the scan only has to be right about what it
accepts; tests hold the two together.

Three traps of pysimdjson 7 shape the scanner: ``as_buffer`` flattens ragged arrays without a word, so
regularity is proved apart; looking up a duplicate key finds the first one, where JSON readers take the last;
and lengths saturate at 0xFFFFFF, which ``as_list`` does not notice before it writes past its list.

PERF: [1, 10] floats in 4.7 us; 150,528 floats as [1, 3, 224, 224] in 2.7 ms (1.6 MB) and 3.7 ms (3.0 MB),
where simdjson alone takes 2.5 ms and 3.4 ms, orjson with NumPy 7.4 ms and 8.0 ms; as [150528, 1] (3.3 MB)
6.6 ms, where those take 4.4 ms and 39 ms (CPython 3.11, pysimdjson 7.0, orjson 3.13, AMD EPYC, 2 cores).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

import numpy as np
import simdjson

from ovms_mp.errors import MalformedPayload
from ovms_mp.front.json.reader import EXACT_FLOAT, MAX_DEPTH, load_json, tensor_of
from ovms_mp.front.tensors import NumberTensor
from ovms_mp.model.dtypes import DType, Kind, element_count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.dtypes import AnyArray
    from ovms_mp.model.tensors import TensorSpec

KnownT = TypeVar("KnownT", contravariant=True)
FoundT = TypeVar("FoundT")

_KEPT_PARSER_BYTES = 4 << 20
"""Longest document after which a parser is used again. It keeps pages of 3 times its longest document where
numbers have 20 digits, and of 13 times where they have one, so this bounds what an idle front holds.

PERF: a parser made anew for 3 MB costs up to 5 ms of page faults, where parsing takes 3.3 ms.
"""
_SATURATED_LENGTH = 0xFFFFFF
"""What simdjson says of every array that is as long or longer."""
_WALK_BYTES = 128
"""Text a nested array below which looking at each array costs more than looking at the text."""
_NOT_STRUCTURE = b"0123456789.eE+-truefals \t\r\n"
"""Characters of numbers, booleans and white space."""
_OPENING = ord("[")
_INTEGERS: Final[tuple[tuple[Literal["i", "u"], DType], ...]] = (("i", DType.INT64), ("u", DType.UINT64))

MOST_VALUES = 100_000
"""What the other reader may be given: some ten milliseconds of reading, or of looking for the fault."""
_WORDS: Final = {
    b"-Infinity": (b"-4e-323", -4e-323, -np.inf),
    b"Infinity": (b"4e-323", 4e-323, np.inf),
    b"NaN": (b"3e-323", 3e-323, np.nan),
}
"""Numbers that stand for words which simdjson does not read: text, value, and what they mean."""

_idle_parsers: list[simdjson.Parser] = []


class NotPlain(Exception):
    """A scan met something that it leaves to the other reader."""


class Reading(Protocol[KnownT, FoundT]):
    """How a protocol reads its bodies. ``KnownT`` is what it has to know for that, ``FoundT`` what comes out."""

    @property
    def advice(self) -> str:
        """How to send what is too much for the other reader."""

    def scan(self, document: object, body: bytes | bytearray | memoryview, known: KnownT) -> FoundT:
        """Read a plain body from simdjson's proxies; keeps none of them.

        Raises:
            NotPlain: It is none.
            MalformedPayload: The same.
        """

    def read(self, document: object, known: KnownT) -> FoundT:
        """Read any body from Python objects.

        Raises:
            MalformedPayload: It is not what the protocol has.
        """

    def tensors(self, found: FoundT) -> Iterable[GivenTensor]:
        """The tensors of what was found."""


def read_body(
    reading: Reading[KnownT, FoundT], body: bytes | bytearray | memoryview, known: KnownT
) -> FoundT:
    """Read a body.

    Args:
        reading: The protocol's.
        body: UTF-8 text; ``NaN``, ``Infinity`` and ``-Infinity`` are taken as numbers, as TensorFlow Serving
            does. A ``memoryview`` has format ``B``.
        known: Handed on.

    Raises:
        MalformedPayload: The body is not JSON, or not what the protocol has.
    """
    parser = _idle_parsers.pop() if _idle_parsers else simdjson.Parser()
    is_strict_json = True
    try:
        found = reading.scan(parser.parse(body), body, known)
    except (NotPlain, MalformedPayload):
        pass
    except (ValueError, RuntimeError):
        is_strict_json = False
    else:
        # SAFETY: the proxies ended with the scan; a parser that is lent again while one lives refuses to parse.
        # After a failure a traceback may hold some, so that parser does not come back.
        if len(body) <= _KEPT_PARSER_BYTES:
            _idle_parsers.append(parser)
        return found
    del parser
    if not is_strict_json and (words := _counted_words(body)):
        found_or_none = _scan_words(reading, body, words, known)
        if found_or_none is not None:
            return found_or_none
    _check_values(body, reading.advice)
    return reading.read(load_json(body, is_strict_json), known)


def scan_plain(reading: Reading[KnownT, FoundT], body: bytes | bytearray, known: KnownT) -> FoundT | None:
    """Read a plain body; None where it is anything else, or malformed."""
    parser = _idle_parsers.pop() if _idle_parsers else simdjson.Parser()
    try:
        found = reading.scan(parser.parse(body), body, known)
    except (NotPlain, MalformedPayload, ValueError, RuntimeError):
        return None
    if len(body) <= _KEPT_PARSER_BYTES:
        _idle_parsers.append(parser)
    return found


def scan_with_words(
    reading: Reading[KnownT, FoundT], body: bytes | bytearray, known: KnownT
) -> FoundT | None:
    """Read a plain body, perhaps with words for numbers; None where it is anything else, or malformed."""
    found = scan_plain(reading, body, known)
    if found is None and (words := _counted_words(body)):
        found = _scan_words(reading, body, words, known)
    return found


def _check_values(body: bytes | bytearray | memoryview, advice: str) -> None:
    """Refuse what would keep the front's only thread for long: the other reader takes about 0.3 us a value.

    Raises:
        MalformedPayload: The body is for that reader, and has too many values for it.
    """
    if len(body) <= 2 * MOST_VALUES:
        return
    text = bytes(body) if isinstance(body, memoryview) else body
    refuse_many(sum(map(text.count, (b",", b"[", b"{", b":"))), advice)


def refuse_many(count: int, advice: str) -> None:
    """Refuse a body of so many values for the other reader if they are too many for it.

    Raises:
        MalformedPayload: They are.
    """
    if count > MOST_VALUES:
        raise MalformedPayload(
            f"Invalid inputs in request body: it is not plain lists of numbers of equal lengths, and of the {count} "
            f"values that it has such a body may have {MOST_VALUES} at most; {advice}"
        )


def _counted_words(body: bytes | bytearray | memoryview) -> dict[bytes, int]:
    """How often the text has each word that is a number to TensorFlow Serving, but not in JSON."""
    text = bytes(body) if isinstance(body, memoryview) else body
    counts = {b"NaN": text.count(b"NaN"), b"-Infinity": text.count(b"-Infinity")}
    counts[b"Infinity"] = text.count(b"Infinity") - counts[b"-Infinity"]
    return counts if any(counts.values()) else {}


def _scan_words(
    reading: Reading[KnownT, FoundT],
    body: bytes | bytearray | memoryview,
    words: dict[bytes, int],
    known: KnownT,
) -> FoundT | None:
    """Read a request that is plain but for words, with numbers in their place that nobody sends; None if it is not.

    That nobody did is proved: the values have as many of these numbers as the text had words.
    """
    text = bytes(body)
    for word, (number, _, _) in _WORDS.items():
        text = text.replace(word, number)
    found = scan_plain(reading, text, known)
    if found is None:
        return None
    counts = dict.fromkeys(_WORDS, 0)
    for tensor in reading.tensors(found):
        if not isinstance(tensor, NumberTensor) or tensor.dtype is not DType.FP64:
            continue
        values = np.array(tensor.values)
        for word, (_, stand_in, value) in _WORDS.items():
            if not words[word]:
                continue
            places = values == stand_in
            counts[word] += int(np.count_nonzero(places))
            values[places] = value
        tensor.values = values
    return found if counts == words else None


class Scanner:
    """Reads the tensors of one body, in the order of its text, and proves in the end that they are what they seem."""

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._body = body
        self._shapes: list[tuple[int, ...] | None] = []
        """Of all arrays, in the order of the text; None for one whose elements are no numbers."""
        self._by_text = False

    def opened(self) -> None:
        """Tell that an array of anything but numbers begins; those in it come one by one."""
        self._shapes.append(None)

    def passed(self, *shape: int) -> None:
        """Tell that an array of numbers has been read by the caller."""
        self._shapes.append(shape)

    def tensor(self, value: object, spec: TensorSpec) -> NumberTensor:
        """Read one value.

        Args:
            value: simdjson's proxy of an array, or a value.
            spec: Its dtype tells the kind of numbers to read.
        """
        if spec.dtype.kind is Kind.STRING:
            raise NotPlain
        if not isinstance(value, simdjson.Array):
            return tensor_of(value, spec, "")
        if spec.dtype.kind is Kind.BOOL:
            # Two bytes an element at least, so no length in such a body is saturated.
            if len(self._body) > 2 * _SATURATED_LENGTH:
                raise NotPlain
            tensor = tensor_of(value.as_list(), spec, "")
            self._shapes.append(tensor.shape)
            return tensor
        shape = _first_shape(value)
        dtype, values = _numbers(value, spec.dtype.kind)
        if len(values) != element_count(shape):
            raise NotPlain
        self._shapes.append(shape)
        if self._by_text or _array_count(shape) * _WALK_BYTES > len(self._body):
            self._by_text = True
        else:
            _walk(value, shape)
        return NumberTensor(dtype, shape, values)

    def prove_regular(self) -> None:
        """Give up unless each array read has the shape that its first elements told.

        The elements are already known to be numbers. Where arrays are few, each was visited and had the
        right length, so it is enough that the text has no further ``[``. Where they are many, the text
        without its elements has to be, from one ``[`` to the next, the text of arrays of these shapes: with
        as many of them as arrays were read, and no ``[`` besides, nothing else can stand for those. A ``[``
        in a string fails both.
        """
        if not self._by_text:
            found = np.count_nonzero(np.frombuffer(self._body, np.uint8) == _OPENING)
            if found != sum([1 if shape is None else _array_count(shape) for shape in self._shapes]):
                raise NotPlain
            return
        body = bytes(self._body) if isinstance(self._body, memoryview) else self._body
        text = body.translate(None, _NOT_STRUCTURE)
        end = 0
        for shape in self._shapes:
            start = text.find(b"[", end)
            expected = b"[" if shape is None else _structure(shape)
            end = start + len(expected)
            if text[start:end] != expected:
                raise NotPlain
        if text.find(b"[", end) != -1:
            raise NotPlain


def _numbers(array: simdjson.Array, kind: Kind) -> tuple[DType, AnyArray]:
    """All numbers of an array, flat."""
    if kind is Kind.INTEGER:
        for letter, dtype in _INTEGERS:
            values = _flat(array, letter, dtype)
            if values is not None:
                return dtype, values
    values = _flat(array, "d", DType.FP64)
    if values is None:
        raise NotPlain
    if kind is Kind.INTEGER and not (np.abs(values) < EXACT_FLOAT).all():
        # Integers among the floats may have been rounded.
        raise NotPlain
    return DType.FP64, values


def _flat(array: simdjson.Array, letter: Literal["i", "u", "d"], dtype: DType) -> AnyArray | None:
    """All numbers of an array, or None where they are not of this type."""
    try:
        return np.frombuffer(array.as_buffer(of_type=letter), dtype.numpy)
    except (TypeError, ValueError):
        return None


def _first_shape(array: simdjson.Array) -> tuple[int, ...]:
    """The shape that an array has if all its elements are like the first ones."""
    shape = []
    value: object = array
    while isinstance(value, simdjson.Array):
        size = len(value)
        shape.append(size)
        if size >= _SATURATED_LENGTH or len(shape) > MAX_DEPTH:
            raise NotPlain
        value = value[0] if size else None
    return tuple(shape)


def _array_count(shape: tuple[int, ...]) -> int:
    """How many arrays the text of such an array has, itself included."""
    total = count = 1
    for size in shape[:-1]:
        count *= size
        total += count
    return total


def _walk(array: simdjson.Array, shape: tuple[int, ...]) -> None:
    """Give up unless the array's lengths are these down to the arrays of numbers."""
    arrays = [array]
    for size in shape[1:]:
        inner: list[simdjson.Array] = []
        for parent in arrays:
            for child in parent:
                if not isinstance(child, simdjson.Array) or len(child) != size:
                    raise NotPlain
                inner.append(child)
        arrays = inner


def _structure(shape: tuple[int, ...]) -> bytes:
    """The text of an array of this shape without its numbers, e.g. ``[[,],[,]]``."""
    text = b""
    for size in reversed(shape):
        text = b"[" + ((text + b",") * size)[:-1] + b"]"
    return text
