# SPDX-License-Identifier: Apache-2.0
"""Addresses of peers, as transports name them, taken apart."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_KEPT = 1024
"""PERF: an address takes 5 us to read, and proxies send the same ones with each call."""


def host_of(peer: str) -> str:
    """Who a peer is without its port, which differs for each connection: an address, or ``unix:...``."""
    if peer.startswith("unix:"):
        return peer
    address = address_of(peer)
    return peer if address is None else str(address)


@lru_cache(_MOST_KEPT)
def address_of(text: str) -> Address | None:
    """An address that may have a port, and brackets where it is IPv6; None for what is none.

    One of IPv4 that came by a socket of IPv6 is that of IPv4.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
