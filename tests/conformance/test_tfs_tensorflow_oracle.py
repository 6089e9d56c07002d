# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's own ``make_tensor_proto`` and ``make_ndarray`` against our codec, both ways, all dtypes.

TensorFlow and our descriptors cannot share a process: a script of TensorFlow's side writes requests and reads
our responses, everything of ours happens here. Its start takes seconds, so one run serves all tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.front.tensors import ResultTensor
from ovms_mp.front.tfs.protobuf.decode import decode_predict
from ovms_mp.front.tfs.protobuf.encode import encode_predict
from ovms_mp.model.dtypes import NUMERIC_DTYPES, element_count
from tests.support.protobuf_messages import values_of

if TYPE_CHECKING:
    from ovms_mp.front.tensors import GivenTensor

SHAPES = [(), (1,), (3,), (2, 3), (0, 4), (1, 2, 1, 2)]

TENSORFLOW = """
import json
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

OWN_FIELDS = ["float_val", "double_val", "int64_val", "uint32_val", "uint64_val", "bool_val", "half_val"]
task = json.loads(input())
requests = []

def add(what, proto):
    request = PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(proto)
    array = tf.make_ndarray(proto)
    requests.append([what, request.SerializeToString().hex(), list(array.shape), array.tobytes().hex()])

for number in task["dtypes"]:
    dtype = tf.as_dtype(number)
    for shape in task["shapes"]:
        count = int(np.prod(shape))
        array = (np.arange(count) % (2 if dtype.is_bool else 100)).reshape(shape).astype(dtype.as_numpy_dtype)
        what = f"{dtype.name}{shape}"
        add(f"{what} array", tf.make_tensor_proto(array))
        add(f"{what} list", tf.make_tensor_proto(array.tolist(), dtype=dtype, shape=shape))
        add(f"{what} content", TensorProto(dtype=number, tensor_shape=tf.TensorShape(shape).as_proto(),
                                           tensor_content=array.tobytes()))
        if not count:
            continue
        # A single value always goes to the dtype's own field, which tells us its name.
        field = [f.name for f, _ in tf.make_tensor_proto(array.ravel()[0]).ListFields()][-1]
        for given in {1, count - 1, count} - {0}:
            few = TensorProto(dtype=number, tensor_shape=tf.TensorShape(shape).as_proto())
            flat = array.ravel()[:given]
            if field == "float8_val":
                few.float8_val = flat.tobytes()
            else:
                getattr(few, field).extend((flat.view(np.uint16) if field == "half_val" else flat).tolist())
            add(f"{what} {field}[{given}]", few)

responses = []
for encoded in task["responses"]:
    response = PredictResponse.FromString(bytes.fromhex(encoded))
    spec = response.model_spec
    arrays = {name: (proto.dtype, tf.make_ndarray(proto)) for name, proto in response.outputs.items()}
    responses.append([spec.name, spec.version.value, spec.signature_name, {
        name: [dtype, list(array.shape), array.tobytes().hex()] for name, (dtype, array) in arrays.items()}])
print(json.dumps({"requests": requests, "responses": responses}))
"""


def results() -> list[list[ResultTensor]]:
    """Responses to encode: one output of each dtype and shape, then all dtypes in one."""
    random = np.random.default_rng(7)
    single = []
    for dtype in NUMERIC_DTYPES:
        for shape in SHAPES:
            data = random.integers(0, 2, element_count(shape) * dtype.itemsize, np.uint8)
            single.append([ResultTensor(f"out_{dtype.name}", dtype, shape, memoryview(data.tobytes()))])
    return [*single, [outputs[0] for outputs in single[2 :: len(SHAPES)]]]


@pytest.fixture(scope="module")
def tensorflow() -> dict[str, Any]:
    """What TensorFlow wrote for us, and what it read of ours."""
    task = {
        "dtypes": [dtype.tf_number for dtype in NUMERIC_DTYPES],
        "shapes": SHAPES,
        "responses": [encode_predict("m", 5, outputs).hex() for outputs in results()],
    }
    done = subprocess.run(
        [sys.executable, "-c", TENSORFLOW],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def expanded(tensor: GivenTensor) -> bytes:
    """All elements of a given tensor: the last value fills the rest, none means zeros."""
    values, count = values_of(tensor), element_count(tensor.shape)
    if isinstance(values, memoryview):
        return bytes(values)
    last = values[-1:] if values.size else np.zeros(1, tensor.dtype.numpy)
    return np.concatenate([values, np.repeat(last, count - values.size)]).tobytes()


def test_requests_of_tensorflow(tensorflow: dict[str, Any]) -> None:
    """Whatever TensorFlow writes, we read the array that TensorFlow reads."""
    assert len(tensorflow["requests"]) > 400
    for what, body, shape, elements in tensorflow["requests"]:
        given = decode_predict(bytes.fromhex(body)).inputs["x"]
        assert (list(given.shape), expanded(given).hex()) == (shape, elements), what


def test_responses_for_tensorflow(tensorflow: dict[str, Any]) -> None:
    """Whatever we write, TensorFlow reads the same names, dtypes, shapes and elements."""
    for outputs, (model, version, signature, arrays) in zip(results(), tensorflow["responses"], strict=True):
        assert (model, version, signature) == ("m", 5, "serving_default")
        expected = {out.name: [out.dtype.tf_number, list(out.shape), out.data.hex()] for out in outputs}
        assert arrays == expected
