# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp devices``, and device forms, properties, the compile cache and file reading on the real engine."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovms_mp.model.input_settings import InputSettings, InputShape
from tests.support.prepared import Case, Outcome, prepare_all

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import ModelZoo

AUTO = InputSettings(shapes=(InputShape("", None),))
WORKING = (
    "CPU",
    "AUTO",
    "AUTO:CPU",
    "AUTO:-GPU",
    "AUTO:XYZ,CPU",
    "AUTO:GPU,CPU",
    "AUTO:CPU,GPU",
    "AUTO:NPU,CPU.0,CPU",
    "MULTI:CPU",
    "HETERO:CPU",
    "BATCH:CPU",
    "BATCH:CPU(4)",
    "",
)
MISSING = {
    "GPU": ["GPU is not available on this machine (available: CPU", "libOpenCL.so.1"],
    "GPU.1": ["GPU.1 is not available on this machine", "/dev/dri"],
    "NPU": ["NPU is not available on this machine", "driver"],
    "NVIDIA": ["--plugins_xml", "is not registered"],
    "XYZ": ["XYZ is not available", "is not registered"],
    "MYRIAD": ["MYRIAD is gone since OpenVINO 2023.0", "NPU"],
    "CPU.1": ["the only CPU device is called CPU", "device id"],
    "CPU.0": ["the only CPU device is called CPU"],
    "AUTO:GPU": ["GPU is not available"],
    "AUTO:XYZ,NPU": ["XYZ is not available"],
    "MULTI:GPU,CPU": ["GPU is not available"],
    "HETERO:CPU,XYZ": ["XYZ is not available"],
    "MULTI:CPU,XYZ": ["XYZ is not available"],
    "BATCH:GPU(4)": ["GPU is not available"],
    "MULTI": ["names no devices; write e.g. MULTI:CPU"],
    "HETERO": ["names no devices; write e.g. HETERO:CPU"],
    "BATCH": ["names no devices; write e.g. BATCH:CPU"],
}
PLAIN = (((1, 3, 4, 6),),)
CASES = (
    {
        f"static {device}": Case(model="plain4", device=device, plugin_config={}, runs=PLAIN)
        for device in WORKING
    }
    | {
        f"dynamic {device}": Case(
            model="global_pool",
            settings=AUTO,
            device=device,
            plugin_config={},
            runs=(((1, 3, 8, 8),), ((3, 3, 9, 5),)),
        )
        for device in WORKING
    }
    | {
        f"missing {device}": Case(model="plain4", device=device, plugin_config={}, is_compiled=True)
        for device in MISSING
    }
    | {
        "unknown key CPU": Case(model="plain4", plugin_config={"NO_SUCH": 1}, is_compiled=True),
        "unknown key AUTO": Case(
            model="plain4", device="AUTO", plugin_config={"NO_SUCH": 1}, is_compiled=True
        ),
    }
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return prepare_all(CASES, tmp_path_factory.mktemp("devices"))


@pytest.mark.parametrize("device", WORKING)
def test_device_forms_that_work_here(device: str, outcomes: dict[str, Outcome]) -> None:
    static, dynamic = outcomes[f"static {device}"], outcomes[f"dynamic {device}"]

    assert (static.compile_error, dynamic.compile_error) == ("", "")
    (run,) = static.runs
    assert run.got["y"] == run.given["x"]
    assert [len(run.got["y"]) for run in dynamic.runs] == [1, 3]


@pytest.mark.parametrize("device", MISSING)
def test_what_is_missing_is_explained(device: str, outcomes: dict[str, Outcome]) -> None:
    error = outcomes[f"missing {device}"].compile_error

    assert error.startswith(f"DeviceUnavailable: target_device '{device}'")
    assert [part for part in MISSING[device] if part not in error] == [], error
    assert "src/plugins" not in error or device == "NPU"


@pytest.mark.parametrize("device", ["CPU", "AUTO"])
def test_an_unknown_key_is_refused_even_where_openvino_ignores_it(
    device: str, outcomes: dict[str, Outcome]
) -> None:
    error = outcomes[f"unknown key {device}"].compile_error

    assert f"NO_SUCH is not supported by {device}" in error
    assert "INFERENCE_NUM_THREADS" in error


def devices(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ovms_mp.worker.devices", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_shows_devices_and_autos_choice() -> None:
    done = devices()

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    cpu = lines.index("CPU")
    assert lines[cpu + 1].startswith("  full name: ")
    assert lines[cpu + 2].startswith("  optimization capabilities: ")
    assert "FP32" in lines[cpu + 2]
    assert any(line.startswith("NPU is not available; it needs") for line in lines)
    assert any("1. a discrete GPU, 2. an integrated GPU, 3. the CPU" in line for line in lines)
    assert "  computes on: CPU" in lines[lines.index("AUTO now:") :]


@pytest.mark.parametrize("part", ["", "1", "1/model.xml"])
def test_the_command_compiles_a_model(part: str, zoo: ModelZoo) -> None:
    done = devices("--model", str(zoo.base_path("tiny") / part))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  OPTIMAL_NUMBER_OF_INFER_REQUESTS (nireq): 1, ") == 2, "CPU and AUTO"
    assert done.stdout.count("  streams on CPU: 1, threads: ") == 2


def test_the_command_asks_one_device() -> None:
    done = devices("--target_device", "BATCH:CPU(4)")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:3] == ["BATCH:CPU(4)", "  computes on: CPU"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--target_device", "GPU"), "GPU is not available on this machine"),
        (("--model", "/no/such/model"), "--model /no/such/model: there is no such file or directory"),
        (("--plugins_xml", "nope.xml"), "nope.xml: there is no file /"),
        (("--cpu_extension", "nope.so"), "nope.so: there is no file /"),
        (("--unknown",), "--unknown is unknown; see ovms_mp devices --help"),
    ],
)
def test_errors_of_the_command_are_text(arguments: tuple[str, ...], expected: str) -> None:
    done = devices(*arguments)

    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_files_that_are_no_models_or_libraries(tmp_path: Path) -> None:
    broken = tmp_path / "model.xml"
    broken.write_text("this is no model")
    (tmp_path / "empty").mkdir()

    for arguments, expected in (
        (("--model", str(broken)), f"cannot read {broken}: "),
        (
            ("--model", str(tmp_path / "empty")),
            "holds no model: there is no file in it (yet); give a model file",
        ),
        (("--plugins_xml", str(broken)), f"--plugins_xml {broken}: Error loading XML file"),
        (("--cpu_extension", str(broken)), f"--cpu_extension {broken}: Cannot add extension"),
    ):
        done = devices(*arguments)
        assert done.returncode == 2
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


def test_a_registered_plugin_is_tried(tmp_path: Path) -> None:
    registry = tmp_path / "plugins.xml"
    registry.write_text(f'<ie><plugins><plugin name="NVIDIA" location="{tmp_path}/lib.so"/></plugins></ie>')

    done = devices("--plugins_xml", str(registry), "--target_device", "NVIDIA")
    others = devices("--plugins_xml", str(registry), "--target_device", "CPU")

    assert done.returncode == 2
    assert f'Cannot load library "{tmp_path}/lib.so"' in done.stderr
    assert others.returncode == 0, others.stderr


LOADS_A_MEGABYTE = """
import os, pathlib, sys
import numpy as np, openvino as ov, openvino.opset13 as ops
from ovms_mp.child.specs import CpuShare, EngineSpec
from ovms_mp.model.input_settings import InputSettings
from ovms_mp.wire.records import ModelSettings
from ovms_mp.worker.engine.engine import create_core
from ovms_mp.worker.load.prepare import prepare_model
from ovms_mp.worker.engine.properties import compile_properties
directory, device = pathlib.Path(sys.argv[1]), sys.argv[2]
file = directory / "model.xml"
if not file.exists():
    x = ops.parameter([1, 512], np.float32)
    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    ov.save_model(ov.Model([ops.result(ops.matmul(x, weights, False, False))], [x], "m"), file)
core = create_core(EngineSpec())
settings = ModelSettings(device, 0, {}, InputSettings(), False, 1, 1)
prepared = prepare_model(core, str(file), settings)
properties = compile_properties(core, settings, CpuShare(), str(directory / "cache"))
compiled = core.compile_model(prepared.model, device, properties)
maps = pathlib.Path("/proc/self/maps").read_text()
print(device == "HETERO:CPU" or compiled.get_property("LOADED_FROM_CACHE"))
print("model.bin" in maps or ".blob" in maps)
if sys.argv[3:] == ["truncate"]:
    os.truncate(directory / "model.bin", 100)
    again = core.compile_model(prepared.reshaped(((1, 512),)), "CPU")
    ones = np.ones((1, 512), np.float32)
    print(np.allclose(again(ones)[0], compiled(ones)[0]))
"""


def load_a_megabyte(directory: Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", LOADS_A_MEGABYTE, str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("device", ["CPU", "AUTO", "MULTI:CPU", "BATCH:CPU", "HETERO:CPU"])
def test_the_cache_is_filled_for_the_next_process_and_no_file_is_mapped(device: str, tmp_path: Path) -> None:
    is_hetero = device == "HETERO:CPU"  # It cannot say where its model came from.

    assert load_a_megabyte(tmp_path, device) == [str(is_hetero), "False"]
    blobs = list((tmp_path / "cache").glob("*.blob"))
    assert load_a_megabyte(tmp_path, device) == ["True", "False"]

    assert len(blobs) == 1
    assert list((tmp_path / "cache").glob("*.blob")) == blobs


def test_weights_that_are_cut_short_while_they_are_served_do_no_harm(tmp_path: Path) -> None:
    """A mapped file would kill the process here, with SIGBUS."""
    assert load_a_megabyte(tmp_path, "CPU", "truncate") == ["False", "False", "True"]


FALLS_BACK = """
import logging, sys
import numpy as np, openvino as ov, openvino.opset13 as ops
from ovms_mp.errors import OvmsError
from ovms_mp.worker.engine.engine import compile_for

class CoreThatListsAGpu:
    '''The real engine, which is told of a GPU that it then cannot load.'''
    available_devices = ["CPU", "GPU"]
    real = ov.Core()
    def compile_model(self, *arguments):
        return self.real.compile_model(*arguments)
    def get_property(self, *arguments):
        return self.real.get_property(*arguments)

logging.basicConfig(stream=sys.stdout)
x = ops.parameter([1], np.float32)
model = ov.Model([ops.result(ops.add(x, np.float32(1)))], [x], "add_one")
try:
    print(compile_for(CoreThatListsAGpu(), model, sys.argv[1], {}, {})([np.float32([2])])[0])
except OvmsError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (
            "AUTO:GPU,CPU",
            ["device=AUTO:GPU,CPU reason=", "device=AUTO:GPU reason=", "device=AUTO:CPU instead of", "[3.]"],
        ),
        ("AUTO:CPU,GPU", ["device=AUTO:CPU,GPU reason=", "device=AUTO:CPU instead of AUTO:CPU,GPU", "[3.]"]),
        (
            "AUTO:GPU,XYZ",
            ["ModelLoadFailed cannot compile for AUTO:GPU,XYZ"],
        ),
        ("HETERO:GPU,CPU", ["ModelLoadFailed cannot compile for HETERO:GPU,CPU"]),
    ],
)
def test_autos_next_candidate_is_taken_when_loading_on_one_fails(device: str, expected: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FALLS_BACK, device], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stderr == ""
    assert [text for text in expected if text not in done.stdout] == [], done.stdout
