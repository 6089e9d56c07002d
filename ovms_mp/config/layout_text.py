# SPDX-License-Identifier: Apache-2.0
"""Layouts as OVMS writes them: ``"NHWC"``, ``"N?HWC"``, ``"NHWC:NCHW"`` for clients' NHWC before a model's NCHW. Pure.

``?`` is a dimension without a name, ``...`` any number of them. See :mod:`ovms_mp.config.shape_text` for how errors
are told.
"""

from __future__ import annotations

import re

from ovms_mp.errors import ConfigError

LETTERS = "NCHWD"
_SIDE = re.compile(rf"[{LETTERS}?]*(\.\.\.)?[{LETTERS}?]*")


def parse_layout(value: object) -> tuple[str, str]:
    """Read a layout: the clients' side, and the model's or an empty text where only one is given.

    Raises:
        ConfigError: Why it is not valid.
    """
    if not isinstance(value, str):
        raise ConfigError("a layout must be a string")
    client, colon, model = "".join(value.split()).upper().partition(":")
    for side in (client, model) if colon else (client,):
        _check_side(side)
    if model and "..." not in client + model and sorted(client) != sorted(model):
        raise ConfigError(f"{client} cannot be transposed to {model}: both sides need the same letters")
    return client, model


def names_channels(layout: str) -> bool:
    """Whether a layout says which dimension the channels are."""
    return "C" in layout


def _check_side(side: str) -> None:
    if not side:
        raise ConfigError("one side of it is empty")
    if _SIDE.fullmatch(side) is None:
        raise ConfigError(f"'{side[:40]}' may contain only {', '.join(LETTERS)}, ? and at most one ...")
    twice = [letter for letter in LETTERS if side.count(letter) > 1]
    if twice:
        raise ConfigError(f"{side[:40]} contains {twice[0]} twice")
