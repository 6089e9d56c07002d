# SPDX-License-Identifier: Apache-2.0
"""What a client and its calls can be told, and what of it is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ovms_mp.client.checks import wrong
from ovms_mp.client.exchange import MOST_ANSWER_BYTES
from ovms_mp.client.retries import Retries

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from ovms_mp.client.calls import Parameter
    from ovms_mp.client.datatypes import AnyArray

TIMEOUT_S = 30.0
"""Of each call, unless the caller says otherwise."""
LONGEST_TIMEOUT_S = 1e6


@dataclass(kw_only=True, slots=True)
class Options:
    """How a client speaks to its server.

    Attributes:
        api: ``kserve`` or ``tfs``; None for what the URL says.
        timeout: Seconds of a call, its retries included.
        retries: See :class:`~ovms_mp.client.retries.Retries`.
        api_key: For a server that knows its callers by keys.
        headers: Further ones of each request, e.g. of a proxy; ``host`` where it is not that of the URL.
        ca: File of the authorities that the server's certificate may be of; None for the system's.
        certificate: Files of the client's own certificate and key, for servers that ask for one.
        tls: A context of ``ssl`` in place of the last two; for gRPC one that offers ``h2`` by ALPN.
        shared_memory: Path of the server's ``--client_shm_socket``.
        max_answer_bytes: The longest answer that is taken.
        connections: Most connections at a time.
    """

    api: str | None = None
    timeout: float = TIMEOUT_S
    retries: Retries = field(default_factory=Retries)
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str | None = None
    certificate: tuple[str, str] | None = None
    tls: ssl.SSLContext | None = None
    shared_memory: str | None = None
    max_answer_bytes: int = MOST_ANSWER_BYTES
    connections: int = 100


class ClientOptions(TypedDict, total=False):
    """All may be left out."""

    api: str | None
    timeout: float
    retries: Retries
    api_key: str | None
    headers: Mapping[str, str]
    ca: str | None
    certificate: tuple[str, str] | None
    tls: ssl.SSLContext | None
    shared_memory: str | None
    max_answer_bytes: int
    connections: int


class PredictOptions(TypedDict, total=False):
    """The keywords of a predict request; all may be left out."""

    version: int
    outputs: Sequence[str]
    timeout: float | None
    request_id: str
    parameters: Mapping[str, Parameter] | None
    into: Mapping[str, AnyArray] | None
    classes: Mapping[str, int] | None


def check_options(options: Options) -> None:
    """Refuse options that no client can have.

    Raises:
        InvalidRequest: One is wrong.
    """
    checked_timeout(options.timeout)
    for name, least in (("connections", 1), ("max_answer_bytes", 1)):
        value = getattr(options, name)
        if not isinstance(value, int) or value < least:
            raise wrong(f"{name} is {value!r}, but must be a whole number of at least {least}")
    if not isinstance(options.retries, Retries):
        raise wrong(f"retries is {options.retries!r}, but must be a Retries(), e.g. Retries(most=0) for none")


def checked_timeout(timeout: float) -> float:
    """A timeout that is one.

    Raises:
        InvalidRequest: It is not positive, or longer than 11 days.
    """
    if not isinstance(timeout, (int, float, np.number)) or not 0 < timeout <= LONGEST_TIMEOUT_S:
        raise wrong(f"the timeout {timeout!r} is no number of seconds above 0, up to {LONGEST_TIMEOUT_S:.0f}")
    return float(timeout)


def tls_context(options: Options, is_http2: bool) -> ssl.SSLContext:
    """What connections are made secure by.

    Raises:
        InvalidRequest: A file cannot be read.
    """
    import ssl  # plain clients need none of it

    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(*options.certificate)
    except (OSError, ValueError) as error:
        raise wrong(f"ca or certificate cannot be read: {error}") from None
    context.set_alpn_protocols(["h2"] if is_http2 else ["http/1.1"])
    return context
