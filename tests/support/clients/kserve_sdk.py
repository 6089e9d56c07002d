# SPDX-License-Identifier: Apache-2.0
"""KServe's ``InferenceRESTClient`` and ``InferenceGRPCClient``."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import numpy as np
from cases import Address, run
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

X = np.arange(10, dtype=np.float32).reshape(1, 10)


def request(*, binary: bool, outputs: Any = None) -> InferRequest:
    """For ``tiny``."""
    x = InferInput(name="x", shape=[1, 10], datatype="FP32")
    x.set_data_from_numpy(X, binary_data=binary)
    return InferRequest(model_name="tiny", infer_inputs=[x], request_id="one", request_outputs=outputs)


def rest_client(protocol: str) -> InferenceRESTClient:
    """A client of one version of the protocol."""
    return InferenceRESTClient(RESTConfig(protocol=protocol, retries=1, timeout=30))


async def case_rest(address: Address) -> None:
    """JSON and binary, requests and answers."""
    url = f"http://{address.rest}"
    async with rest_client("v2") as client:
        assert await client.is_server_ready(url)
        assert await client.is_server_live(url)
        assert await client.is_model_ready(url, "tiny")
        assert not await client.is_model_ready(url, "nobody")
        for binary_in in (False, True):
            for binary_out in (False, True):
                outputs = [RequestedOutput("y", {"binary_data": binary_out})]
                answer = await client.infer(
                    url, request(binary=binary_in, outputs=outputs), model_name="tiny"
                )
                assert (answer.id, answer.model_name) == ("one", "tiny")
                assert answer.outputs[0].as_numpy().tobytes() == (X + 1).tobytes()


async def case_rest_refusal(address: Address) -> None:
    """An error is the text behind ``error``."""
    async with rest_client("v2") as client:
        try:
            await client.infer(f"http://{address.rest}", request(binary=False), model_name="nobody")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 404
            assert "nobody" in str(error)
        else:
            raise AssertionError("no failure")


async def case_rest_v1(address: Address) -> None:
    """The first version of the protocol is TensorFlow Serving's."""
    async with rest_client("v1") as client:
        url = f"http://{address.rest}"
        answer = await client.infer(url, {"instances": X.tolist()}, model_name="tiny")
        assert np.array(answer["predictions"], np.float32).tobytes() == (X + 1).tobytes()


async def case_grpc(address: Address) -> None:
    """Raw and in contents."""
    async with InferenceGRPCClient(address.grpc) as client:
        assert await client.is_server_ready()
        assert await client.is_server_live()
        assert await client.is_model_ready("tiny")
        for binary in (True, False):
            answer = await client.infer(request(binary=binary))
            assert answer.id == "one"
            assert answer.outputs[0].as_numpy().tobytes() == (X + 1).tobytes()


async def case_grpc_refusal(address: Address) -> None:
    """A code that its policy does not try again."""
    async with InferenceGRPCClient(address.grpc) as client:
        wrong = request(binary=True)
        wrong.model_name = "nobody"
        try:
            await client.infer(wrong)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND
        else:
            raise AssertionError("no failure")


if __name__ == "__main__":
    run(__name__)
