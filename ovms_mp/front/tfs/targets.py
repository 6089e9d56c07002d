# SPDX-License-Identifier: Apache-2.0
"""What a path below ``/v1/models/`` means: a model, perhaps a version or label of it, and what is asked of that.

A model's name may hold anything. It is percent-decoded once, after the path was taken apart; a ``/`` in it may stand as
it is where no other reading is possible: ``org%2Fname:predict`` and ``org/name:predict`` are the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

PREFIX = "/v1/models/"
PREDICT = "predict"
METADATA = "metadata"
_CHOICES = ("versions", "labels")
_MOST_KEPT = 64
"""Paths that are known for now; clients ask for the same few. PERF: 0.1 us instead of 0.5."""


class Target(NamedTuple):
    """A path taken apart.

    Attributes:
        name: The model's name; empty where the path names none.
        version: As it is written; empty without one.
        label: Empty without one.
        call: What is asked for: ``predict`` or another word behind a colon, ``metadata``, or nothing for the status.
    """

    name: str
    version: str
    label: str
    call: str


@lru_cache(_MOST_KEPT)
def target_of(raw_path: bytes, is_call: bool) -> Target:
    """Take a path apart.

    Args:
        raw_path: As it was sent, without the query.
        is_call: Whether any word behind the last colon is what is asked for; else only ``predict`` is, as a model's
            name may have colons, too.
    """
    path = raw_path.decode("latin-1")
    if not path.startswith(PREFIX):
        return Target("", "", "", "")
    path = path[len(PREFIX) :]
    call = version = label = ""
    before, colon, word = path.rpartition(":")
    if colon and (word == PREDICT or (is_call and "/" not in word)):
        path, call = before, word
    if "/" in path:
        path, call, version, label = _parts(path, call)
    if "%" in path:
        path = unquote(path)
    return Target(path, version, label, call)


def _parts(path: str, call: str) -> tuple[str, str, str, str]:
    """The name as it is written, what is asked for, version and label."""
    segments = path.split("/")
    if not call and len(segments) > 1 and segments[-1] == METADATA:
        call = segments.pop()
    version = label = ""
    if len(segments) > 2 and segments[-2] in _CHOICES:
        choice, text = segments[-2], unquote(segments[-1])
        version, label = (text, "") if choice == "versions" else ("", text)
        del segments[-2:]
    return "/".join(segments), call, version, label
