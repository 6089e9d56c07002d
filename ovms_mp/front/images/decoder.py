# SPDX-License-Identifier: Apache-2.0
"""Decodes the images of requests in threads, as many as there are cores, and only where there is room for them.

::

    headers, on the loop in turns --> size settled --> lease --> decoded in threads, straight into the arena

A thread holds one decoded image besides the arena, so memory is bounded by --max_image_megapixels and the number of
cores. A request's images are decoded some at a time, so that those of another request have their turn. Large images
have threads of their own: a hundred of them take a minute, and nobody's small ones wait behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.errors import MalformedPayload, OvmsError, ShapeMismatch
from ovms_mp.front.aside import run_in
from ovms_mp.front.images.headers import size_of
from ovms_mp.front.images.pixels import decoded, write_pixels
from ovms_mp.front.images.tensor import ImagesTensor, check_channels, fixed_channels, is_resized

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Sequence

    from ovms_mp.front.images.headers import Size
    from ovms_mp.front.tensors import GivenTensor
    from ovms_mp.model.tensors import TensorSpec

_MEGAPIXEL = 1_000_000
_TURN_S = 0.002
"""How long headers may be looked at in one go."""
_GO_BYTES = 256 << 10
"""Encoded images that a thread decodes in one go, at least one. PERF: a go costs 0.1 ms, this much decodes in 2 ms."""
_MOST_THREADS = 16
_MOST_QUICK_PIXELS = 4 * _MEGAPIXEL
"""PERF: decoding so many takes 50 ms at most."""


class ImageDecoder:
    """One front's. All calls come from its event loop; threads begin with the first image."""

    def __init__(self, max_megapixels: int) -> None:
        """Prepare.

        Args:
            max_megapixels: Of any one image.
        """
        self._max_pixels = max_megapixels * _MEGAPIXEL
        self._max_megapixels = max_megapixels
        self._thread_count = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._quick = ThreadPoolExecutor(self._thread_count, thread_name_prefix="images")
        self._slow = ThreadPoolExecutor(self._thread_count, thread_name_prefix="images-large")

    async def settle(self, specs: Sequence[TensorSpec], tensors: Sequence[GivenTensor]) -> None:
        """Look at the images among the tensors, and give them the shapes that they will have.

        Raises:
            MalformedPayload: One is no image, or has too many pixels.
            ShapeMismatch: The model takes no images of this size.
            UnsupportedOperation: Images cannot be decoded here.
        """
        for spec, tensor in zip(specs, tensors, strict=True):
            if isinstance(tensor, ImagesTensor):
                await self._settle(spec, tensor)

    async def _settle(self, spec: TensorSpec, tensor: ImagesTensor) -> None:
        size = await self._size(spec, tensor)
        if size is None:
            return
        channels = fixed_channels(spec)
        if channels is None:
            # Its pixels are not kept: requests that wait would hold as much memory as they like.
            channels = await run_in(self._threads_for(tensor), _channels_of_first, spec, tensor, size)
        tensor.settle(spec, size, channels)

    async def _size(self, spec: TensorSpec, tensor: ImagesTensor) -> Size | None:
        """The size of the first image, when the headers of all have been looked at; None where there is no image."""
        first: Size | None = None
        must_be_alike = not is_resized(spec)
        turn_ends_s = time.monotonic() + _TURN_S
        for index, octets in enumerate(tensor.encoded):
            try:
                size = size_of(octets)
                if size.width * size.height > self._max_pixels:
                    raise MalformedPayload(
                        f"an image of {size.width}x{size.height} pixels; at most {self._max_megapixels} million are "
                        f"decoded (--max_image_megapixels)"
                    )
            except OvmsError as error:
                raise _of_image(error, spec, index) from None
            tensor.most_pixels = max(tensor.most_pixels, size.width * size.height)
            if first is None:
                first = size
            elif must_be_alike and size != first:
                raise ShapeMismatch(
                    f"Binary input images for this endpoint are required to have the same resolution: input "
                    f"{spec.name!r}, {first.width}x{first.height} and {size.width}x{size.height} (image {index})"
                )
            if time.monotonic() > turn_ends_s:
                await asyncio.sleep(0)
                turn_ends_s = time.monotonic() + _TURN_S
        return first

    async def fill(self, specs: Sequence[TensorSpec], tensors: Sequence[GivenTensor]) -> None:
        """Decode the images among the tensors to their places.

        Returns or raises, also for being cancelled, when no thread reads the images or writes to their places any more.

        Args:
            specs: The model's inputs.
            tensors: For them; images are settled, and know their places.

        Raises:
            MalformedPayload: One cannot be decoded, or has another number of channels than the others.
            UnsupportedOperation: Images cannot be decoded here.
        """
        for spec, tensor in zip(specs, tensors, strict=True):
            if isinstance(tensor, ImagesTensor) and len(tensor.place):
                goes = list(_goes(tensor))
                turns = iter(goes)
                if len(goes) == 1:
                    await self._work(spec, tensor, turns)
                    continue
                count = min(self._thread_count, len(goes))
                await _all_or_first_error(self._work(spec, tensor, turns) for _ in range(count))

    async def _work(self, spec: TensorSpec, tensor: ImagesTensor, goes: Iterator[range]) -> None:
        for indexes in goes:
            await run_in(self._threads_for(tensor), _decode_some, spec, tensor, indexes)

    def _threads_for(self, tensor: ImagesTensor) -> ThreadPoolExecutor:
        return self._quick if tensor.most_pixels <= _MOST_QUICK_PIXELS else self._slow


async def _all_or_first_error(works: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait until all have ended, or one has failed and the others have ended what they were at.

    A group of tasks would do, but refers to its failure in a circle, and that to the images of a request.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        while not all(task.done() for task in tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    failed = [error for error in errors if error is not None]
    del tasks, task, errors
    if failed:
        raise failed.pop(0)


def _goes(tensor: ImagesTensor) -> Iterator[range]:
    """Indexes of the images that a thread decodes in one go."""
    start = nbytes = 0
    for index, size in enumerate(tensor.encoded.sizes.tolist()):
        nbytes += size
        if nbytes >= _GO_BYTES:
            yield range(start, index + 1)
            start, nbytes = index + 1, 0
    if start < len(tensor.encoded):
        yield range(start, len(tensor.encoded))


def _channels_of_first(spec: TensorSpec, tensor: ImagesTensor, size: Size) -> int:
    """How many channels the first image has; only decoding it can tell. Runs in a thread."""
    try:
        channels: int = decoded(tensor.encoded[0], size).shape[2]
    except OvmsError as error:
        raise _of_image(error, spec, 0) from None
    return channels


def _decode_some(spec: TensorSpec, tensor: ImagesTensor, indexes: range) -> None:
    """Decode images to their places. Runs in a thread."""
    height, width, channels = tensor.shape[-3:]
    places = np.frombuffer(tensor.place, spec.dtype.numpy).reshape(-1, height, width, channels)
    for index in indexes:
        octets = tensor.encoded[index]
        try:
            pixels = decoded(octets, size_of(octets))
            check_channels(spec, pixels.shape[2], channels, index)
        except OvmsError as error:
            raise _of_image(error, spec, index) from None
        write_pixels(pixels, spec.dtype, places[index])


def _of_image(error: OvmsError, spec: TensorSpec, index: int) -> OvmsError:
    """The error with the place of the image that it is of."""
    return type(error)(f"{error.message} (image {index} of input {spec.name!r})")
