# SPDX-License-Identifier: Apache-2.0
"""Images decoded in threads: who gives up, what is held meanwhile, and what C libraries print."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ovms_mp.errors import MalformedPayload, ShapeMismatch
from ovms_mp.front.images.decoder import ImageDecoder
from ovms_mp.front.images.tensor import ImagesTensor
from ovms_mp.front.strings import Strings
from ovms_mp.model.dtypes import DType
from ovms_mp.model.tensors import TensorSpec
from tests.support import waiting
from tests.unit.front.workers import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovms_mp.model.dtypes import AnyArray

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'ovms_mp[images]'")

FIXED = TensorSpec.of("x", DType.UINT8, ((1, 64), (16, 16), (16, 16), (3, 3)))
ANY = TensorSpec.of("x", DType.UINT8, ((0, -1), (0, -1), (0, -1), (0, -1)))


def png(seed: int = 0, height: int = 16, width: int = 16, channels: int = 3) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


def opened(content: bytes) -> AnyArray:
    image: AnyArray = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return image


def images(spec: TensorSpec, contents: Sequence[bytes | memoryview]) -> ImagesTensor:
    return ImagesTensor.of(Strings.of(contents), len(contents), spec)


async def decode(decoder: ImageDecoder, spec: TensorSpec, tensor: ImagesTensor) -> AnyArray:
    await decoder.settle([spec], [tensor])
    place = bytearray(spec.dtype.nbytes(tensor.shape))
    tensor.write(spec, memoryview(place))
    await decoder.fill([spec], [tensor])
    return np.frombuffer(place, spec.dtype.numpy).reshape(tensor.shape)


def test_channels_are_the_first_images_where_the_model_takes_any() -> None:
    contents = [png(seed, 5, 9, 4) for seed in range(3)]
    got = asyncio.run(decode(ImageDecoder(1), ANY, images(ANY, contents)))
    assert np.array_equal(got, np.stack([opened(content) for content in contents]))


def test_images_that_are_not_resized_are_alike() -> None:
    with pytest.raises(ShapeMismatch, match=r"9x5 and 9x6 \(image 2\)"):
        asyncio.run(decode(ImageDecoder(1), ANY, images(ANY, [png(0, 5, 9), png(1, 5, 9), png(2, 6, 9)])))


def decoding_threads() -> int:
    """How many threads are at an image."""
    count = 0
    for frame in sys._current_frames().values():
        names = {inner.f_code.co_name for inner, _ in traceback.walk_stack(frame)}
        count += "_decode_some" in names
    return count


def test_who_gives_up_hears_of_it_when_no_thread_reads_the_images_any_more() -> None:
    large = bytes(cv2.imencode(".png", np.zeros((5000, 5000, 3), np.uint8))[1])

    async def story() -> None:
        task = asyncio.create_task(decode(ImageDecoder(32), FIXED, images(FIXED, [large])))
        await eventually(lambda: decoding_threads() > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not decoding_threads()

    asyncio.run(story())


@pytest.mark.parametrize("is_broken", [False, True])
def test_images_that_nobody_waits_for_are_forgotten_at_once(is_broken: bool) -> None:
    """Else they would stay until the garbage collector looks for circles."""
    contents = [png(seed, 400, 400) for seed in range(20)]
    if is_broken:
        contents[5] = contents[5][:1000]

    async def give_up() -> None:
        tensor = images(FIXED, contents)
        task = asyncio.create_task(decode(ImageDecoder(1), FIXED, tensor))
        if not is_broken:
            await eventually(lambda: decoding_threads() > 0)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), MalformedPayload)

    def are_forgotten() -> bool:
        return not any(isinstance(each, ImagesTensor) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(give_up())
        waiting.eventually(are_forgotten, 20.0, "threads let go of them")
    finally:
        gc.enable()


def test_small_images_do_not_wait_behind_large_ones() -> None:
    large = bytes(cv2.imencode(".png", np.zeros((4000, 4000, 3), np.uint8))[1])

    async def story() -> None:
        decoder = ImageDecoder(32)
        many = [asyncio.create_task(decode(decoder, FIXED, images(FIXED, [large]))) for _ in range(40)]
        await eventually(lambda: decoding_threads() > 0)
        small = png()
        assert np.array_equal((await decode(decoder, FIXED, images(FIXED, [small])))[0], opened(small))
        assert not all(task.done() for task in many), "large ones are still waiting"
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)

    asyncio.run(story())


def test_broken_images_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    broken = bytearray(png())
    broken[60] ^= 0xFF
    jpeg = bytes(cv2.imencode(".jpg", opened(png(0, 200, 200)))[1])
    opened(bytes(broken))
    assert "libpng error" in capfd.readouterr().err
    for content in (bytes(broken), jpeg[: len(jpeg) // 2]):
        with pytest.raises(MalformedPayload):
            asyncio.run(decode(ImageDecoder(1), FIXED, images(FIXED, [content])))
    assert not capfd.readouterr().err
    opened(bytes(broken))
    assert "libpng error" in capfd.readouterr().err
