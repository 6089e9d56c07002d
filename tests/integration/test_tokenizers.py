# SPDX-License-Identifier: Apache-2.0
"""A model of openvino-tokenizers' operations is served where the package is installed, and says so where it is not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.server import Server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelCache

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino_tokenizers") is None,
    reason="openvino-tokenizers is not installed: pip install 'ovms_mp[tokenizers]'",
)
WITHOUT_PACKAGE = """
import importlib.util, sys
import openvino as ov
from ovms_mp.errors import ModelLoadFailed
from ovms_mp.worker.load.prepare import prepare_model
from tests.support.worker import settings
importlib.util.find_spec = lambda name: None
try:
    prepare_model(ov.Core(), sys.argv[1], settings())
except ModelLoadFailed as error:
    print(error.message)
"""


@pytest.fixture(scope="module")
def models(model_cache: ModelCache) -> Path:
    return model_cache.get("tests.support.build_tokenizer")


def test_a_tokenizers_model_is_served(models: Path, tmp_path: Path) -> None:
    before = Ledger.take()
    arguments = ["model", "--model_name", "folded", "--model_path", str(models / "folded")]
    with Server(arguments, tmp_path / "server.log") as server:
        reply = rest_client.predict(server.rest_port, "folded", {"instances": ["ABC", "\u00c4\u00d6", ""]})
        assert (reply.status, reply.json()) == (200, {"predictions": ["abc", "\u00e4\u00f6", ""]})
    assert_nothing_left(before)


def test_without_the_package_the_error_says_what_to_install(models: Path) -> None:
    file = str(models / "folded" / "1" / "model.xml")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, file], capture_output=True, text=True, timeout=60, check=True
    )
    assert "CaseFold" in done.stdout
    assert "pip install 'ovms_mp[tokenizers]'" in done.stdout
