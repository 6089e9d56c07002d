# SPDX-License-Identifier: Apache-2.0
"""The codec: every message survives it, and nothing but a message comes out of it."""

from __future__ import annotations

import builtins
import math
import types
import typing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.errors import ModelLoadFailed, OvmsError, ProtocolError
from ovms_mp.model.input_settings import InputSettings
from ovms_mp.wire import messages, tasks
from ovms_mp.wire.codec import decode_to_child, decode_to_front, decode_to_manager, decode_to_worker, encode
from ovms_mp.wire.messages import LoadModel
from ovms_mp.wire.records import ErrorRecord, ModelSettings, TensorRef
from ovms_mp.wire.tasks import CancelTask, InferFailed, InferResult, InferTask

if TYPE_CHECKING:
    from collections.abc import Callable

DECODERS: dict[str, Callable[[bytes], object]] = {
    "to_manager": decode_to_manager,
    "to_child": decode_to_child,
    "to_worker": decode_to_worker,
    "to_front": decode_to_front,
}

TEXT = st.text(max_size=12)
INT = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False)


def strategy_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, whatever messages consist of."""
    if kind in _LEAVES:
        return _LEAVES[kind]
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Union | types.UnionType:
            return st.one_of(*(strategy_of(member) for member in arguments))
        case builtins.tuple if arguments[-1] is Ellipsis:
            return st.lists(strategy_of(arguments[0]), max_size=2).map(tuple)
        case builtins.tuple:
            return st.tuples(*(strategy_of(member) for member in arguments))
        case builtins.list:
            return st.lists(strategy_of(arguments[0]), max_size=2)
        case builtins.dict:
            return st.dictionaries(strategy_of(arguments[0]), strategy_of(arguments[1]), max_size=3)
        case _:
            fields = typing.get_type_hints(kind)
            return st.builds(kind, **{name: strategy_of(member) for name, member in fields.items()})


_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT, int: INT, float: FLOAT, bool: st.booleans(), types.NoneType: st.none()
}  # fmt: skip


def kinds_of(union: Any) -> dict[type, st.SearchStrategy[Any]]:
    """A channel's message types, and values of each."""
    return {kind: strategy_of(kind) for kind in typing.get_args(union)}


TO_MANAGER = kinds_of(messages.ToManager)
TO_CHILD = kinds_of(messages.ToChild)
TO_WORKER = kinds_of(typing.get_args(tasks.ToWorker)[0])
TO_FRONT = kinds_of(typing.get_args(tasks.ToFront)[0])
CHANNELS = {"to_manager": TO_MANAGER, "to_child": TO_CHILD, "to_worker": TO_WORKER, "to_front": TO_FRONT}
BATCHES = ("to_worker", "to_front")


def everything(channel: str) -> st.SearchStrategy[Any]:
    """Whatever may be on a channel at once."""
    one = st.one_of(*CHANNELS[channel].values())
    return st.lists(one, max_size=4) if channel in BATCHES else one


ANY_PAYLOAD = st.sampled_from(sorted(CHANNELS)).flatmap(
    lambda channel: st.tuples(st.just(channel), everything(channel))
)


def test_every_message_type_has_its_channel() -> None:
    declared = {
        cls
        for cls in (*vars(messages).values(), *vars(tasks).values())
        if isinstance(cls, type) and issubclass(cls, (messages.Message, tasks.HotMessage))
    } - {messages.Message, tasks.HotMessage}

    assert declared == {kind for kinds in CHANNELS.values() for kind in kinds}
    assert len(declared) == sum(len(kinds) for kinds in CHANNELS.values())


@pytest.mark.parametrize(
    ("channel", "kind"), [(channel, kind) for channel, kinds in CHANNELS.items() for kind in kinds]
)
@given(data=st.data())
def test_round_trip(channel: str, kind: type, data: st.DataObject) -> None:
    message = data.draw(CHANNELS[channel][kind])
    sent = [message] if channel in BATCHES else message
    received = DECODERS[channel](encode(sent))

    assert received == sent
    # 1, 1.0 and True are equal, but not the same property value.
    assert repr(received) == repr(sent)


@pytest.mark.parametrize("channel", BATCHES)
@given(data=st.data())
def test_round_trip_of_batches(channel: str, data: st.DataObject) -> None:
    batch = data.draw(everything(channel))

    assert DECODERS[channel](encode(batch)) == batch


@given(payload=ANY_PAYLOAD)
def test_a_message_is_understood_on_its_own_channel_only(payload: tuple[str, Any]) -> None:
    channel, message = payload
    encoded = encode(message)
    for name, decode in DECODERS.items():
        if name == channel or message == []:
            continue
        with pytest.raises(ProtocolError):
            decode(encoded)


@given(payload=ANY_PAYLOAD, data=st.data())
def test_part_of_a_message_or_more_than_one_is_refused(payload: tuple[str, Any], data: st.DataObject) -> None:
    channel, message = payload
    encoded = encode(message)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\x00", encoded + encoded):
        with pytest.raises(ProtocolError):
            DECODERS[channel](wrong)


PLAIN = st.recursive(
    st.none() | st.booleans() | INT | st.floats() | TEXT | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | INT, inner, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from([kind.__name__ for kinds in CHANNELS.values() for kind in kinds])
NEARLY = st.one_of(
    PLAIN,
    # The right names around the wrong values.
    st.builds(lambda name, body: {"type": name, **body}, NAMES, st.dictionaries(TEXT, PLAIN, max_size=3)),
    st.lists(st.builds(lambda name, body: [name, *body], NAMES, st.lists(PLAIN, max_size=6)), max_size=2),
)


@given(document=NEARLY)
def test_other_documents_are_messages_or_protocol_errors(document: object) -> None:
    payload = msgspec.msgpack.encode(document)
    for decode in DECODERS.values():
        try:
            decoded = decode(payload)
        except ProtocolError as error:
            assert str(error).startswith("not a ")  # noqa: PT017  # either outcome is right, by its own rule
        else:
            assert decode(encode(decoded)) == decoded


@given(payload=st.lists(st.integers(0, 0x7F)).map(bytes))
def test_arbitrary_small_numbers_are_refused(payload: bytes) -> None:
    for decode in DECODERS.values():
        with pytest.raises(ProtocolError):
            decode(payload)


@pytest.mark.parametrize("kinds", [TO_MANAGER, TO_CHILD])
@given(data=st.data())
def test_unknown_fields_are_refused(kinds: dict[type, st.SearchStrategy[Any]], data: st.DataObject) -> None:
    message = data.draw(st.one_of(*kinds.values()))
    fields = msgspec.msgpack.decode(encode(message)) | {"surplus": 1}
    decode = decode_to_manager if kinds is TO_MANAGER else decode_to_child

    with pytest.raises(ProtocolError, match="surplus"):
        decode(msgspec.msgpack.encode(fields))


def test_unknown_fields_of_data_messages_are_refused() -> None:
    for message, decode in (
        (InferTask(1, 2, (), 0, 0, 0), decode_to_worker),
        (CancelTask(1), decode_to_worker),
        (InferResult(1, ()), decode_to_front),
        (InferFailed(1, "QueueFull", "text", 0), decode_to_front),
    ):
        fields = msgspec.msgpack.decode(encode(message))
        with pytest.raises(ProtocolError):
            decode(msgspec.msgpack.encode([[*fields, 0]]))


def test_a_batch_costs_little_more_than_its_tensors() -> None:
    task = InferTask(1, 2, (TensorRef(0, 602112, (1, 3, 224, 224)),), 602112, 64, 2**50)

    assert len(encode([task])) < 100


def test_an_error_record_is_the_exception_again() -> None:
    again = ErrorRecord.of(ModelLoadFailed("no such file")).to_error()

    assert type(again) is ModelLoadFailed
    assert again.message == "no such file"
    assert type(ErrorRecord("Nameless", "x").to_error()) is OvmsError


def test_infinities_of_properties_survive() -> None:
    settings = ModelSettings("CPU", 0, {"A": math.inf}, InputSettings(), False, 1, 1)
    message = decode_to_child(encode(LoadModel(1, "m", 1, "f", settings)))

    assert isinstance(message, LoadModel)
    assert message.settings.plugin_config == {"A": math.inf}
