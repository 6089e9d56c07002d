# SPDX-License-Identifier: Apache-2.0
"""Whose call it is that a proxy passes on: only trusted ones are believed, and only what they have added."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ovms_mp.front.access.peers import host_of
from ovms_mp.front.access.proxies import TrustedProxies
from ovms_mp.front.call_context import CallContext

NETWORKS = ("10.0.0.0/8", "fd00::/8", "unix")
PROXY = "10.0.0.1:4711"
XFF, FORWARDED = "x-forwarded-for", "forwarded"


@dataclass
class Played:
    """A call's origin."""

    peer: str
    metadata: tuple[tuple[str, str], ...]
    certificate_name: str = ""


def client_of(peer: str, *headers: tuple[str, str], networks: tuple[str, ...] = NETWORKS) -> str:
    context = CallContext(0, 0, "tfs", "Predict", Played(peer, headers))
    TrustedProxies(networks).check(context)
    return host_of(context.peer)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (((XFF, "192.0.2.7"),), "192.0.2.7"),
        (((XFF, "203.0.113.9, 192.0.2.7"),), "192.0.2.7"),
        (((XFF, "203.0.113.9, 192.0.2.7, 10.9.9.9"),), "192.0.2.7"),
        (((XFF, "203.0.113.9"), (XFF, "192.0.2.7")), "192.0.2.7"),
        (((XFF, "10.1.1.1, 10.2.2.2"),), "10.1.1.1"),
        (((XFF, "192.0.2.7:1234"),), "192.0.2.7"),
        (((XFF, "[2001:db8::7]:1234"),), "2001:db8::7"),
        (((XFF, "2001:db8::7"),), "2001:db8::7"),
        (((XFF, "::ffff:192.0.2.7"),), "192.0.2.7"),
        (((XFF, "192.0.2.7, unknown"),), "10.0.0.1"),
        (((XFF, ""),), "10.0.0.1"),
        (((XFF, "a" * 10_000),), "10.0.0.1"),
        (((XFF, "10.1.1.1," * 1000 + "192.0.2.7"),), "192.0.2.7"),
        (((FORWARDED, 'for=192.0.2.7;proto=https, FOR="[fd00::1]:80"'),), "192.0.2.7"),
        (((FORWARDED, "proto=https"),), "10.0.0.1"),
        (((FORWARDED, "for=_hidden"),), "10.0.0.1"),
        # Which of the two the proxy has set is not known: if both say the same it does not matter.
        (((XFF, "192.0.2.7"), (FORWARDED, "for=192.0.2.7")), "192.0.2.7"),
        (((XFF, "192.0.2.7"), (FORWARDED, "for=192.0.2.8")), "10.0.0.1"),
        ((), "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_is_believed(headers: tuple[tuple[str, str], ...], client: str) -> None:
    assert client_of(PROXY, *headers) == client


@pytest.mark.parametrize("peer", ["192.0.2.1:1", "[2001:db8::1]:1", ""])
def test_others_are_not(peer: str) -> None:
    assert client_of(peer, (XFF, "192.0.2.7")) == host_of(peer)


@pytest.mark.parametrize("peer", ["[fd00::1]:1", "[::ffff:10.0.0.1]:1", "unix:", "unix:/run/x"])
def test_proxies_are_known_in_every_form(peer: str) -> None:
    assert client_of(peer, (XFF, "192.0.2.7")) == "192.0.2.7"


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("192.0.2.7:1", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:1", "192.0.2.7"),
        ("[2001:db8::7]:1", "2001:db8::7"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("", ""),
    ],
)
def test_a_host_is_the_same_by_every_socket(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_by_default_nobody_is_believed() -> None:
    assert not TrustedProxies(())
    assert client_of(PROXY, (XFF, "192.0.2.7"), networks=()) == "10.0.0.1"
    assert client_of("unix:", (XFF, "192.0.2.7"), networks=("10.0.0.0/8",)) == "unix:"


def test_the_host_that_was_asked_for() -> None:
    headers = (("x-forwarded-host", "evil.example, app.example"),)

    assert TrustedProxies(NETWORKS).host_of(PROXY, headers) == "app.example"
    assert TrustedProxies(NETWORKS).host_of("192.0.2.1:1", headers) == ""
    assert TrustedProxies(NETWORKS).host_of(PROXY, ()) == ""
