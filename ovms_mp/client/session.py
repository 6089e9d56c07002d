# SPDX-License-Identifier: Apache-2.0
"""What the client of threads and that of asyncio have in common: options, requests, and what is read of failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ovms_mp.client import target as targets
from ovms_mp.client.calls import Outputs, Parameter, Predict
from ovms_mp.client.datatypes import AnyArray, as_array
from ovms_mp.client.errors import ClientError, DeadlineExceeded, InvalidRequest
from ovms_mp.client.exchange import MOST_ANSWER_BYTES, Request, not_sent
from ovms_mp.client.http1 import Http1Connection
from ovms_mp.client.http2 import Http2Connection
from ovms_mp.client.kserve_grpc import KServeGrpc
from ovms_mp.client.kserve_rest import KServeRest
from ovms_mp.client.retries import Retries
from ovms_mp.client.tfs_grpc import TfsGrpc
from ovms_mp.client.tfs_rest import TfsRest
from ovms_mp.codes import Code

if TYPE_CHECKING:
    import ssl

    import numpy.typing as npt

    from ovms_mp.client.calls import Dialect, ModelMetadata
    from ovms_mp.client.shared import SharedArrays

T = TypeVar("T")
Connection = Http1Connection | Http2Connection

TIMEOUT_S = 30.0
"""Of each call, unless the caller says otherwise."""
LONGEST_TIMEOUT_S = 1e6


@dataclass(kw_only=True, slots=True)
class Options:
    """How a client speaks to its server.

    Attributes:
        api: ``kserve`` or ``tfs``; None for what the URL says.
        timeout: Seconds of a call, its retries included.
        retries: See :class:`~ovms_mp.client.retries.Retries`.
        api_key: For a server that knows its callers by keys.
        headers: Further ones of each request, e.g. of a proxy.
        ca: File of the authorities that the server's certificate may be of; None for the system's.
        certificate: Files of the client's own certificate and key, for servers that ask for one.
        tls: A context of ``ssl`` in place of the last two.
        shared_memory: Path of the server's ``--client_shm_socket``.
        max_answer_bytes: The longest answer that is taken.
        connections: Most connections at a time.
    """

    api: str | None = None
    timeout: float = TIMEOUT_S
    retries: Retries = field(default_factory=Retries)
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str | None = None
    certificate: tuple[str, str] | None = None
    tls: ssl.SSLContext | None = None
    shared_memory: str | None = None
    max_answer_bytes: int = MOST_ANSWER_BYTES
    connections: int = 100


class Session:
    """A server, and what is known of it."""

    def __init__(self, url: str, options: Options) -> None:
        """Read the options; nothing is connected.

        Args:
            url: See :func:`ovms_mp.client.target.parse`.
            options: Of the client.

        Raises:
            InvalidRequest: The URL or an option is wrong.
        """
        self.target = targets.parse(url, options.api)
        self.options = options
        checked_timeout(options.timeout)
        self.dialect: Dialect = _dialect(self.target)
        headers = [(name.lower(), value) for name, value in options.headers.items()]
        if options.api_key is not None:
            headers.append(("authorization", f"Bearer {options.api_key}"))
        self.headers = (*self.dialect.common_headers(), *headers)
        self.is_http2 = self.target.protocol == "grpc"
        self._tls = options.tls
        self._only_inputs: dict[tuple[str, int], str] = {}
        if self.target.is_secure and self._tls is None:
            self._tls = _context(options, self.is_http2)
        self.shared: SharedArrays | None = None
        if options.shared_memory is not None:
            if self.target.api != "kserve":
                raise _wrong("shared memory needs KServe's API, as TensorFlow Serving's has no word for it")
            from ovms_mp.client.shared import SharedArrays  # few clients need it

            self.shared = SharedArrays(options.shared_memory, options.timeout)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What connections are made secure by; None for plain ones."""
        return self._tls if self.target.is_secure else None

    def new_connection(self) -> Connection:
        """The protocol of a new connection."""
        if self.is_http2:
            return Http2Connection(
                self.target.authority, is_secure=self.target.is_secure, headers=self.headers
            )
        return Http1Connection(self.target.authority, self.headers)

    def with_deadline(self, request: Request, timeout_s: float) -> Request:
        """A request that tells the server how long the client waits."""
        headers = self.dialect.deadline_headers(timeout_s)
        return Request(request.verb, request.path, request.body, (*headers, *request.headers))

    def known_input(self, model: str, version: int) -> str | None:
        """The name of a model's only input, if that has been asked for."""
        return self._only_inputs.get((model, version))

    def learn_input(self, model: str, version: int, metadata: ModelMetadata) -> str:
        """Note the name of a model's only input.

        Raises:
            InvalidRequest: It has several.
        """
        names = [tensor.name for tensor in metadata.inputs]
        if len(names) != 1:
            raise _wrong(
                f"model {model!r} has the inputs {', '.join(names)}; give a dict of arrays by these names"
            )
        self._only_inputs[model, version] = names[0]
        return names[0]

    def forget_input(self, model: str, version: int) -> None:
        """Ask again next time: the model may have become another one."""
        self._only_inputs.pop((model, version), None)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        version: int,
        outputs: tuple[str, ...],
        request_id: str,
        parameters: Mapping[str, Parameter] | None,
        into: Mapping[str, AnyArray] | None,
    ) -> Predict:
        """A predict request of what a caller has given.

        Raises:
            InvalidRequest: An input is no tensor, or an array for an output is no shared one.
        """
        if not isinstance(version, int) or not 0 <= version < 1 << 63:
            raise _wrong(
                f"version {version!r} is no positive number; leave it out, or give 0, for the server's choice"
            )
        arrays = {name: as_array(value) for name, value in inputs.items()}
        call = Predict(model, version, arrays, outputs, request_id, parameters or {})
        if self.shared is not None:
            places = {name: self.shared.place_of(array) for name, array in arrays.items()}
            call.input_places = {name: place for name, place in places.items() if place is not None}
        if into:
            found = {
                name: self.shared.place_of(array) if self.shared else None for name, array in into.items()
            }
            missing = [name for name, place in found.items() if place is None]
            if missing:
                raise _wrong(f"the array for output {missing[0]!r} is not one of shared_array()")
            call.output_places = {name: place for name, place in found.items() if place is not None}
            call.outputs = tuple(dict.fromkeys((*into, *outputs)))
        return call


def whole_outputs(call: Predict, outputs: Outputs) -> Outputs:
    """The outputs together with those that lie in shared memory."""
    if call.output_places:
        return {**outputs, **{name: place.array for name, place in call.output_places.items()}}
    return outputs


def checked_timeout(timeout: float) -> float:
    """A timeout that is one.

    Raises:
        InvalidRequest: It is not positive, or longer than 11 days.
    """
    if not 0 < timeout <= LONGEST_TIMEOUT_S:
        raise _wrong(
            f"the timeout {timeout!r} is no number of seconds above 0, up to {LONGEST_TIMEOUT_S:.0f}"
        )
    return timeout


def only(outputs: Outputs) -> AnyArray:
    """The one output of a model.

    Raises:
        InvalidRequest: There are several.
    """
    if len(outputs) != 1:
        raise _wrong(f"the model has the outputs {', '.join(outputs)}; call predict() for all, or name one")
    return next(iter(outputs.values()))


def too_late(target: object) -> DeadlineExceeded:
    """The failure of a call that has taken too long."""
    return DeadlineExceeded(
        Code.DEADLINE_EXCEEDED, f"{target} has not answered in time; `timeout` is how long a call may take"
    )


def not_connected(target: object, error: BaseException) -> ClientError:
    """The failure of a connection that could not be made."""
    return not_sent(f"cannot connect to {target}: {error or type(error).__name__}")


def _dialect(target: targets.Target) -> Dialect:
    if target.protocol == "grpc":
        return KServeGrpc() if target.api == "kserve" else TfsGrpc()
    return KServeRest(target.prefix) if target.api == "kserve" else TfsRest(target.prefix)


def _context(options: Options, is_http2: bool) -> ssl.SSLContext:
    import ssl  # plain clients need none of it

    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(*options.certificate)
    except (OSError, ValueError) as error:
        raise _wrong(f"ca or certificate cannot be read: {error}") from None
    context.set_alpn_protocols(["h2"] if is_http2 else ["http/1.1"])
    return context


def _wrong(message: str) -> ClientError:
    return InvalidRequest(Code.INVALID_ARGUMENT, message)
