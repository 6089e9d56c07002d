# SPDX-License-Identifier: Apache-2.0
"""Settings of origins, proxies and the prefix of REST paths."""

from __future__ import annotations

import pytest

from ovms_mp.config.access import AccessConfig, check_access
from ovms_mp.errors import ConfigError


@pytest.mark.parametrize(
    "access",
    [
        AccessConfig(),
        AccessConfig(allowed_origins=""),
        AccessConfig(allowed_origins="https://A.example, http://b.example:8080,null", allow_credentials=True),
        AccessConfig(allowed_methods="get,POST", allowed_headers="Content-Type, X-Trace"),
        AccessConfig(trusted_proxies="10.0.0.0/8, 192.0.2.7,fd00::/8,unix"),
    ],
)
def test_what_means_something_is_taken(access: AccessConfig) -> None:
    assert check_access(access, "/a/b-c.d", has_rest=True) == ()


def test_words_are_as_they_are_compared() -> None:
    access = AccessConfig(allowed_origins="https://A.example, http://b.example", allowed_methods="get, POST")

    assert access.origins == ("https://a.example", "http://b.example")
    assert access.methods == ("GET", "POST")


@pytest.mark.parametrize(
    ("access", "prefix", "reason"),
    [
        (AccessConfig(allowed_origins="app.example.com"), "", "'app.example.com' is no origin"),
        (AccessConfig(allowed_origins="https://a.example/"), "", "is no origin"),
        (AccessConfig(allowed_origins="https://*.example"), "", "is no origin"),
        (AccessConfig(allowed_origins="*,https://a.example"), "", "\\* stands alone"),
        (AccessConfig(allow_credentials=True), "", "--allow_credentials needs --allowed_origins"),
        (AccessConfig(allowed_headers="a b"), "", "--allowed_headers: 'a b'"),
        (AccessConfig(allowed_methods="GET\r\nX: y"), "", "--allowed_methods"),
        (AccessConfig(trusted_proxies="10.0.0.1/8"), "", "--trusted_proxies: 10.0.0.1/8 has host bits"),
        (AccessConfig(trusted_proxies="proxy.example"), "", "--trusted_proxies: 'proxy.example'"),
        *[(AccessConfig(), prefix, "--rest_prefix") for prefix in ("a", "/", "/a/", "/a//b", "/a b", "/{a}")],
    ],
)
def test_what_means_nothing_is_refused(access: AccessConfig, prefix: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_access(access, prefix, has_rest=True)


def test_a_prefix_needs_a_rest_server() -> None:
    with pytest.raises(ConfigError, match="--rest_port"):
        check_access(AccessConfig(), "/a", has_rest=False)
