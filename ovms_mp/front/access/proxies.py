# SPDX-License-Identifier: Apache-2.0
"""Whose call it is that a proxy passes on.

Anybody can send these headers, so they count only from peers that are trusted, and of their addresses only those that a
trusted proxy has added: from the last one back to the first that is not a proxy's itself.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ovms_mp.front.access.peers import address_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ovms_mp.front.access.peers import Address
    from ovms_mp.front.call_context import CallContext

_FORWARDED_FOR, _FORWARDED, _FORWARDED_HOST = "x-forwarded-for", "forwarded", "x-forwarded-host"
_UNIX = "unix"
_MOST_HOPS = 32


class TrustedProxies:
    """Those whose words about clients are believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Trust these.

        Args:
            networks: Addresses and networks, and ``unix`` for peers by Unix sockets.
        """
        given = tuple(networks)
        self._trusts_unix = _UNIX in given
        self._networks = [ipaddress.ip_network(network) for network in given if network != _UNIX]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self._trusts_unix or bool(self._networks)

    def check(self, context: CallContext) -> None:
        """Have a call that a trusted proxy passes on be its client's; refuses nothing."""
        if not self.trusts(context.origin.peer):
            return
        client = self._client_of(context.metadata)
        if client:
            context.client = client

    def trusts(self, peer: str) -> bool:
        """Whether a peer, as its transport names it, is one of them."""
        if peer.startswith("unix:"):
            return self._trusts_unix
        address = address_of(peer)
        return address is not None and self._has(address)

    def host_of(self, peer: str, headers: Sequence[tuple[str, str | bytes]]) -> str:
        """The host that the client has asked for, where a trusted proxy says so; else empty."""
        if not self or not self.trusts(peer):
            return ""
        hosts = [str(value) for name, value in headers if name == _FORWARDED_HOST]
        return hosts[-1].rpartition(",")[2].strip() if hosts else ""

    def _client_of(self, headers: Sequence[tuple[str, str | bytes]]) -> str:
        """The client's address; empty where proxies say none, or two different ones."""
        plain = ",".join(str(value) for name, value in headers if name == _FORWARDED_FOR)
        standard = ",".join(str(value) for name, value in headers if name == _FORWARDED)
        found = {
            self._last_stranger(hops)
            for hops in (plain.split(",") if plain else [], _forwarded_for(standard) if standard else [])
            if hops
        }
        # A proxy sets one of the two, and passes the other one on as its client has sent it.
        return found.pop() if len(found) == 1 else ""

    def _last_stranger(self, hops: Sequence[str]) -> str:
        """The first address from the end that is no proxy's; the last one that can be read where all are."""
        found = ""
        for hop in reversed(hops[-_MOST_HOPS:]):
            address = address_of(hop)
            if address is None:
                break  # Obfuscated (RFC 7239, 6.3), or nothing.
            found = f"[{address}]:0" if address.version == 6 else f"{address}:0"
            if not self._has(address):
                break
        return found

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _forwarded_for(value: str) -> list[str]:
    """The ``for`` of each hop of a ``Forwarded`` header (RFC 7239, 4), empty where it has none."""
    hops = []
    for element in value.split(","):
        pairs = (pair.partition("=") for pair in element.split(";"))
        hops.append(next((text.strip() for name, _, text in pairs if name.strip().lower() == "for"), ""))
    return hops
