# SPDX-License-Identifier: Apache-2.0
"""What a call of a client can fail with; everything is a :class:`ClientError` with a code."""

from __future__ import annotations

from ovms_mp.codes import Code

_BY_NUMBER = {str(code.number): code for code in Code}
_BY_STATUS = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    412: Code.FAILED_PRECONDITION,
    413: Code.RESOURCE_EXHAUSTED,
    414: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    431: Code.INVALID_ARGUMENT,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class ClientError(Exception):
    """A call has failed.

    Attributes:
        code: What kind of failure it is; the same for gRPC and REST.
        message: The server's words, or ours where there was no answer.
        request_id: What the call was sent with; empty without one.
        http_status: Of a REST answer; 0 where there is none.
        retry_after_s: After what time the server wants another try; None where it has not said, and negative where it
            wants none.
        was_answered: Whether the server said so, and not the connection.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        request_id: str = "",
        http_status: int = 0,
        retry_after_s: float | None = None,
        was_answered: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.request_id = request_id
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        self.was_answered = was_answered

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code.name}: {self.message}{request}"


class InvalidRequest(ClientError, ValueError):
    """The request cannot be what the model takes, or cannot be sent at all."""


class NotFound(ClientError, LookupError):
    """No such model, version or region."""


class Refused(ClientError):
    """The server does not know the caller's key, or the caller may not do this."""


class Overloaded(ClientError):
    """The server has too much to do, or the request is larger than it takes."""


class Unavailable(ClientError, ConnectionError):
    """There is no answer: no connection, or a server that cannot answer now."""


class NotSent(Unavailable):
    """The server has done nothing of the request: another try is the first one."""


class NotSecure(NotSent):
    """No secure connection can be made, e.g. as a certificate is not trusted. It is not tried again."""


class DeadlineExceeded(ClientError, TimeoutError):
    """The answer has not come in time."""


class Cancelled(ClientError):
    """The call was given up."""


class Unsupported(ClientError):
    """The server, or the chosen protocol, has no such call."""


class Failed(ClientError):
    """Something went wrong in the server, or its answer cannot be read."""


_CLASSES: dict[Code, type[ClientError]] = {
    Code.CANCELLED: Cancelled,
    Code.INVALID_ARGUMENT: InvalidRequest,
    Code.FAILED_PRECONDITION: InvalidRequest,
    Code.OUT_OF_RANGE: InvalidRequest,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.NOT_FOUND: NotFound,
    Code.PERMISSION_DENIED: Refused,
    Code.UNAUTHENTICATED: Refused,
    Code.RESOURCE_EXHAUSTED: Overloaded,
    Code.UNAVAILABLE: Unavailable,
    Code.UNIMPLEMENTED: Unsupported,
}


def error_of(code: Code, message: str) -> ClientError:
    """The error of the class that a code has."""
    return _CLASSES.get(code, Failed)(code, message)


def code_of_grpc(number: str) -> Code:
    """The code of a number as gRPC's wire has it; UNKNOWN of what it does not define."""
    return _BY_NUMBER.get(number, Code.UNKNOWN)


def code_of_http(status: int) -> Code:
    """The code that is meant by the status of an HTTP answer that is no success."""
    return _BY_STATUS.get(status, Code.INTERNAL if status >= 500 else Code.UNKNOWN)


def unreadable(what: str) -> Failed:
    """The error of an answer that is not what its protocol says."""
    return Failed(Code.INTERNAL, f"the server's answer cannot be read: {what}", was_answered=True)
