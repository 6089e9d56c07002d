# SPDX-License-Identifier: Apache-2.0
"""Why handshakes fail, in few kinds, each with what an administrator can do."""

from __future__ import annotations

import enum
import ssl


class Reason(enum.Enum):
    """A kind of failure, and the advice that goes with it."""

    PLAINTEXT = (
        "the client does not speak TLS, which this port does; give it https:// or a secure gRPC channel"
    )
    NO_CLIENT_CERTIFICATE = "the client has no certificate, and --tls_client_ca asks for one"
    UNKNOWN_CLIENT = "the client's certificate is not from an authority in --tls_client_ca"
    EXPIRED_CLIENT = "the client's certificate has expired; check the clocks, too"
    EARLY_CLIENT = "the client's certificate is not valid yet; check the clocks, too"
    BAD_CLIENT_CERTIFICATE = "the client's certificate cannot be used"
    OLD_VERSION = "the client speaks no TLS 1.2 or 1.3"
    NO_CIPHER = "the client has no cipher in common with this server"
    NOT_TRUSTED = (
        "the client refuses this server's certificate: it must trust the authority that signed it, which "
        "must be complete in --tls_cert, and ask for a host that the certificate names"
    )
    LATE = "the handshake was not done within 10 s"
    CROWDED = "it had to make room for other handshakes"
    LEFT = "the client left in the middle of its handshake"
    OTHER = "the handshake failed"


_BY_VERIFY_CODE = {9: Reason.EARLY_CLIENT, 10: Reason.EXPIRED_CLIENT}
"""``X509_V_ERR_CERT_NOT_YET_VALID`` and ``X509_V_ERR_CERT_HAS_EXPIRED``."""
_UNKNOWN_ISSUER = frozenset((2, 18, 19, 20, 21))
"""``X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT`` and its kin, and those of certificates that sign themselves."""
_BY_OPENSSL = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Reason.NO_CLIENT_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": Reason.OLD_VERSION,
    "VERSION_TOO_LOW": Reason.OLD_VERSION,
    "WRONG_VERSION_NUMBER": Reason.OLD_VERSION,
    "NO_SHARED_CIPHER": Reason.NO_CIPHER,
}


def reason_of(error: Exception) -> Reason:
    """The kind of a failure, by what OpenSSL or the loop raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_ISSUER:
            return Reason.UNKNOWN_CLIENT
        return _BY_VERIFY_CODE.get(error.verify_code, Reason.BAD_CLIENT_CERTIFICATE)
    if isinstance(error, ssl.SSLError):
        name = str(error.reason)
        if "_ALERT_" in name:
            return Reason.NOT_TRUSTED if "CERT" in name or "CA" in name.split("_") else Reason.OTHER
        return _BY_OPENSSL.get(name, Reason.OTHER)
    return Reason.LEFT
