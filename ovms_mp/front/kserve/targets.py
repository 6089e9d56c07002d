# SPDX-License-Identifier: Apache-2.0
"""What a path below ``/v2/models/`` means: a model, perhaps a version of it, and what is asked of that.

A model's name may hold anything. It is percent-decoded once, after the path was taken apart; a ``/`` in it may stand as
it is, as Triton's client leaves it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

PREFIX = "/v2/models/"
CALLS = ("infer", "ready", "config", "stats", "trace/setting")
"""What may follow a model or its version."""
_MOST_KEPT = 64
"""Paths that are known for now; clients ask for the same few."""


class Target(NamedTuple):
    """A path taken apart.

    Attributes:
        name: The model's name; empty where the path names none.
        version: As it is written; empty without one.
        call: One of :data:`CALLS`, or empty for the metadata.
    """

    name: str
    version: str
    call: str


@lru_cache(_MOST_KEPT)
def target_of(raw_path: bytes) -> Target:
    """Take a path apart.

    Args:
        raw_path: As it was sent, without the query. One slash at its end means nothing.
    """
    path = raw_path.decode("latin-1")
    if not path.startswith(PREFIX):
        return Target("", "", "")
    path = path[len(PREFIX) :].removesuffix("/")
    call = version = ""
    for word in CALLS:
        if path.endswith(f"/{word}"):
            path, call = path[: -len(word) - 1], word
            break
    before, _, text = path.rpartition("/versions/")
    if before and "/" not in text:
        path, version = before, unquote(text)
    return Target(unquote(path), version, call)
