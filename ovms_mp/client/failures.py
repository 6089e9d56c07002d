# SPDX-License-Identifier: Apache-2.0
"""Failures of connections, which no server has put into words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.client.errors import ClientError, DeadlineExceeded, NotSecure
from ovms_mp.client.exchange import lost, not_sent
from ovms_mp.codes import Code

if TYPE_CHECKING:
    from ovms_mp.client.target import Target


def too_late(target: object) -> DeadlineExceeded:
    """The failure of a call that has taken too long."""
    return DeadlineExceeded(
        Code.DEADLINE_EXCEEDED, f"{target} has not answered in time; `timeout` is how long a call may take"
    )


def not_connected(target: Target, error: BaseException) -> ClientError:
    """The failure of a connection that could not be made."""
    if _is_of_tls(target, error):
        return not_secure(target, str(error))
    return not_sent(f"cannot connect to {target}: {error or type(error).__name__}")


def not_secure(target: Target, reason: str) -> ClientError:
    """The failure of a connection that can be made, but not by TLS."""
    return NotSecure(Code.UNAVAILABLE, f"no secure connection to {target}: {reason}")


def check_alpn(target: Target, protocol: str | None) -> None:
    """Refuse a secure connection on which HTTP/2 was not agreed upon where it is to be spoken (RFC 9113, 3.2).

    Raises:
        NotSecure: It was not.
    """
    if target.protocol == "grpc" and protocol != "h2":
        raise not_secure(
            target,
            f"it has not agreed to HTTP/2 by ALPN (but to {protocol}), which gRPC needs; a context that is given as "
            f"`tls` offers it after set_alpn_protocols(['h2'])",
        )


def ended(target: Target, error: BaseException | None) -> ClientError:
    """The failure of requests whose connection has ended."""
    if error is None:
        return lost(f"{target} has closed the connection")
    if _is_of_tls(target, error) and "ALERT" in (getattr(error, "reason", None) or ""):
        return not_secure(target, str(error))  # With TLS 1.3 it refuses a client's certificate that late.
    return lost(f"the connection to {target} has ended: {error}")


def _is_of_tls(target: Target, error: BaseException) -> bool:
    """Whether an error is one of TLS itself, and would be the same another time."""
    if not target.is_secure:
        return False
    import ssl  # plain clients need none of it

    return isinstance(error, ssl.SSLError) and not isinstance(
        error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    )
