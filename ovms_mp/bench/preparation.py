# SPDX-License-Identifier: Apache-2.0
"""From a server's address and a model's name to a request that is known to be answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.bench.asking import Answer, ask
from ovms_mp.bench.dialects import Dialect
from ovms_mp.bench.endpoint import Endpoint, Trust
from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.inputs import make_tensors
from ovms_mp.bench.wire_client import OK, WireRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.bench.dialects import Api

_MOST_SHOWN = 200
_METRICS_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is asked for.

    Attributes:
        given: Values of inputs, shapes of inputs: see :func:`~ovms_mp.bench.inputs.make_tensors`.
    """

    endpoint: Endpoint
    model: str
    api: Api = "kserve"
    version: str = ""
    key: str = ""
    trust: Trust
    given: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    batch: int = 1
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that was answered once.

    Attributes:
        answer_bytes: Size of that answer's body.
        inputs: What it sends, for people.
        notes: What they should know of it.
    """

    request: WireRequest
    answer_bytes: int
    inputs: tuple[str, ...]
    notes: tuple[str, ...]


def prepare(subject: Subject) -> Prepared:
    """Ask what the model takes, make a request of that, and have it answered once.

    Raises:
        NoMeasurement: The server is not there, or does not answer; the text says what came instead.
        ConfigError: The given inputs do not fit the model.
    """
    return asyncio.run(_prepare(subject))


async def _prepare(subject: Subject) -> Prepared:
    endpoint = subject.endpoint
    dialect = Dialect(endpoint, subject.api, subject.model, subject.version, subject.key)
    described = await ask(endpoint, subject.trust, dialect.metadata_request(), subject.timeout_s)
    _check(subject, described, "metadata")
    tensors, notes = make_tensors(
        dialect.inputs(described.body), subject.given, subject.shapes, subject.batch
    )
    request = dialect.inference_request(tensors)
    answer = await ask(endpoint, subject.trust, request, subject.timeout_s)
    _check(subject, answer, "inference")
    return Prepared(
        request=request,
        answer_bytes=len(answer.body),
        inputs=tuple(tensor.text() for tensor in tensors),
        notes=notes,
    )


def _check(subject: Subject, answer: Answer, what: str) -> None:
    if answer.outcome == OK:
        return
    detail = " ".join(_said(answer.detail).split())[:_MOST_SHOWN]
    hint = ""
    if answer.outcome in ("UNIMPLEMENTED", "HTTP 404") and what == "metadata" and not detail:
        hint = "; does it speak another API? see --api"
    elif answer.outcome in ("UNAUTHENTICATED", "PERMISSION_DENIED", "HTTP 401", "HTTP 403"):
        hint = "; give --api_key"
    raise NoMeasurement(
        f"{subject.endpoint.url} refuses the first {what} request for {subject.model!r}: {answer.outcome}"
        f"{f' ({detail})' if detail else ''}{hint}"
    )


def _said(detail: str) -> str:
    """What a server says of a failure, without the JSON around it."""
    try:
        document = msgspec.json.decode(detail)
    except (msgspec.MsgspecError, RecursionError):
        return detail
    return str(document["error"]) if isinstance(document, dict) and "error" in document else detail


def read_metrics(endpoint: Endpoint, trust: Trust, key: str) -> str | None:
    """The server's metrics; None where it has none to show.

    Args:
        endpoint: A REST port.
        trust: For TLS.
        key: API key; empty for none.
    """
    request = Dialect(endpoint, "kserve", "", "", key).rest("GET", "/metrics")
    try:
        answer = asyncio.run(ask(endpoint, trust, request, _METRICS_TIMEOUT_S))
    except NoMeasurement:
        return None
    return answer.body.decode("utf-8", "replace") if answer.outcome == OK else None
