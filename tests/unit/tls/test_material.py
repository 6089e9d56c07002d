# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys as they are given: what is refused before a server starts, and what its user hears of."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from ovms_mp.errors import ConfigError
from ovms_mp.tls.material import TlsFiles, read_material
from tests.support.certificates import CLIENTS_ONLY, make_authority, make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import Certificate

ROOT = make_authority("root")
ISSUER = make_authority("issuer", ROOT)
SERVER = make_certificate("server", ISSUER)
OTHER = make_certificate("other")
CHAIN = SERVER.chain + ISSUER.chain + ROOT.chain


class Given:
    """Files with these contents."""

    def __init__(self, directory: Path) -> None:
        self.cert, self.key, self.ca = (directory / name for name in ("c.pem", "k.pem", "ca.pem"))
        self.cert.write_bytes(CHAIN)
        self.key.write_bytes(SERVER.key)
        self.key.chmod(0o600)
        self.ca.write_bytes(ROOT.chain)

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(str(self.cert), str(self.key), str(self.ca))

    def use(self, certificate: Certificate) -> tuple[str, ...]:
        """The warnings about it."""
        self.cert.write_bytes(certificate.chain)
        self.key.write_bytes(certificate.key)
        return read_material(self.files).warnings

    def refused(self) -> str:
        with pytest.raises(ConfigError) as caught:
            read_material(self.files)
        return caught.value.message


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def test_what_is_good(given: Given) -> None:
    material = read_material(given.files)
    assert material.warnings == ()
    assert (material.certificate, material.key, material.client_ca) == (CHAIN, SERVER.key, ROOT.chain)

    context = material.context("h2")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"} == {
        f"ECDHE-{kind}-{cipher}"
        for kind in ("RSA", "ECDSA")
        for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    }


def test_between_authorities_there_may_be_any_text(given: Given) -> None:
    given.ca.write_bytes("# F\u0151tan\u00fas\u00edtv\u00e1ny\n".encode() + ROOT.chain)

    assert read_material(given.files).context("h2").get_ca_certs()


def test_without_an_authority_clients_need_no_certificate(given: Given) -> None:
    material = read_material(TlsFiles(str(given.cert), str(given.key)))
    assert material.context("h2").verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("flag", "name"), [("tls_cert", "cert"), ("tls_key", "key"), ("tls_client_ca", "ca")]
)
def test_a_file_that_cannot_be_read(given: Given, flag: str, name: str) -> None:
    path: Path = getattr(given, name)
    path.unlink()
    assert given.refused() == f"--{flag} {path}: No such file or directory"
    path.mkdir()
    assert given.refused().startswith(f"--{flag} {path}: ")
    path.rmdir()
    path.write_bytes(b"x" * (2 << 20))
    assert "too long" in given.refused()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cert", SERVER.key, "holds a private key where a certificate in PEM is due"),
        ("cert", b"\x30\x82\x01\x00", "openssl x509 -inform der"),
        ("key", CHAIN, "holds a certificate where the private key in PEM is due"),
        ("key", b"", "holds no private key in PEM"),
        ("key", OTHER.key, "the key is not that of the certificate"),
        ("key", SERVER.locked_key(b"secret"), "needs a passphrase, which a server has nobody to ask for"),
        ("cert", ISSUER.chain + SERVER.chain, "the key belongs to certificate 2 of the file"),
        ("cert", CHAIN[:200] + CHAIN[300:], "cannot be used"),
        ("key", SERVER.key[:60] + SERVER.key[80:], "cannot be used"),
        ("ca", SERVER.key, "holds a private key"),
        ("ca", ROOT.chain[:200] + ROOT.chain[300:], "cannot be used"),
    ],
)
def test_content_that_cannot_be_used(given: Given, name: str, content: bytes, words: str) -> None:
    getattr(given, name).write_bytes(content)
    message = given.refused()
    assert words in message
    assert message.startswith("--tls_")


def test_odd_certificates_are_used_and_told(given: Given) -> None:
    old = make_certificate("old", from_days=-3, to_days=-1)
    assert "the certificate has expired (" in given.use(old)[0]
    assert "is not valid before " in given.use(make_certificate("young", from_days=1))[0]
    assert "names no host (subjectAltName)" in given.use(make_certificate("nameless", hosts=()))[0]
    assert "clients may refuse it: " in given.use(make_certificate("client", usage=CLIENTS_ONLY))[0]


def test_a_gap_in_the_chain_is_told(given: Given) -> None:
    given.cert.write_bytes(SERVER.chain + ROOT.chain)
    assert "one may be missing" in read_material(given.files).warnings[0]


def test_a_key_for_everybody_is_told(given: Given) -> None:
    given.key.chmod(0o644)
    assert "everybody on this machine may read it (mode 644)" in read_material(given.files).warnings[0]


def test_an_authority_of_no_use_is_told(given: Given) -> None:
    given.ca.write_bytes(SERVER.chain)
    assert "holds no certificate of an authority" in read_material(given.files).warnings[0]
    given.ca.write_bytes(make_certificate("old", is_authority=True, from_days=-3, to_days=-1).chain)
    assert "no client will be let in" in read_material(given.files).warnings[0]
