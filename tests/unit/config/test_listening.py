# SPDX-License-Identifier: Apache-2.0
"""Flags of TLS that belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.listening import check_tls
from ovms_mp.config.transports import GrpcConfig, RestConfig, TlsConfig
from ovms_mp.errors import ConfigError
from tests.support.certificates import make_certificate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (TlsConfig(cert="/c"), "--tls_cert is given without --tls_key"),
        (TlsConfig(key="/k"), "--tls_key is given without --tls_cert"),
        (TlsConfig(client_ca="/a"), "--tls_client_ca is given without --tls_cert and --tls_key"),
        (TlsConfig(cert="/nowhere", key="/k"), "--tls_cert /nowhere: No such file"),
    ],
)
def test_what_is_refused(tls: TlsConfig, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(check_tls(tls, GrpcConfig(), RestConfig()))
    assert words in caught.value.message


def test_without_a_port_there_is_no_tls(tmp_path: Path) -> None:
    cert, key = make_certificate("server").write(tmp_path, "server")
    tls = TlsConfig(cert=str(cert), key=str(key))
    assert list(check_tls(tls, GrpcConfig(), RestConfig())) == []
    (notice,) = check_tls(tls, GrpcConfig(bind_address="unix:/s"), RestConfig())
    assert "Unix sockets only, which stay plain" in notice
