# SPDX-License-Identifier: Apache-2.0
"""Encoded images in: what a model sees of them is, bit by bit, what OpenCV makes of them; hostile ones are refused."""

from __future__ import annotations

import base64
import json
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from ovms_mp.client import PredictionServiceStub, PredictRequest, make_ndarray, make_tensor_proto
from ovms_mp.front.kserve._proto import kserve_pb2
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovms_mp.model.dtypes import AnyArray
    from tests.support.models import ModelCache

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'ovms_mp[images]'")

DTYPES = {
    "u8": np.uint8,
    "i8": np.int8,
    "u16": np.uint16,
    "i16": np.int16,
    "i32": np.int32,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
}
MODELS = (
    *(f"image_{name}" for name in DTYPES),
    *("any_image", "some_images", "ranged_image", "deep_image", "planes", "grey_image", "vector"),
)
DEADLINE_S = 60.0
HEIGHT, WIDTH = 24, 32


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    request: pytest.FixtureRequest, model_cache: ModelCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    models = model_cache.get("tests.support.build_text_models")
    directory = tmp_path_factory.mktemp("images")
    config = directory / "config.json"
    listed = [{"config": {"name": name, "base_path": str(models / name)}} for name in MODELS]
    planes = {"name": "turned", "base_path": str(models / "planes"), "layout": "NHWC:NCHW"}
    config.write_text(json.dumps({"model_config_list": [*listed, {"config": planes}]}))
    before = Ledger.take()
    arguments = ["config", "--config_path", str(config), "--grpc_front", request.param]
    with Server(arguments, directory / "server.log") as running:
        yield running
    assert_nothing_left(before)


@pytest.fixture
def stub(server: Server) -> Iterator[PredictionServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield PredictionServiceStub(channel)


def picture(height: int = HEIGHT, width: int = WIDTH, channels: int = 3, seed: int = 1) -> AnyArray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, channels), np.uint8)
    smooth: AnyArray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth


def encoded(image: AnyArray, extension: str = ".png") -> bytes:
    return bytes(cv2.imencode(extension, image)[1])


def opened(content: bytes) -> AnyArray:
    image: AnyArray = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return image.reshape(*image.shape[:2], -1)


def predict(stub: Any, model: str, *images: bytes, timeout_s: float = DEADLINE_S) -> AnyArray:
    message = PredictRequest(model_spec={"name": model})
    array = np.empty(len(images), np.object_)
    array[:] = images
    message.inputs["x"].CopyFrom(make_tensor_proto(array))
    return make_ndarray(next(iter(stub.Predict(message, timeout=timeout_s).outputs.values())))


def refusal(stub: Any, model: str, *images: bytes) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        predict(stub, model, *images)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    return str(caught.value.details())


def by_rest(server: Server, model: str, *images: bytes) -> AnyArray:
    rows = [{"b64": base64.b64encode(image).decode()} for image in images]
    reply = rest_client.predict(server.rest_port, model, {"instances": rows})
    assert reply.status == 200, reply.text()
    return np.array(reply.json()["predictions"])


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tif", ".gif"])
def test_images_of_the_models_size(server: Server, stub: PredictionServiceStub, extension: str) -> None:
    content = encoded(picture(), extension)
    for name, dtype in DTYPES.items():
        if name == "i8":
            continue
        got = predict(stub, f"image_{name}", content)
        assert got.dtype == dtype
        assert np.array_equal(got, opened(content)[None].astype(dtype)), name
    assert np.array_equal(by_rest(server, "image_u8", content), opened(content)[None])


@pytest.mark.parametrize("size", [(48, 64), (11, 17), (HEIGHT, 100), (1, 1)])
def test_images_are_resized_as_opencv_does(stub: PredictionServiceStub, size: tuple[int, int]) -> None:
    content = encoded(picture(*size), ".jpg")
    for name in ("u8", "u16", "i16", "f32", "f64"):
        expected = cv2.resize(opened(content).astype(DTYPES[name]), (WIDTH, HEIGHT))[None]
        assert np.array_equal(predict(stub, f"image_{name}", content), expected), name
    wide = cv2.resize(opened(content).astype(np.float32), (WIDTH, HEIGHT))[None]
    assert np.array_equal(predict(stub, "image_f16", content), wide.astype(np.float16))
    wide = cv2.resize(opened(content).astype(np.float64), (WIDTH, HEIGHT))[None]
    assert np.array_equal(predict(stub, "image_i32", content), np.rint(wide).astype(np.int32))


def test_what_is_beyond_a_dtype_ends_at_its_limit(stub: PredictionServiceStub) -> None:
    deep = picture().astype(np.uint16) * 257
    content = encoded(deep)
    assert opened(content).dtype == np.uint16
    assert np.array_equal(predict(stub, "image_u16", content), deep[None])
    assert np.array_equal(predict(stub, "image_f32", content), deep[None].astype(np.float32))
    assert np.array_equal(predict(stub, "image_u8", content), np.minimum(deep, 255)[None].astype(np.uint8))
    assert np.array_equal(predict(stub, "image_i8", content), np.minimum(deep, 127)[None].astype(np.int8))


def test_batches(server: Server, stub: PredictionServiceStub) -> None:
    images = [encoded(picture(seed=seed), ".jpg") for seed in range(40)]
    expected = np.stack([opened(image) for image in images])
    assert np.array_equal(predict(stub, "some_images", *images), expected)
    assert np.array_equal(by_rest(server, "some_images", *images), expected)
    assert np.array_equal(predict(stub, "any_image", *images), expected)
    assert predict(stub, "some_images").shape == (0, HEIGHT, WIDTH, 3)
    small = [encoded(picture(12, 50, 4, seed)) for seed in range(3)]
    assert np.array_equal(predict(stub, "any_image", *small), np.stack([opened(image) for image in small]))
    assert "same resolution" in refusal(stub, "any_image", small[0], images[0])
    assert "Invalid number of channels" in refusal(stub, "any_image", images[0], encoded(picture(channels=4)))
    assert "batch size 2, required batch size 1" in refusal(stub, "image_u8", *images[:2])
    said = refusal(stub, "some_images", encoded(picture(10, 10)))
    assert "Obtained an image of 10x10 pixels" in said


def test_ranges_and_layouts(stub: PredictionServiceStub) -> None:
    inside = encoded(picture(20, 30))
    assert np.array_equal(predict(stub, "ranged_image", inside, inside), np.stack([opened(inside)] * 2))
    beyond = encoded(picture(100, 5))
    expected = cv2.resize(opened(beyond), (10, 40))
    second = cv2.resize(opened(inside), (10, 40))
    assert np.array_equal(predict(stub, "ranged_image", beyond, inside), np.stack([expected, second]))
    content = encoded(picture())
    assert np.array_equal(predict(stub, "deep_image", content)[0], opened(content)[None])
    assert np.array_equal(predict(stub, "turned", content), opened(content).transpose(2, 0, 1)[None])
    grey = encoded(picture(channels=1))
    assert np.array_equal(predict(stub, "grey_image", grey), opened(grey)[None])
    assert np.array_equal(
        predict(stub, "grey_image", encoded(picture(9, 9, 1))),
        cv2.resize(picture(9, 9, 1), (WIDTH, HEIGHT)).reshape(1, HEIGHT, WIDTH, 1),
    )
    assert "not configured to accept NHWC layout" in refusal(stub, "planes", content)
    assert "strings are taken by" in refusal(stub, "vector", content)
    assert "Invalid number of channels" in refusal(stub, "image_u8", grey)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int) -> bytes:
    """A bomb: as many pixels as its header says, in next to no bytes."""
    rows = zlib.compress(bytes(min((width * 3 + 1) * 200, 1 << 20)))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def hostile() -> dict[str, tuple[bytes, str]]:
    jpeg, png = encoded(picture(200, 300), ".jpg"), encoded(picture(200, 300))
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    return {
        "nothing": (b"", "String val is empty"),
        "text": (b"not an image", "no image of a known format"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a known format"),
        "jpeg cut off": (jpeg[: len(jpeg) // 2], "Image parsing failed"),
        "jpeg's signature": (jpeg[:3], "JPEG header is broken"),
        "jpeg of endless segments": (b"\xff\xd8" + b"\xff\xe0\0\2" * 100_000, "JPEG header is broken"),
        "png cut off": (png[: len(png) // 2], "Image parsing failed"),
        "png with a wrong bit": (bytes(broken), "Image parsing failed"),
        "png without pixels": (png_of(0, 5), "header says 0x5"),
        "bomb": (png_of(10_000, 10_000), "100000000|10000x10000 pixels; at most 32 million"),
        "largest bomb": (png_of(2**31 - 1, 2**31 - 1), "at most 32 million"),
        "lying header": (png_of(5_000, 5_000), "Image parsing failed"),
    }


@pytest.mark.parametrize("what", hostile())
def test_hostile_images(server: Server, stub: PredictionServiceStub, what: str) -> None:
    content, reason = hostile()[what]
    said = refusal(stub, "image_u8", content)
    assert any(part in said for part in reason.split("|")), said
    assert "image 0 of input 'x'" in said
    rows = [{"b64": base64.b64encode(content).decode()}]
    reply = rest_client.predict(server.rest_port, "image_u8", {"instances": rows})
    assert reply.status == 400
    assert any(part in reply.text() for part in reason.split("|"))


def test_others_are_answered_while_images_are_decoded(server: Server, stub: PredictionServiceStub) -> None:
    large = encoded(picture(3000, 4000), ".jpg")
    message = [large] * 24
    got: list[AnyArray] = []
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=limits) as channel:
        busy = PredictionServiceStub(channel)
        asking = threading.Thread(target=lambda: got.append(predict(busy, "ranged_image", *message[:3])))
        asking.start()
        answered = 0
        while asking.is_alive():
            assert predict(stub, "image_u8", encoded(picture())).shape == (1, HEIGHT, WIDTH, 3)
            answered += 1
        asking.join()
    assert answered
    assert got[0].shape == (3, 40, 40, 3)


def test_a_call_that_is_given_up_leaves_nothing_behind(stub: PredictionServiceStub) -> None:
    large = encoded(picture(3000, 4000), ".jpg")
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as caught:
            predict(stub, "image_f32", large, timeout_s=0.02)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    content = encoded(picture())
    assert np.array_equal(predict(stub, "image_u8", content), opened(content)[None])


def test_images_over_kserve(server: Server) -> None:
    content = encoded(picture(48, 64), ".jpg")
    expected = cv2.resize(opened(content), (WIDTH, HEIGHT))
    tensor: dict[str, object] = {"name": "x", "datatype": "BYTES", "shape": [1]}
    raw = struct.pack("<I", len(content)) + content
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    reply = rest_client.request(server.rest_port, "POST", "/v2/models/image_u8/infer", head + raw, headers)
    assert reply.status == 200, reply.text()
    assert reply.body.endswith(expected.tobytes())
    message = kserve_pb2.ModelInferRequest(
        model_name="image_u8",
        inputs=[kserve_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[1])],
        raw_input_contents=[raw],
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=kserve_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=kserve_pb2.ModelInferResponse.FromString,
        )
        answer = call(message, timeout=DEADLINE_S)
    assert answer.raw_output_contents[0] == expected.tobytes()


def test_the_configuration_over_kserve_says_the_layout(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelConfig",
            request_serializer=kserve_pb2.ModelConfigRequest.SerializeToString,
            response_deserializer=kserve_pb2.ModelConfigResponse.FromString,
        )
        for model, name in (("turned", "FORMAT_NHWC"), ("vector", "FORMAT_NONE")):
            (by_grpc,) = ask(kserve_pb2.ModelConfigRequest(name=model), timeout=DEADLINE_S).config.input
            by_rest = rest_client.request(server.rest_port, "GET", f"/v2/models/{model}/config").json()
            assert by_grpc.format == kserve_pb2.ModelInput.Format.Value(name)
            assert [item["format"] for item in by_rest["input"]] == [name]
