# SPDX-License-Identifier: Apache-2.0
"""Mean, scale, color format and precision as OVMS writes them. Pure.

``TARGET:SOURCE`` has the clients' form first and the model's second, like a layout: OVMS's own example serves an FP32
model to clients that send bytes as ``--precision uint8:fp32``
(https://github.com/openvinotoolkit/model_server, ``demos/using_onnx_model/python/README.md``).
See :mod:`ovms_mp.config.shape_text` for the form of errors.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError
from ovms_mp.model.preprocessing import CLIENT_PRECISIONS, COLOR_FORMATS, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_BRACKETS = re.compile(r"\((?P<round>[^()\[\]]*)\)|\[(?P<square>[^()\[\]]*)\]")


def parse_mean(value: object) -> tuple[float, ...]:
    """Read what to subtract: one number, or one a channel.

    Raises:
        ConfigError: Why it is not valid.
    """
    if isinstance(value, list):
        numbers = tuple(_number(entry) for entry in value)
    elif isinstance(value, str) and (brackets := _BRACKETS.fullmatch(value.strip())):
        inner = (brackets["round"] or brackets["square"] or "").strip()
        numbers = tuple(_number(entry) for entry in inner.removesuffix(",").split(",")) if inner else ()
    else:
        numbers = (_number(value),)
    if not numbers:
        raise ConfigError("it contains no number")
    return numbers


def parse_scale(value: object) -> tuple[float, ...]:
    """Read what to divide by: one number, or one a channel; none may be 0.

    Raises:
        ConfigError: Why it is not valid.
    """
    numbers = parse_mean(value)
    if 0 in numbers:
        raise ConfigError("0 is not allowed, as the input is divided by it")
    return numbers


def parse_color_format(value: object) -> tuple[str, str]:
    """Read a color conversion, e.g. ``NV12:RGB``: the clients' format and the model's, in capitals.

    Raises:
        ConfigError: Why it is not valid.
    """
    client, model = _two_sides(value, COLOR_FORMATS)
    if not COLOR_FORMATS[model].is_for_models:
        accepted = ", ".join(word for word, color in COLOR_FORMATS.items() if color.is_for_models)
        raise ConfigError(f"the model's side must be one of {accepted}; the clients' side comes first")
    return client, model


def parse_precision(value: object) -> tuple[str, str]:
    """Read a conversion of element types, e.g. ``uint8:fp32``: the clients' and the model's, in small letters.

    Raises:
        ConfigError: Why it is not valid.
    """
    client, model = _two_sides(value, PRECISIONS)
    if client not in CLIENT_PRECISIONS:
        raise ConfigError(f"clients cannot send {client}; the clients' side comes first")
    return client, model


def _two_sides(value: object, words: Iterable[str]) -> tuple[str, str]:
    if not isinstance(value, str):
        raise ConfigError("it must be a string of two words separated by a colon")
    sides = "".join(value.split()).split(":")
    if len(sides) != 2:
        raise ConfigError("it must be two words separated by a colon")
    known = {word.lower(): word for word in words}
    for side in sides:
        if side.lower() not in known:
            raise ConfigError(f"'{side[:40]}' is unknown")
    return known[sides[0].lower()], known[sides[1].lower()]


def _number(value: object) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is None:
        raise ConfigError(f"'{value.strip()[:40]}' is not a number")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigError("a number is expected")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError("a number is out of range")
    return number
