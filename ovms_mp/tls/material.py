# SPDX-License-Identifier: Apache-2.0
"""A server's certificate, its key and the CA of its clients, as their files hold them at one moment.

All are read once and checked together, so that what was checked is what is used, whatever happens to the files.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ovms_mp.errors import ConfigError
from ovms_mp.files import read_regular, refusal
from ovms_mp.tls.rehearsal import problems_for_clients

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES = 1 << 20
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, forward secret and authenticated: none that HTTP/2 forbids (RFC 9113, appendix A). Those of TLS 1.3 are
all good."""


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where certificate and key are; ``client_ca`` is empty where clients need no certificate."""

    certificate: str
    key: str
    client_ca: str = ""

    def paths(self) -> tuple[str, ...]:
        """Those that are given."""
        return tuple(filter(None, (self.certificate, self.key, self.client_ca)))


@dataclass(frozen=True, slots=True)
class Material:
    """PEM texts that go together.

    Attributes:
        certificate: The server's, followed by those of the authorities between it and the root.
        key: The first certificate's.
        client_ca: Whose certificates clients must have; empty where they need none.
        warnings: What is odd, but does not keep a server from starting.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes
    warnings: tuple[str, ...] = ()

    def context(self, *protocols: str) -> ssl.SSLContext:
        """For servers that speak these protocols, by their names in ALPN."""
        context = _loaded(self.certificate, self.key)
        context.set_alpn_protocols(list(protocols))
        if self.client_ca:
            # Between certificates there may be comments in any language.
            context.load_verify_locations(cadata=self.client_ca.decode("ascii", "ignore"))
            context.verify_mode = ssl.CERT_REQUIRED
            # The authority that is named is the one that is trusted, also where another one has signed it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def read_material(files: TlsFiles) -> Material:
    """Read the files and check whether a server can use them.

    Raises:
        ConfigError: It cannot; names the flag, the file and the remedy.
    """
    cert_source, key_source = f"--tls_cert {files.certificate}", f"--tls_key {files.key}"
    certificate, key = _read(files.certificate, cert_source), _read(files.key, key_source)
    certificates = _certificates(certificate, cert_source)
    _check_key(key, key_source, files.key)
    warnings = [*_exposed_key(files.key, key_source)]
    _check_pair(certificates, certificate, key, f"{cert_source}, {key_source}")
    warnings += [
        f"{cert_source}: {text}" for text in problems_for_clients(_loaded(certificate, key), certificates)
    ]
    client_ca = b""
    if files.client_ca:
        source = f"--tls_client_ca {files.client_ca}"
        client_ca = _read(files.client_ca, source)
        warnings += _client_ca_problems(_certificates(client_ca, source), source)
    return Material(certificate, key, client_ca, tuple(warnings))


def _read(path: str, source: str) -> bytes:
    try:
        return read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"{source}: {refusal(path, error)}") from None
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def _certificates(content: bytes, source: str) -> list[str]:
    """The certificates in a PEM file, in their order."""
    text = content.decode("ascii", "replace")
    found = [_BEGIN + part.partition(_END)[0] + _END + "\n" for part in text.split(_BEGIN)[1:]]
    if found:
        return found
    if "PRIVATE KEY-----" in text:
        raise ConfigError(f"{source}: holds a private key where a certificate in PEM is due")
    raise ConfigError(
        f"{source}: holds no certificate in PEM ({_BEGIN}); one in DER is converted by "
        f"`openssl x509 -inform der -in FILE -out FILE.pem`"
    )


def _check_key(content: bytes, source: str, path: str) -> None:
    if b"PRIVATE KEY-----" not in content:
        what = "a certificate" if _BEGIN.encode() in content else "no private key in PEM"
        raise ConfigError(f"{source}: holds {what} where the private key in PEM is due")
    if b"BEGIN ENCRYPTED PRIVATE KEY-----" in content or b"Proc-Type: 4,ENCRYPTED" in content:
        raise ConfigError(
            f"{source}: needs a passphrase, which a server has nobody to ask for; remove it by "
            f"`openssl pkey -in {path} -out NEW_FILE` and let only the server's user read the new file"
        )


def _exposed_key(path: str, source: str) -> Iterator[str]:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & stat.S_IROTH:
        yield f"{source}: everybody on this machine may read it (mode {mode:03o}); `chmod o-r` it"


def _check_pair(certificates: list[str], certificate: bytes, key: bytes, source: str) -> None:
    """Raise unless the key is the first certificate's."""
    try:
        _loaded(certificate, key)
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", "") != "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{source}: cannot be used: {_reason(error)}") from None
    else:
        return
    for number, other in enumerate(certificates[1:], 2):
        with contextlib.suppress(ssl.SSLError, OSError):
            _loaded(other.encode(), key)
            raise ConfigError(
                f"{source}: the key belongs to certificate {number} of the file; the server's own certificate must be "
                f"the first, followed by the authority that signed it, and so on"
            )
    raise ConfigError(f"{source}: the key is not that of the certificate")


def _client_ca_problems(certificates: list[str], source: str) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata="".join(certificates))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{source}: cannot be used: {_reason(error)}") from None
    authorities = context.get_ca_certs()
    if not authorities:
        yield f"{source}: holds no certificate of an authority (basicConstraints CA:TRUE), only single clients'"
    elif all(ssl.cert_time_to_seconds(str(entry["notAfter"])) < time.time() for entry in authorities):
        yield f"{source}: has expired ({authorities[0]['notAfter']}), so no client will be let in"


def _loaded(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """A server's context with its certificate.

    Raises:
        ssl.SSLError: They are no pair, or of no use to OpenSSL.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
        # Without a function for it OpenSSL would ask the terminal for a passphrase.
        context.load_cert_chain(certificate_path, key_path, password=lambda: "")
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path for what is in memory: OpenSSL takes certificates by name."""
    descriptor = os.memfd_create("ovms_mp-tls")
    with open(descriptor, "wb", buffering=0) as file:
        file.write(content)
        yield f"/proc/self/fd/{descriptor}"


def _reason(error: Exception) -> str:
    """In few words."""
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)
