# SPDX-License-Identifier: Apache-2.0
"""10,000 random and mutated bodies of KServe's REST API: precise errors, and the server still answers."""

from __future__ import annotations

import http.client
import json
import random
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import kserve_rest
from tests.support.mutation import mutated
from tests.support.server import Server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo

BODIES = 5000
"""For each encoding."""
X = {"x": np.arange(10, dtype=np.float32).reshape(1, 10)}
OUTPUTS = [{"name": "y", "parameters": {"binary_data": True, "classification": 2}}]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("is_binary", [False, True], ids=["json", "binary"])
def test_bodies_of_all_kinds(is_binary: bool, zoo: ModelZoo, log_path: Path) -> None:
    server = Server(["model", "--model_name", "tiny", "--model_path", str(zoo.base_path("tiny"))], log_path)
    with server:
        before = server.all_pids()
        statuses = ask(server.rest_port, random.Random(3), is_binary)
        assert all(status < 500 or status == 503 for status in statuses), statuses
        assert {200, 400} <= set(statuses), statuses
        assert server.all_pids() == before
        reply = kserve_rest.infer(server.rest_port, "tiny", X, is_binary=is_binary)
        np.testing.assert_array_equal(kserve_rest.outputs(reply)["y"], X["x"] + 1)
        assert "Traceback" not in server.log()


def ask(port: int, dice: random.Random, is_binary: bool) -> Counter[int]:
    statuses: Counter[int] = Counter()
    good, headers = kserve_rest.infer_body(X, is_binary=is_binary, id="a", outputs=OUTPUTS)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(BODIES):
        body, sent = mutated(good, dice), dict(headers)
        if headers and dice.random() < 0.5:
            sent[kserve_rest.HEADER] = str(
                dice.choice([0, 1, len(body), len(body) - 40, dice.randrange(400), -1])
            )
        connection.request("POST", "/v2/models/tiny/infer", body, sent)
        response = connection.getresponse()
        text = response.read()
        statuses[response.status] += 1
        if response.status != 200:
            assert list(json.loads(text)) == ["error"]
            assert "Traceback" not in text.decode()
    connection.close()
    return statuses
