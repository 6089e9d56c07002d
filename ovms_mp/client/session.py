# SPDX-License-Identifier: Apache-2.0
"""What the client of threads and that of asyncio have in common: a server, and requests as it takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ovms_mp.client import checks
from ovms_mp.client import target as targets
from ovms_mp.client.calls import Predict
from ovms_mp.client.checks import wrong
from ovms_mp.client.errors import Unsupported
from ovms_mp.client.exchange import Request
from ovms_mp.client.http1 import Http1Connection
from ovms_mp.client.http2 import Http2Connection
from ovms_mp.client.kserve_grpc import KServeGrpc
from ovms_mp.client.kserve_rest import KServeRest
from ovms_mp.client.options import check_options, tls_context
from ovms_mp.client.tfs_grpc import TfsGrpc
from ovms_mp.client.tfs_rest import TfsRest
from ovms_mp.codes import Code

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from ovms_mp.client.calls import Dialect, ModelMetadata, Outputs, Parameter
    from ovms_mp.client.datatypes import AnyArray
    from ovms_mp.client.exchange import Operation
    from ovms_mp.client.options import Options, PredictOptions
    from ovms_mp.client.places import Place
    from ovms_mp.client.shared import SharedArrays

T = TypeVar("T")
Connection = Http1Connection | Http2Connection

_NEARLY_ALL = 0.95
"""Of a timeout."""


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
        check_options(options)
        self.dialect: Dialect = _dialect(self.target)
        headers = checks.headers(options.headers)
        if options.api_key is not None:
            headers |= checks.headers({"authorization": f"Bearer {options.api_key}"})
        self._authority = headers.pop("host", self.target.authority)
        self.headers = tuple({**dict(self.dialect.common_headers()), **headers}.items())
        self.is_http2 = self.target.protocol == "grpc"
        self._tls = options.tls
        self._told: tuple[float, tuple[tuple[str, str], ...]] = (0.0, ())
        """The last deadline in seconds, and as headers."""
        self._only_inputs: dict[tuple[str, int], str] = {}
        if self.target.is_secure and self._tls is None:
            self._tls = tls_context(options, self.is_http2)
        self.shared: SharedArrays | None = None
        if options.shared_memory is not None:
            if self.target.api != "kserve":
                raise wrong("shared memory needs KServe's API, as TensorFlow Serving's has no word for it")
            from ovms_mp.client.shared import SharedArrays  # few clients need it

            self.shared = SharedArrays(options.shared_memory, options.timeout)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What connections are made secure by; None for plain ones."""
        return self._tls if self.target.is_secure else None

    def new_connection(self) -> Connection:
        """The protocol of a new connection."""
        if self.is_http2:
            return Http2Connection(self._authority, is_secure=self.target.is_secure, headers=self.headers)
        return Http1Connection(self._authority, self.headers)

    def with_deadline(self, request: Request, timeout_s: float, left_s: float) -> Request:
        """A request that tells the server how long the client waits.

        Args:
            request: Without that.
            timeout_s: From the begin of the call. It is what is told as long as little of it has passed, as equal
                headers need not be written again.
            left_s: From now.
        """
        told_s = timeout_s if left_s > _NEARLY_ALL * timeout_s else max(0.001, left_s)
        told = self._told
        if told_s != told[0]:
            told = self._told = (told_s, self.dialect.deadline_headers(told_s))
        return Request(request.verb, request.path, request.body, told[1] + request.headers)

    def known_input(self, model: str, version: int) -> str | None:
        """The name of a model's only input, if that has been asked for.

        Raises:
            InvalidRequest: The name or the version is none.
        """
        checks.model(model)
        checks.version(version)
        return self._only_inputs.get((model, version))

    def learn_input(self, model: str, version: int, metadata: ModelMetadata) -> str:
        """Note the name of a model's only input.

        Raises:
            InvalidRequest: It has several.
        """
        names = [tensor.name for tensor in metadata.inputs]
        if len(names) != 1:
            raise wrong(
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
        version: int = 0,
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        into: Mapping[str, AnyArray] | None = None,
        classes: Mapping[str, int] | None = None,
    ) -> Predict:
        """A predict request of what a caller has given.

        Raises:
            InvalidRequest: An input is no tensor, or an array for an output is no shared one; or a name or a value is
                none that can be sent.
            Unsupported: The API has no parameters, or no classes.
        """
        checks.model(model)
        version = checks.version(version)
        if request_id:
            checks.request_id(request_id)
        arrays = {name: checks.tensor(name, value) for name, value in inputs.items()}
        call = Predict(model, version, arrays, checks.names(outputs), request_id)
        if parameters:
            if self.target.api == "tfs":
                raise Unsupported(
                    Code.UNIMPLEMENTED, "TensorFlow Serving's API has no parameters of requests"
                )
            call.parameters = checks.parameters(parameters)
        if classes:
            if self.target.api == "tfs":
                raise Unsupported(Code.UNIMPLEMENTED, "this server answers classes by KServe's API only")
            call.classes = checks.classes(classes)
            call.outputs = tuple(dict.fromkeys((*classes, *call.outputs)))
        if self.shared is not None:
            places = {name: self.shared.place_of(array) for name, array in arrays.items()}
            call.input_places = {name: place for name, place in places.items() if place is not None}
        if into:
            call.output_places = {name: self._place(name, array) for name, array in into.items()}
            call.outputs = tuple(dict.fromkeys((*into, *call.outputs)))
        return call

    def _place(self, name: str, array: AnyArray) -> Place:
        place = self.shared.place_of(array) if self.shared and isinstance(array, np.ndarray) else None
        if place is None:
            raise wrong(f"the array for output {name!r} is not one of shared_array(), or has gaps")
        return place

    def operation(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], options: PredictOptions, timeout_s: float
    ) -> Operation[Outputs]:
        """A predict request as it is sent; raises as :meth:`predict`.

        Args:
            model: Its name.
            inputs: By name.
            options: Of ``predict``; its timeout means nothing here.
            timeout_s: How long the client waits.
        """
        call = self.predict(
            model,
            inputs,
            options.get("version", 0),
            options.get("outputs", ()),
            options.get("request_id", ""),
            options.get("parameters"),
            options.get("into"),
            options.get("classes"),
        )
        if not self.is_http2:
            call.timeout_us = int(1e6 * timeout_s)
        return self.dialect.predict(call)

    def about(self, ask: Callable[[str, int], Operation[T]], model: str, version: int) -> Operation[T]:
        """A call about a version of a model.

        Args:
            ask: The dialect's.
            model: Its name.
            version: 0 for the server's choice.

        Raises:
            InvalidRequest: One of these cannot be sent.
        """
        checks.model(model)
        return ask(model, checks.version(version))


def only(outputs: Outputs) -> AnyArray:
    """The one output of a model.

    Raises:
        InvalidRequest: There are several.
    """
    if len(outputs) != 1:
        raise wrong(f"the model has the outputs {', '.join(outputs)}; call predict() for all, or name one")
    return next(iter(outputs.values()))


def _dialect(target: targets.Target) -> Dialect:
    if target.protocol == "grpc":
        return KServeGrpc() if target.api == "kserve" else TfsGrpc()
    return KServeRest(target.prefix) if target.api == "kserve" else TfsRest(target.prefix)
