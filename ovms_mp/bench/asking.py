# SPDX-License-Identifier: Apache-2.0
"""Connections to a server, and single requests over them: metadata, the first inference, ``/metrics``."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.bench.failure import NoMeasurement
from ovms_mp.bench.http1_client import Http1Client
from ovms_mp.bench.http2_client import Http2Client
from ovms_mp.bench.wire_client import OK, WireClient, WireRequest

if TYPE_CHECKING:
    from ovms_mp.bench.endpoint import Endpoint, Trust
    from ovms_mp.bench.wire_client import Listener

_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back of one request.

    Attributes:
        outcome: Empty, or a code for people.
        detail: What the server says of a failure.
    """

    outcome: str
    body: bytes
    detail: str


async def connect(
    endpoint: Endpoint, trust: Trust, request: WireRequest, listener: Listener, *, keeps_body: bool = False
) -> WireClient:
    """Open a connection that is ready for requests.

    Raises:
        NoMeasurement: There is nobody, or somebody who speaks something else.
    """
    loop = asyncio.get_running_loop()
    kind = Http2Client if endpoint.is_grpc else Http1Client
    context = trust.context(is_grpc=endpoint.is_grpc) if endpoint.is_secure else None

    def made() -> WireClient:
        return kind(request, listener, keeps_body=keeps_body)

    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if endpoint.unix_path:
                _, client = await loop.create_unix_connection(made, endpoint.unix_path)
            else:
                _, client = await loop.create_connection(made, endpoint.host, endpoint.port, ssl=context)
            await client.ready
    except TimeoutError:
        raise NoMeasurement(_silence(endpoint)) from None
    except ssl.SSLCertVerificationError as error:
        raise NoMeasurement(
            f"{endpoint.url}: its certificate is not trusted ({error.verify_message}); name its authority by --tls_ca"
        ) from None
    except ssl.SSLError as error:
        raise NoMeasurement(
            f"{endpoint.url}: no TLS connection ({error.reason or error}); is that the port that speaks TLS?"
        ) from None
    except OSError as error:
        raise NoMeasurement(f"{endpoint.url}: {_reason(error)}") from None
    return client


def _silence(endpoint: Endpoint) -> str:
    what = "gRPC" if endpoint.is_grpc else "REST"
    return f"{endpoint.url}: no answer within {_CONNECT_TIMEOUT_S:g} s; is that the port that speaks {what}?"


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "nobody listens there"
    return error.strerror or str(error) or type(error).__name__


class _Once:
    """Waits for the one answer."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_answer(self, client: WireClient, token: int, outcome: str, nbytes: int) -> None:
        """There it is."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def on_lost(self, client: WireClient, tokens: list[int], reason: str) -> None:
        """There will be none."""
        if not self.outcome.done():
            self.outcome.set_exception(ConnectionError(client.detail or reason))
            # Nobody may have asked yet.
            self.outcome.exception()


async def ask(endpoint: Endpoint, trust: Trust, request: WireRequest, timeout_s: float) -> Answer:
    """Send a request and wait for its answer.

    Raises:
        NoMeasurement: There is no answer.
    """
    once = _Once()
    client = await connect(endpoint, trust, request, once, keeps_body=True)
    try:
        client.send(0)
        client.flush()
        async with asyncio.timeout(timeout_s):
            outcome = await once.outcome
    except TimeoutError:
        raise NoMeasurement(
            f"{endpoint.url}: no answer to {request.path} within {timeout_s:g} s; see --timeout"
        ) from None
    except ConnectionError as error:
        raise NoMeasurement(f"{endpoint.url}: {error}") from None
    finally:
        client.close()
    return Answer(outcome, bytes(client.body), "" if outcome == OK else client.detail)
