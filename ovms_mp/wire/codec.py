# SPDX-License-Identifier: Apache-2.0
"""Messages to bytes and back.

They are msgspec structs in MessagePack. Decoding is typed, so anything that is not one of them is a
:class:`~ovms_mp.errors.ProtocolError`, never an object of the sender's choice.
"""

from __future__ import annotations

import msgspec

from ovms_mp.errors import ProtocolError
from ovms_mp.wire.messages import ToChild, ToManager
from ovms_mp.wire.tasks import FromFront, InferFailed, InferResult, ToFront, ToWorker

_ENCODER = msgspec.msgpack.Encoder()
_TO_MANAGER: msgspec.msgpack.Decoder[ToManager] = msgspec.msgpack.Decoder(ToManager)
_TO_CHILD: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_TO_FRONT: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)

_NOT_A_MESSAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are none of ours: wrong structure, broken text, nesting without end."""

encode = _ENCODER.encode
"""Encode any message, or a batch of data messages, to bytes."""


def decode_to_manager(payload: bytes) -> ToManager:
    """Decode what a child sent.

    Raises:
        ProtocolError: The bytes are no such message.
    """
    try:
        return _TO_MANAGER.decode(payload)
    except _NOT_A_MESSAGE as error:
        raise ProtocolError(f"not a message to the manager: {error}") from None


def decode_to_child(payload: bytes) -> ToChild:
    """Decode what the manager sent.

    Raises:
        ProtocolError: The bytes are no such message.
    """
    try:
        return _TO_CHILD.decode(payload)
    except _NOT_A_MESSAGE as error:
        raise ProtocolError(f"not a message to a child: {error}") from None


def decode_to_worker(payload: bytes) -> ToWorker:
    """Decode a batch of tasks.

    Raises:
        ProtocolError: The bytes are no such batch.
    """
    try:
        return _TO_WORKER.decode(payload)
    except _NOT_A_MESSAGE as error:
        raise ProtocolError(f"not a batch of tasks: {error}") from None


def decode_to_front(payload: bytes) -> ToFront:
    """Decode a batch of answers.

    Raises:
        ProtocolError: The bytes are no such batch.
    """
    try:
        return _TO_FRONT.decode(payload)
    except _NOT_A_MESSAGE as error:
        raise ProtocolError(f"not a batch of answers: {error}") from None


_RAW_BATCH: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])
_TASK: msgspec.msgpack.Decoder[FromFront] = msgspec.msgpack.Decoder(FromFront)
_ANSWER: msgspec.msgpack.Decoder[InferResult | InferFailed] = msgspec.msgpack.Decoder(
    InferResult | InferFailed
)


def salvage_to_worker(payload: bytes) -> tuple[ToWorker, list[InferFailed]]:
    """Decode item by item a batch that cannot be decoded as a whole: its tasks, and answers to those that are none.

    What has no readable task id is left out; a payload that is no batch at all has nothing in it.
    """
    tasks: ToWorker = []
    failures: list[InferFailed] = []
    for item in _items(payload):
        try:
            tasks.append(_TASK.decode(item))
        except _NOT_A_MESSAGE as error:
            failures += _failure_of(item, error)
    return tasks, failures


def salvage_to_front(payload: bytes) -> ToFront:
    """Decode item by item a batch that cannot be decoded as a whole; what is no answer is its task's failure.

    What has no readable task id is left out; a payload that is no batch at all has nothing in it.
    """
    answers: ToFront = []
    for item in _items(payload):
        try:
            answers.append(_ANSWER.decode(item))
        except _NOT_A_MESSAGE as error:
            answers += _failure_of(item, error)
    return answers


def _items(payload: bytes) -> list[msgspec.Raw]:
    try:
        return _RAW_BATCH.decode(payload)
    except _NOT_A_MESSAGE:
        return []


def _failure_of(item: msgspec.Raw, error: Exception) -> list[InferFailed]:
    """The answer to an item whose tag and task id can be read, or nothing."""
    try:
        match msgspec.msgpack.decode(item):
            case [str(), int(task_id), *_] if task_id >= 0:
                return [
                    InferFailed(
                        task_id, ProtocolError.__name__, f"not a message of the data channel: {error}"
                    )
                ]
    except _NOT_A_MESSAGE:
        pass
    return []
