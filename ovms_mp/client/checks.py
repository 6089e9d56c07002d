# SPDX-License-Identifier: Apache-2.0
"""What callers give, held against what can be sent, before anything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client.datatypes import as_array
from ovms_mp.client.errors import ClientError, InvalidRequest
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from ovms_mp.client.calls import Parameter
    from ovms_mp.client.datatypes import AnyArray

_LARGEST_VERSION = (1 << 63) - 1
_NUMBERS = range(-(1 << 63), 1 << 64)
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_OURS = frozenset(
    (
        *("connection", "content-length", "content-type", "keep-alive", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)
"""Headers that say how a message is carried, and must not say it wrongly."""


def wrong(message: str) -> ClientError:
    """The failure of what cannot be sent."""
    return InvalidRequest(Code.INVALID_ARGUMENT, message)


def model(name: object) -> None:
    """Refuse what names no model.

    Raises:
        InvalidRequest: It is no text.
    """
    _refuse_no_text(name, "the model")


def version(number: object) -> int:
    """A version, or 0.

    Raises:
        InvalidRequest: It is none.
    """
    if type(number) is int and 0 <= number <= _LARGEST_VERSION:
        return number
    if isinstance(number, np.integer) and number >= 0:
        return int(number)
    raise wrong(f"version {number!r} is no positive number; leave it out, or give 0, for the server's choice")


def tensor(name: str, value: npt.ArrayLike) -> AnyArray:
    """What is given for an input, as an array.

    Raises:
        InvalidRequest: It is none.
    """
    _refuse_no_text(name, "an input")
    try:
        return as_array(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise wrong(f"input {name!r} is no tensor: {error}") from None


def names(outputs: Sequence[str]) -> tuple[str, ...]:
    """Names of outputs; one alone is a list of one.

    Raises:
        InvalidRequest: They are none.
    """
    if isinstance(outputs, str):
        return (outputs,)
    found = tuple(outputs)
    for name in found:
        _refuse_no_text(name, "an output")
    return found


def parameters(given: Mapping[str, Parameter]) -> Mapping[str, Parameter]:
    """Parameters of a request.

    Raises:
        InvalidRequest: One has a value that none can have.
    """
    found = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    for name, value in found.items():
        _refuse_no_text(name, "a parameter")
        is_known = isinstance(value, (int, float, str))
        if not is_known or (isinstance(value, int) and value not in _NUMBERS):
            raise wrong(
                f"parameter {name!r} is {value!r}; accepted: booleans, numbers of at most 64 bits, and text"
            )
        if isinstance(value, str):
            _refuse_no_text(value, f"what parameter {name!r} says")
    return found


def classes(given: Mapping[str, int]) -> Mapping[str, int]:
    """How many classes of outputs are wanted.

    Raises:
        InvalidRequest: A name or a number cannot be sent.
    """
    for name, count in given.items():
        _refuse_no_text(name, "an output")
        if type(count) is not int or count < 1:
            raise wrong(f"classes of output {name!r} is {count!r}, but must be a whole number of at least 1")
    return given


def request_id(text: str) -> None:
    """Refuse what cannot be in a header.

    Raises:
        InvalidRequest: It cannot.
    """
    if not (isinstance(text, str) and text.isascii() and text.isprintable()):
        raise wrong(f"request_id is {text!r}, but must be printable ASCII, as it is sent in a header, too")


def headers(given: Mapping[str, str]) -> dict[str, str]:
    """Headers by lower-case names.

    Raises:
        InvalidRequest: One cannot be sent, or is not the caller's to say.
    """
    found = {}
    for name, value in given.items():
        key = name.lower() if isinstance(name, str) else ""
        if not key or not _TOKEN.issuperset(key) or key in _OURS:
            raise wrong(f"the header {name!r} cannot be given")
        if not (isinstance(value, str) and value.isascii() and value.isprintable()) or value != value.strip():
            raise wrong(
                f"the header {name!r} has a value that is no printable ASCII, or has spaces around it"
            )
        found[key] = value
    return found


def _refuse_no_text(name: object, what: str) -> None:
    if isinstance(name, str):
        try:
            name.encode()
        except UnicodeEncodeError:
            pass
        else:
            return
    raise wrong(f"{what} is named {name!r}, which is no text that UTF-8 has")
