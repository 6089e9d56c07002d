# SPDX-License-Identifier: Apache-2.0
"""Authorities and certificates as the tests need them."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DAY = datetime.timedelta(days=1)
_SIGNS = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, in PEM.

    Attributes:
        chain: The certificate alone.
    """

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def chain(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        return self._key(serialization.NoEncryption())

    def locked_key(self, passphrase: bytes) -> bytes:
        """The key, encrypted."""
        return self._key(serialization.BestAvailableEncryption(passphrase))

    def _key(self, encryption: serialization.KeySerializationEncryption) -> bytes:
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Files for the certificate and its key, which only this user may read."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(self.chain)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key


def make_certificate(
    name: str,
    signer: Certificate | None = None,
    *,
    is_authority: bool = False,
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    from_days: float = -1,
    to_days: float = 2,
    usage: x509.ObjectIdentifier | None = None,
) -> Certificate:
    """A certificate.

    Args:
        name: Its common name.
        signer: Who signs it; itself by default.
        is_authority: Whether it may sign others.
        hosts: Names and addresses that it is good for; none for none.
        from_days: From when on, in days from now.
        to_days: Until when.
        usage: Its only extended key usage.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + from_days * _DAY)
        .not_valid_after(now + to_days * _DAY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        # Clients of Python 3.13 are strict about those (RFC 5280, 4.2.1.1 and 4.2.1.3).
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                (signer.private_key if signer else key).public_key()
            ),
            critical=False,
        )
    )
    if is_authority:
        builder = builder.add_extension(_SIGNS, critical=True)
    if hosts and not is_authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(map(_general_name, hosts)), critical=False
        )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Certificate(builder.sign(signer.private_key if signer else key, hashes.SHA256()), key)


CLIENTS_ONLY = ExtendedKeyUsageOID.CLIENT_AUTH


def make_authority(name: str, signer: Certificate | None = None) -> Certificate:
    """A certificate that may sign others."""
    return make_certificate(name, signer, is_authority=True)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
