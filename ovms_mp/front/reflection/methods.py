# SPDX-License-Identifier: Apache-2.0
"""ServerReflectionInfo of both versions: which services there are, and the files that describe their messages.

Files are named as protoc has been shown them, so by where their code is in this package; what they import has names of
the same form, so that a client can put them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from ovms_mp.errors import Code, MalformedPayload, shortened
from ovms_mp.front.methods import Streaming
from ovms_mp.front.protobuf.parts import small_request

# The older one's messages are the same but for their package; it is imported for its descriptor.
from ovms_mp.front.reflection._proto import grpc_reflection_pb2 as reflection
from ovms_mp.front.reflection._proto import grpc_reflection_v1alpha_pb2 as _  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.descriptor import FileDescriptor

    from ovms_mp.front.call_context import CallContext
    from ovms_mp.front.methods import MessageStream, Method

PROTOCOL = "reflection"
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_LONGEST_SHOWN = 200


def methods(services: Iterable[str]) -> Sequence[Method]:
    """All methods.

    Args:
        services: Full names of the other gRPC services that are served.
    """
    own = ReflectionMethods((*services, *SERVICES))
    return [Streaming(f"/{service}/ServerReflectionInfo", own.info, PROTOCOL) for service in SERVICES]


class ReflectionMethods:
    """Handlers on octets. Shows the files of the services and what these import, and no other of this process."""

    def __init__(self, services: Iterable[str]) -> None:
        """Collect the files.

        Raises:
            KeyError: A service's code is not imported; a defect.
        """
        self._services = sorted(services)
        self._pool = descriptor_pool.Default()
        self._files: dict[str, FileDescriptor] = {}
        for service in self._services:
            self._add(self._pool.FindServiceByName(service).file)

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            self._files[file.name] = file
            for imported in file.dependencies:
                self._add(imported)

    async def info(self, stream: MessageStream, context: CallContext) -> None:
        """Answer each question in turn."""
        async for octets in stream:
            request = small_request(octets, reflection.ServerReflectionRequest)
            answer = self._answer(request)
            answer.valid_host = request.host
            answer.original_request.CopyFrom(request)
            await stream.send(answer.SerializeToString())

    def _answer(self, request: reflection.ServerReflectionRequest) -> reflection.ServerReflectionResponse:
        match request.WhichOneof("message_request"):
            case "list_services":
                services = [reflection.ServiceResponse(name=name) for name in self._services]
                return reflection.ServerReflectionResponse(
                    list_services_response=reflection.ListServiceResponse(service=services)
                )
            case "file_by_filename":
                name = request.file_by_filename
                return _described(self._files.get(name), f"file {_shown(name)}")
            case "file_containing_symbol":
                name = request.file_containing_symbol
                return _described(self._file_of(name), f"symbol {_shown(name)}")
            case "file_containing_extension":
                extension = request.file_containing_extension
                what = f"extension {extension.extension_number} of {_shown(extension.containing_type)}"
                return _described(None, what)
            case "all_extension_numbers_of_type":
                return self._extensions(request.all_extension_numbers_of_type)
            case _:
                raise MalformedPayload("the request asks nothing: message_request is not set")

    def _file_of(self, symbol: str) -> FileDescriptor | None:
        try:
            file = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # A method is none of the pool's symbols.
            service, _, method = symbol.rpartition(".")
            if service not in self._services:
                return None
            described = self._pool.FindServiceByName(service)
            if method not in described.methods_by_name:
                return None
            file = described.file
        return self._files.get(file.name)

    def _extensions(self, name: str) -> reflection.ServerReflectionResponse:
        """No message here has extensions."""
        try:
            is_known = self._pool.FindMessageTypeByName(name).file.name in self._files
        except KeyError:
            is_known = False
        if not is_known:
            return _not_found(f"message type {_shown(name)}")
        numbers = reflection.ExtensionNumberResponse(base_type_name=name)
        return reflection.ServerReflectionResponse(all_extension_numbers_response=numbers)


def _shown(name: str) -> str:
    return repr(shortened(name, _LONGEST_SHOWN))


def _described(file: FileDescriptor | None, what: str) -> reflection.ServerReflectionResponse:
    if file is None:
        return _not_found(what)
    answer = reflection.ServerReflectionResponse()
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    answer.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())
    return answer


def _not_found(what: str) -> reflection.ServerReflectionResponse:
    error = reflection.ErrorResponse(error_code=Code.NOT_FOUND.number, error_message=f"there is no {what}")
    return reflection.ServerReflectionResponse(error_response=error)
