# SPDX-License-Identifier: Apache-2.0
"""A handshake with ourselves, in memory: what clients will find wrong is known before they come."""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

_NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` of OpenSSL's x509_vfy.h: times are looked at here, for a message with a date."""
_NO_ISSUER = frozenset((2, 20, 21))
"""``X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT`` and its kin: the chain does not hold together."""


def problems_for_clients(server: ssl.SSLContext, certificates: Sequence[str]) -> Iterator[str]:
    """What clients may refuse, a sentence each.

    Args:
        server: Has certificate and key.
        certificates: All that are in its file, in PEM.
    """
    try:
        found = _seen_by_client(server, certificates[-1:])
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _NO_ISSUER:
            yield "the certificates behind the first one do not lead from it to the last one; one may be missing"
        try:
            found = _seen_by_client(server, certificates)
        except ssl.SSLCertVerificationError as other:
            yield f"clients may refuse it: {other.verify_message}"
            return
    now = time.time()
    not_before, not_after = str(found["notBefore"]), str(found["notAfter"])
    if ssl.cert_time_to_seconds(not_after) < now:
        yield f"the certificate has expired ({not_after}), and clients refuse it"
    elif ssl.cert_time_to_seconds(not_before) > now:
        yield f"the certificate is not valid before {not_before}, and clients refuse it until then"
    if not found.get("subjectAltName"):
        yield "the certificate names no host (subjectAltName), and clients refuse it, whatever its subject says"


def _seen_by_client(server: ssl.SSLContext, trusted: Sequence[str]) -> Mapping[str, Any]:
    """The server's certificate, as a client that trusts these decodes it.

    Raises:
        ssl.SSLCertVerificationError: They do not vouch for it.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    client.load_verify_locations(cadata="".join(trusted))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    # TLS 1.3: a client is through when the server's first flight has come.
    for step in (asking, answering):
        with contextlib.suppress(ssl.SSLWantReadError):
            step.do_handshake()
    asking.do_handshake()
    return asking.getpeercert() or {}
