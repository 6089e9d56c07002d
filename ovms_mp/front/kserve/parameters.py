# SPDX-License-Identifier: Apache-2.0
"""What parameters of an inference request mean to the server; those that it does not know are nobody's fault.

Both decoders accept every key with a string, a boolean, a number of 64 bits or a double. Only what the server would
otherwise do wrongly without a word is refused. Meanings: Triton's schedule policy and parameters extensions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovms_mp.errors import MalformedPayload, UnsupportedOperation

if TYPE_CHECKING:
    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.kserve.infer_request import Parameter, Parameters

TIMEOUT, PRIORITY = "timeout", "priority"
SEQUENCE_KEYS = ("sequence_id", "sequence_start", "sequence_end")
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
_RESERVED_PREFIX = "triton_"
_RESERVED = "headers"
_HIGHEST = 1
_DIGITS = re.compile(r"[0-9]{1,20}")
_LARGEST = (1 << 64) - 1
_QUOTED_CHARACTERS = 40


def heed(parameters: Parameters, context: CallContext, now_ns: int) -> None:
    """Do what the parameters of a request ask for. PERF: 0.05 us where there are none.

    Args:
        parameters: Of the request itself, not of its inputs and outputs.
        context: Its deadline becomes what ``timeout`` says where that is earlier.
        now_ns: Monotonic moment of the request's coming, from which ``timeout`` counts.

    Raises:
        MalformedPayload: A key is reserved, or a value is none that its key can have.
        UnsupportedOperation: The request is part of a sequence.
    """
    if not parameters:
        return
    _refuse_reserved(parameters)
    _refuse_sequences(parameters)
    timeout_us = _whole(parameters, TIMEOUT)
    if timeout_us:
        deadline_ns = now_ns + 1000 * timeout_us
        context.deadline_ns = min(context.deadline_ns, deadline_ns) if context.deadline_ns else deadline_ns


def is_urgent(parameters: Parameters) -> bool:
    """Whether the request shall be ahead of ordinary ones: its priority is 1, the highest; 0 is the default.

    Raises:
        MalformedPayload: The priority is no whole number.
    """
    return bool(parameters) and _whole(parameters, PRIORITY) == _HIGHEST


def _refuse_reserved(parameters: Parameters) -> None:
    """Refuse keys that other servers set themselves: what comes behind them may take them for the server's word."""
    for key in parameters:
        if key == _RESERVED or (key.startswith(_RESERVED_PREFIX) and key != EMPTY_FINAL_RESPONSE):
            raise MalformedPayload(
                f"parameter {_quoted(key)} is reserved for servers; of keys that begin with {_RESERVED_PREFIX!r} a "
                f"request may have {EMPTY_FINAL_RESPONSE!r} only"
            )


def _refuse_sequences(parameters: Parameters) -> None:
    for key in SEQUENCE_KEYS:
        value = parameters.get(key)
        if value:
            raise UnsupportedOperation(
                f"parameter {key!r} is {_quoted(value)}, but sequences are not supported: a model would answer each "
                f"request of one as if nothing had come before it. Leave {', '.join(SEQUENCE_KEYS)} away for requests "
                f"that do not depend on others"
            )


def _whole(parameters: Parameters, key: str) -> int:
    """A parameter that is a whole number, perhaps as text; 0 without one."""
    value = parameters.get(key, 0)
    number: int | float = -1
    if isinstance(value, str):
        number = int(value) if _DIGITS.fullmatch(value) else -1
    elif not isinstance(value, bool):
        number = value
    if not 0 <= number <= _LARGEST or number != int(number):
        raise MalformedPayload(
            f"parameter {key!r} is {_quoted(value)}, expected a whole number from 0 to {_LARGEST}"
            + (
                " (microseconds; 0 for the server's own limit)"
                if key == TIMEOUT
                else " (0: default, 1: highest)"
            )
        )
    return int(number)


def _quoted(value: Parameter) -> str:
    text = repr(value)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."
