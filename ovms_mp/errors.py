# SPDX-License-Identifier: Apache-2.0
"""Every failure of the server: one class and one canonical code (:mod:`ovms_mp.codes`).

The way of a request, with the failure that each arrow can raise::

    head  -> gate            Unauthenticated, PermissionRefused, TooManyRequests
    bytes -> decode          MalformedPayload, UnsupportedOperation, RequestTooLarge, BodyMemoryFull
          -> find version    ModelNotFound, VersionNotFound, ModelNotReady, Draining
          -> validate        InputNameMismatch, ShapeMismatch, DtypeMismatch, OutputNameMismatch
          -> lease           TensorTooLarge, NoFreeSlot
          -> write           DtypeMismatch, ValueNotExact
          -> shared memory   RegionNotFound, RegionUnusable, RegionForbidden, RegionMismatch
          -> worker queue    QueueFull, DeadlineExceeded, CallCancelled, WorkerLost
          -> inference       InferenceFailed, WorkerCrashed, AnswerTooLarge

``ModelLoadFailed`` and ``DeviceUnavailable`` appear in a version's status, and answer a request or reload that made
the server load; those that begin with ``Store`` are in the status of a model from an object store. ``ConfigError`` and
``BootError`` end a process with an exit code. A client hears of the former only when it has asked for a reload: as
``ConfigRejected`` or ``ConfigUnreadable``. Used by every process.
"""

from __future__ import annotations

from ovms_mp.codes import Code as Code
from ovms_mp.codes import ExitCode as ExitCode


class OvmsError(Exception):
    """A failure with a name, a code and a text that is meant for the client.

    Attributes:
        code: Canonical code; fixed for each class.
        message: For the client: what was given, what would be accepted, which setting changes it.
        retry_after_s: After what time another try may fare better; 0 where that is not known.
    """

    code: Code = Code.INTERNAL
    retry_after_s: float = 0.0
    better_http_status = 0  # Where HTTP has a better word than the code's row.

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def http_status(self) -> int:
        """HTTP status of this failure."""
        return self.better_http_status or self.code.http_status


class MalformedPayload(OvmsError):
    """The bytes are not what the protocol says they are."""

    code = Code.INVALID_ARGUMENT


class InputNameMismatch(OvmsError):
    """The request's inputs are not the model's inputs."""

    code = Code.INVALID_ARGUMENT


class OutputNameMismatch(OvmsError):
    """The request's output filter names an output that the model lacks."""

    code = Code.INVALID_ARGUMENT


class ShapeMismatch(OvmsError):
    """A tensor's shape is not one that the model accepts."""

    code = Code.INVALID_ARGUMENT


class DtypeMismatch(OvmsError):
    """A tensor's values cannot become the model's dtype without losing what they say."""

    code = Code.INVALID_ARGUMENT


class ValueNotExact(OvmsError):
    """A value is the model's dtype, but the engine computes in fewer bits and would take it for another one."""

    code = Code.INVALID_ARGUMENT


class RegionMismatch(OvmsError):
    """A tensor and the range of shared memory that the client gives it do not fit each other, or do not any more."""

    code = Code.INVALID_ARGUMENT


class RegionUnusable(OvmsError):
    """What a client calls its shared memory is none that the server can use."""

    code = Code.INVALID_ARGUMENT


class RegionForbidden(OvmsError):
    """The shared memory belongs to somebody whose clients the server does not serve."""

    code = Code.PERMISSION_DENIED


class RegionNotFound(OvmsError):
    """No region of shared memory is registered by this name."""

    code = Code.NOT_FOUND


class RequestTooLarge(OvmsError):
    """The message is longer than the server accepts."""

    code = Code.RESOURCE_EXHAUSTED
    better_http_status = 413
    """413 instead of 429: HTTP has a name for it, and trying again cannot help (RFC 9110, 15.5.14)."""


class TensorTooLarge(OvmsError):
    """The request's tensors do not fit the arena, however empty it is."""

    code = Code.RESOURCE_EXHAUSTED
    better_http_status = 413


class AnswerTooLarge(OvmsError):
    """The outputs of the request are longer than the server answers."""

    code = Code.RESOURCE_EXHAUSTED
    better_http_status = 413


class NoFreeSlot(OvmsError):
    """The arena is full at this moment."""

    code = Code.RESOURCE_EXHAUSTED


class Unauthenticated(OvmsError):
    """Who calls has not said who they are, or not by a key that the server knows."""

    code = Code.UNAUTHENTICATED


class PermissionRefused(OvmsError):
    """Who calls may not call this."""

    code = Code.PERMISSION_DENIED


class TooManyRequests(OvmsError):
    """One client has as many requests under way as it may."""

    code = Code.RESOURCE_EXHAUSTED


class BodyMemoryFull(OvmsError):
    """The bodies that this front is receiving and reading hold all the memory that they may."""

    code = Code.RESOURCE_EXHAUSTED


class QueueFull(OvmsError):
    """The model version's queue is at its bound, or longer than the request's deadline leaves time for."""

    code = Code.RESOURCE_EXHAUSTED


class TooManyChanges(OvmsError):
    """As many changes of the server's state are under way as may be."""

    code = Code.RESOURCE_EXHAUSTED


class ChangesNotAllowed(OvmsError):
    """Clients may not change the server's state."""

    code = Code.PERMISSION_DENIED


class RegionExists(OvmsError):
    """A region of shared memory with this name is registered already."""

    code = Code.ALREADY_EXISTS
    better_http_status = 400
    """400 instead of 409, as Triton, whose clients are the only ones that register regions."""


class TooManyRegions(OvmsError):
    """As many regions of shared memory are registered as may be."""

    code = Code.RESOURCE_EXHAUSTED


class TooManyWatchers(OvmsError):
    """As many calls wait for changes of readiness, or there are as many names to list, as may be."""

    code = Code.RESOURCE_EXHAUSTED


class ServiceNotFound(OvmsError):
    """Who asks for the health of something names nothing that is here."""

    code = Code.NOT_FOUND


class ModelNotFound(OvmsError):
    """No model of this name."""

    code = Code.NOT_FOUND


class VersionNotFound(OvmsError):
    """The model has no such version, or has it no more."""

    code = Code.NOT_FOUND


class ModelNotReady(OvmsError):
    """The version exists but is not AVAILABLE yet."""

    code = Code.UNAVAILABLE


class WorkerLost(OvmsError):
    """The inference worker died while it had the request, and no successor took it in time."""

    code = Code.UNAVAILABLE


class WorkerCrashed(OvmsError):
    """The engine crashed while it ran this request, or did lately while it ran the same one.

    Not UNAVAILABLE like :class:`WorkerLost`: clients and proxies send such a request again, to other servers, too, and
    it would crash each of them. Not the client's fault either, as the request is valid for the model.
    """

    code = Code.INTERNAL


class Draining(OvmsError):
    """The server is stopping and takes no new work."""

    code = Code.UNAVAILABLE


class DeadlineExceeded(OvmsError):
    """The request's deadline passed before its answer."""

    code = Code.DEADLINE_EXCEEDED


class CallCancelled(OvmsError):
    """The client gave up."""

    code = Code.CANCELLED


class ModelLoadFailed(OvmsError):
    """The version's files cannot be read or compiled; its status says why."""

    code = Code.FAILED_PRECONDITION


class ModelTooLarge(OvmsError):
    """Loading the version takes more memory than it may; its status says how much that is."""

    code = Code.FAILED_PRECONDITION


class DeviceUnavailable(OvmsError):
    """The device, or a property asked of it, does not exist here; only a new configuration helps."""

    code = Code.FAILED_PRECONDITION


class UnsupportedOperation(OvmsError):
    """The protocol has it, this server does not."""

    code = Code.UNIMPLEMENTED


class InferenceFailed(OvmsError):
    """The engine raised while it ran a valid request."""

    code = Code.INTERNAL


class ProtocolError(OvmsError):
    """A message between our own processes breaks its rules."""

    code = Code.INTERNAL


class ConfigError(OvmsError):
    """The command line, the environment or a configuration file is wrong: exit code 2.

    Attributes:
        client_message: The same for clients that ask for a reload, without what the file holds and where it lies.
    """

    code = Code.INVALID_ARGUMENT

    def __init__(self, message: str, client_message: str = "") -> None:
        super().__init__(message)
        self.client_message = client_message or message


class ConfigUnreadable(ConfigError):
    """The configuration file cannot be opened or read: exit code 2 at the start, INTERNAL to who asks for a reload."""

    code = Code.INTERNAL


class ConfigRejected(OvmsError):
    """A reload found a configuration that is wrong; everything stays as it was."""

    code = Code.FAILED_PRECONDITION
    better_http_status = 412
    """412 instead of 400: the only clients that ask for a reload are those of the OVMS that says so."""


class StoreUnavailable(OvmsError):
    """An object store does not answer, answers too slowly, or asks to be left alone for a while."""

    code = Code.UNAVAILABLE


class StoreRefused(OvmsError):
    """An object store does not let us read: the credentials are missing, wrong or not enough."""

    code = Code.PERMISSION_DENIED


class StoreNotFound(OvmsError):
    """The bucket or container does not exist, or an object that must."""

    code = Code.NOT_FOUND


class StoreChanged(OvmsError):
    """An object was replaced or removed while it was being downloaded; the next run takes the new one."""

    code = Code.ABORTED


class StoreContentInvalid(OvmsError):
    """What was downloaded is not what the store's listing says."""

    code = Code.DATA_LOSS


class StoreDirFull(OvmsError):
    """There is no room for the download in the local directory of downloaded models."""

    code = Code.RESOURCE_EXHAUSTED


class StoreNotSupported(OvmsError):
    """The library for this kind of store is not installed."""

    code = Code.UNIMPLEMENTED


class BootError(OvmsError):
    """A process cannot start: exit code 3."""

    code = Code.UNAVAILABLE


INTERNAL_ERROR_TEXT = "Internal server error; the server's log has the details"
"""What a client is told of a defect; the traceback stays in the log."""

_LONGEST_TEXT = 2048


def shortened(text: str, longest: int = _LONGEST_TEXT) -> str:
    """A text of which so many characters are enough for anybody; its end, which often is the remedy, is kept."""
    if len(text) <= longest:
        return text
    return f"{text[: longest * 3 // 4]} ...({len(text)} characters)... {text[-(longest // 4) :]}"


def error_classes() -> dict[str, type[OvmsError]]:
    """All failures by name, for records that cross processes and for the test that walks them."""
    found: dict[str, type[OvmsError]] = {}
    waiting = [OvmsError]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            found[cls.__name__] = cls
            waiting.append(cls)
    return found


_CLASSES = error_classes()


def error_from_record(name: str, message: str) -> OvmsError:
    """Rebuild a failure that another process reported; an unknown name becomes INTERNAL."""
    return _CLASSES.get(name, OvmsError)(message)
