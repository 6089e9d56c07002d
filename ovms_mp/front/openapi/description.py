# SPDX-License-Identifier: Apache-2.0
"""What a protocol says of its REST calls, for people and for generators of clients; transports do not read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
Schema: TypeAlias = Mapping[str, Json]

JSON, TEXT, OCTETS = "application/json", "text/plain", "application/octet-stream"
NO_BODY: Mapping[str, Schema] = {}


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. Failures that any call may have are not named here.

    Attributes:
        summary: One line.
        answers: The good answer's schema by its content type; nothing where it has no body.
        body: The request's, in the same way.
        statuses: What else it may say, with the meaning of each.
        needs_body: Whether an empty body is an error.
        headers: Those of the request that have a meaning, with it.
    """

    summary: str
    answers: Mapping[str, Schema]
    body: Mapping[str, Schema] = field(default_factory=lambda: NO_BODY)
    statuses: Mapping[int, str] = field(default_factory=dict)
    needs_body: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """A protocol.

    Attributes:
        title: Its name for people.
        operations: By HTTP method and the endpoint's name.
        schemas: By name, for ``ref``.
    """

    title: str
    operations: Mapping[tuple[str, str], Operation]
    schemas: Mapping[str, Schema]


def ref(name: str) -> Schema:
    """The schema of this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these keys, and perhaps others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def list_of(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def map_of(values: Schema) -> Schema:
    """An object with any keys."""
    return {"type": "object", "additionalProperties": values}


def one_of(*words: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(words)}


ANYTHING: Schema = {}
TRUTH: Schema = {"type": "boolean"}
STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
EMPTY: Schema = {"type": "object", "maxProperties": 0}
