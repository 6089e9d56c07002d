# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp config --check``: every broken file of the corpus is named exactly, every good one explained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovms_mp.cli import main
from ovms_mp.log import printable

CORPUS = Path(__file__).parent / "config_corpus"
AT = "$.model_config_list[0].config"
JSON = "accepted: JSON in UTF-8 with double quotes"
LIST = '"model_config_list": [{"config": {"name": "m", "base_path": "/models/m"}}]'
ENTRY = 'accepted: {"config": {"name": "m", "base_path": "/models/m"}}'
SHAPES = '"(1,3,-1,200:500)"'
FINITE = "accepted: a finite number"
LEAVE_OUT = "accepted: nothing, leave it out"
NEED_LAYOUT = f"it needs {AT}.layout"

# File: for each error what must stand in one line of the message: place, value, remedy.
TRAILING_COMMA = "line 2, column 46" if sys.version_info >= (3, 13) else "line 3, column 1"
"""Newer interpreters point at the comma, older ones at what follows it."""
EXPECTED: dict[str, list[list[str]]] = {
    "allow_cache_text": [[f"{AT}.allow_cache: ", '"yes"', "true or false"]],
    "base_path_azure": [[f"{AT}.base_path: ", '"azure://container/a//m"', "an empty part", "az://container/path"]],
    "base_path_climbs": [[f"{AT}.base_path: ", '"../secret/m"', "give the path that it leads to"]],
    "base_path_http": [[f"{AT}.base_path: ", '"https://example.com/m"', "only s3://, gs://, az://, azfs://, azure://"]],
    "base_path_missing": [["$.model_config_list[1].config.base_path: ", "null", "it is required"]],
    "base_path_nul": [[f"{AT}.base_path: ", '"/models/\\u0000m"', "NUL"]],
    "base_path_s3": [[f"{AT}.base_path: ", '"s3://bucket/models/m"', "give them by environment variables"]],
    "batch_fraction": [[f"{AT}.batch_size: ", "4.5", 'a range "1:8"']],
    "batch_huge": [[f"{AT}.batch_size: ", "10000000", 'a range "1:8"']],
    "batch_negative": [[f"{AT}.batch_size: ", "-2", 'a range "1:8"']],
    "batch_range_reversed": [[f"{AT}.batch_size: ", '"8:1"', "a range starts with the smaller"]],
    "batch_text": [[f"{AT}.batch_size: ", '"four"', '"auto"']],
    "binary": [["$: ", "byte 0 is not valid UTF-8", JSON]],
    "blank": [["$: ", "empty", JSON]],
    "color_alone": [[f"{AT}.color_format: ", '"RGB"', '"BGR:RGB"']],
    "color_swapped": [[f"{AT}.color_format: ", '"BGR:NV12"', "clients' side comes first"]],
    "color_unknown": [[f"{AT}.color_format: ", "'CMYK'", "RGB, BGR, GRAY, NV12, NV12_2, I420, I420_3"]],
    "color_without_layout": [[f"{AT}.color_format: ", '"BGR:RGB"', NEED_LAYOUT]],
    "comment": [["$: ", "line 1, column 26", "without comments"]],
    "config_is_list": [["$.model_config_list[0]: ", '{"config": [', ENTRY]],
    "custom_loader": [[f"{AT}.custom_loader_options: ", '{"loader_name": "x"}', LEAVE_OUT]],
    "deep": [["$: ", "more than 32 levels", JSON]],
    "deep_50": [["$.model_config_list[0][0]", "more than 32 levels", "accepted: fewer"]],
    "device_fpga": [[f"{AT}.target_device: ", '"HETERO:FPGA,CPU"', "FPGA is gone since OpenVINO 2020.4; use CPU"]],
    "device_gna": [[f"{AT}.target_device: ", '"GNA_SW"', "GNA is gone", "use NPU"]],
    "device_hddl_in_multi": [[f"{AT}.target_device: ", '"MULTI:HDDL,CPU"', "HDDL is gone", "use CPU, GPU, or NPU"]],
    "device_myriad": [[f"{AT}.target_device: ", '"MYRIAD"', "MYRIAD is gone", "use CPU, GPU, or NPU"]],
    "device_number": [[f"{AT}.target_device: ", "0", "AUTO:GPU,CPU"]],
    "empty": [["$: ", "empty", JSON]],
    "entry_is_text": [["$.model_config_list[0]: ", '"m"', ENTRY]],
    "entry_without_config": [["$.model_config_list[0]: ", '{"name": "m"', ENTRY]],
    "float_overflow": [[f"{AT}.mean: ", "Infinity", FINITE]],
    "graph": [[f"{AT}.graph_path: ", '"graph.pbtxt"', "serve the graph's models one by one", LEAVE_OUT]],
    "half_written": [["$: ", "line 2, column 27", JSON]],
    "infinity": [[f"{AT}.scale: ", "-Infinity", FINITE]],
    "integer_of_5000_digits": [[f"{AT}.nireq: ", "Infinity", FINITE]],
    "key_twice": [[f"{AT}.nireq: ", "is repeated in one object", "keep one of them"]],
    "layout_letter_twice": [[f"{AT}.layout: ", '"NCHH"', "H twice", '"NHWC:NCHW"']],
    "layout_letters": [[f"{AT}.layout: ", '"NXYZ"', "N, C, H, W, D, ? and"]],
    "layout_no_transpose": [[f"{AT}.layout: ", '"NHWC:NCH"', "both sides need the same letters"]],
    "layout_number": [[f"{AT}.layout.x: ", "4", "a layout must be a string"]],
    "layout_two_colons": [[f"{AT}.layout: ", '"NHWC:NCHW:NCHW"', '"NHWC:NCHW"']],
    "list_twice": [["$.model_config_list: ", "is repeated in one object", "keep one of them"]],
    "lone_surrogate": [[f"{AT}.name: ", "\\ud800", "save the file as UTF-8"]],
    "many_errors": [
        *([f"$.model_config_list[{index}].config.nireq: ", "-1", "0 (automatic)"] for index in range(20)),
        ["and 5 more errors"],
    ],
    "mean_bool": [[f"{AT}.mean: ", "true", "a number is expected"]],
    "mean_text": [[f"{AT}.mean: ", "'two' is not a number", "a number, one for each channel"]],
    "mean_without_layout": [[f"{AT}.mean: ", '"[1,2,3]"', NEED_LAYOUT]],
    "mediapipe": [["$.mediapipe_config_list: ", '[{"name": "p"}]', LEAVE_OUT]],
    "metrics_enable_text": [
        ["$.monitoring.metrics.metrics_list: ", '["a", 1]', "a list of strings"],
        ["$.monitoring.metrics.enable: ", '"yes"', "true or false"],
    ],
    "model_list_is_object": [["$.model_config_list: ", '{"config": {', "accepted: a list of"]],
    "monitoring_text": [["$.monitoring: ", '"on"', '{"metrics": {"enable": true']],
    "name_empty": [[f"{AT}.name: ", '"  "', "a non-empty string of at most 1024 bytes"]],
    "name_missing": [[f"{AT}.name: ", "null", "it is required"]],
    "name_number": [[f"{AT}.name: ", "7", "a non-empty string of at most 1024 bytes"]],
    "name_twice": [["$.model_config_list[2].config.name: ", '"m"', AT, "another name"]],
    "nan": [[f"{AT}.mean: ", "NaN", FINITE]],
    "nireq_huge": [[f"{AT}.nireq: ", "100001", "0 (automatic) to 100000"]],
    "nireq_negative": [[f"{AT}.nireq: ", "-1", "0 (automatic) to 100000"]],
    "nireq_text": [[f"{AT}.nireq: ", '"4"', "an integer without quotes"]],
    "no_model_list": [["$: ", "model_config_list is missing", LIST]],
    "pipelines": [["$.pipeline_config_list: ", '[{"name": "p"}]', "chain them in the client", LEAVE_OUT]],
    "plugin_list": [[f"{AT}.plugin_config: ", '["NUM_STREAMS"]', 'as in {"NUM_STREAMS": "2"}']],
    "plugin_nested": [[f"{AT}.plugin_config.DEVICE_PROPERTIES: ", '{"CPU": {', '"{CPU:{NUM_STREAMS:2},GPU:']],
    "plugin_nested_quotes": [[f"{AT}.plugin_config.DEVICE_PROPERTIES: ", "without inner quotes", '"{CPU:{NUM_STREAMS']],
    "plugin_null": [[f"{AT}.plugin_config.NUM_STREAMS: ", "null", "a string, a number, true or false"]],
    "policy_text": [[f"{AT}.model_version_policy: ", '"latest"', '{"all": {}}']],
    "policy_unknown": [[f"{AT}.model_version_policy: ", '{"newest": {}}', '{"all": {}}']],
    "policy_version_zero": [[f"{AT}.model_version_policy: ", '"versions": [0]', "N from 1"]],
    "precision_client_int4": [[f"{AT}.precision: ", '"int4:fp32"', "clients cannot send int4"]],
    "precision_unknown": [[f"{AT}.precision: ", "'float' is unknown", "fp64, fp32, bf16, fp16"]],
    "precision_without_layout": [[f"{AT}.precision: ", '"uint8:fp32"', NEED_LAYOUT]],
    "root_list": [["$: ", "[{", "accepted: {" + LIST]],
    "root_null": [["$: ", "null", "accepted: {" + LIST]],
    "root_text": [["$: ", '"model_config_list"', "accepted: {" + LIST]],
    "scale_empty": [[f"{AT}.scale: ", '"[]"', "it contains no number"]],
    "scale_without_c": [[f"{AT}.scale: ", "[1, 2]", NEED_LAYOUT, "that says with C"]],
    "scale_zero": [[f"{AT}.scale: ", "[1, 0, 1]", "a number that is not 0"]],
    "shape_half_bracket": [[f"{AT}.shape: ", '"(1,3,224,224]"', SHAPES]],
    "shape_in_json_text": [[f"{AT}.shape.data: ", '"(1,,3)"', SHAPES]],
    "shape_json_text_broken": [[f"{AT}.shape: ", "(1,3)}", "line 1, column 10", SHAPES]],
    "shape_letters": [
        ["$.model_config_list[2].config.shape.data: ", '"(1,x)"', "'x' is not a size", SHAPES],
        ["$.model_config_list[2].config.shape.mask: ", '"(1,2"', SHAPES],
    ],
    "shape_no_brackets": [[f"{AT}.shape: ", '"1,3,224,224"', "one pair of ( ) or [ ]", SHAPES]],
    "shape_number": [[f"{AT}.shape: ", "4", SHAPES]],
    "shape_unnamed": [[f"{AT}.shape: ", '{"": "(1,3)"}', "no name"]],
    "shape_zero": [[f"{AT}.shape: ", '"(0,3)"', "sizes are 1 to"]],
    "single_quotes": [["$: ", "line 1, column 2", JSON]],
    "stateful": [[f"{AT}.stateful: ", "true", "keep the state in the client", LEAVE_OUT]],
    "trailing_comma": [["$: ", TRAILING_COMMA, "without a comma after the last member"]],
    "two_documents": [["$: ", "line 2, column 1", JSON]],
    "utf16": [["$: ", "it looks like UTF-16", JSON]],
    "xml": [["$: ", "<?xml", JSON]],
}  # fmt: skip
IN_A_PROCESS = (
    "binary",
    "deep",
    "half_written",
    "integer_of_5000_digits",
    "lone_surrogate",
    "shape_letters",
    "utf16",
)


def errors_of(err: str) -> list[str]:
    """The lines after the one that names the file."""
    lines = err.splitlines()
    assert all(line.startswith("ovms_mp: error: ") for line in lines)
    assert lines[0].endswith(" is not valid:")
    return [line.removeprefix("ovms_mp: error: ") for line in lines[1:]]


def hold(errors: list[str], name: str) -> None:
    assert len(errors) == len(EXPECTED[name]), errors
    for line, pieces in zip(errors, EXPECTED[name], strict=True):
        assert line.startswith(pieces[0])
        for piece in pieces:
            assert piece in line
        assert line.isprintable()


def test_the_corpus_and_the_table_are_the_same() -> None:
    assert {path.stem for path in CORPUS.iterdir()} == set(EXPECTED)
    assert len(EXPECTED) >= 40


@pytest.mark.parametrize("name", EXPECTED)
def test_every_error_has_its_place_value_and_remedy(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--check", str(CORPUS / f"{name}.json")]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    hold(errors_of(err), name)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_refused_by_a_check_is_refused_by_serving_strictly(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(CORPUS / f"{name}.json")
    # Whose unknown key would be a second error.
    strict = [] if name == "no_model_list" else ["--strict_config"]
    assert main(["config", "--config_path", path, "--port", "1", *strict]) == 2

    hold(errors_of(capsys.readouterr().err), name)


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ovms_mp", "config", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_broken_files_and_a_real_process(name: str) -> None:
    done = run("--config_path", str(CORPUS / f"{name}.json"), "--check")

    assert (done.returncode, done.stdout) == (2, b"")
    err = done.stderr.decode()
    assert "Traceback" not in err
    hold(errors_of(err), name)


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in (
        tmp_path,
        tmp_path / "none",
        tmp_path / "fifo",
        tmp_path / "loop",
        Path("/dev/zero"),
        Path("\0"),
    ):
        assert main(["config", "--check", str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert f"--config_path {printable(str(path.absolute()))}: " in err
        assert "give a JSON file with" in err


def test_a_file_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_config_list": []}')
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # Root may read everything.
    try:
        assert main(["config", "--check", str(path)]) == 2
    finally:
        os.seteuid(user)

    assert capsys.readouterr().err.startswith(f"ovms_mp: error: --config_path {path}: Permission denied; ")


def write(directory: Path, *models: dict[str, object], **root: object) -> str:
    path = directory / "config.json"
    path.write_text(json.dumps({"model_config_list": [{"config": model} for model in models], **root}))
    return str(path)


def install(base_path: Path, *versions: int) -> None:
    for version in versions:
        (base_path / str(version)).mkdir(parents=True)
        for suffix in ("xml", "bin"):
            (base_path / str(version) / f"model.{suffix}").write_text("x")


def explained(path: str, capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    """The lines of the explanation of a file that is right."""
    assert main(["config", "--check", path, *flags]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_a_model_with_defaults_takes_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path / "m", 1, 2, 10)

    path = write(tmp_path, {"name": "m", "base_path": "m"})
    assert explained(path, capsys) == [
        f"{path} is valid: 1 model.",
        "",
        "m",
        f"  Serves version 10 from {tmp_path}/m by the policy latest; versions 1, 2 would not be.",
    ]


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"latest": {"num_versions": 2}}, "Serves versions 2, 3 from BASE by the policy latest 2; "
         "version 1 would not be."),
        ({"all": {}}, "Serves versions 1, 2, 3 from BASE by the policy all."),
        ({"specific": {"versions": [9, 1]}}, "Serves version 1 from BASE by the policy specific 1, 9; "
         "versions 2, 3 would not be."),
        ({"specific": {"versions": [9]}}, "Serves nothing yet: the policy specific 9 asks for none of versions 1, 2, 3 "
         "in BASE."),
    ],
)  # fmt: skip
def test_what_the_policy_takes_of_what_is_on_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: object, sentence: str
) -> None:
    base_path = tmp_path / "m"
    install(base_path, 1, 2, 3)

    path = write(tmp_path, {"name": "m", "base_path": "m", "model_version_policy": policy})
    assert explained(path, capsys)[3].strip() == sentence.replace("BASE", str(base_path))


def test_what_is_not_there_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()

    path = write(tmp_path, {"name": "a", "base_path": "none"}, {"name": "b", "base_path": "empty"})
    lines = explained(path, capsys)
    assert (
        f"  Serves nothing yet: {tmp_path}/none does not exist. It is served as soon as it appears." in lines
    )
    assert any(line.startswith(f"  Serves nothing yet: {tmp_path}/empty holds no version") for line in lines)


def test_what_differs_from_the_defaults_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "target_device": "auto:gpu,cpu",
        "nireq": 4,
        "plugin_config": {"NUM_STREAMS": "2", "A": True},
        "layout": "NHWC:NCHW",
        "shape": {"x": "(1,-1,2:8)", "y": "auto"},
        "mean": [1, 2.5],
        "scale": 3,
        "color_format": "BGR:RGB",
        "precision": {"x": "uint8:fp32"},
        "allow_cache": True,
        "batch_size": 3,
        "nam": 1,
    }
    path = write(
        tmp_path, {"name": "m", "base_path": "/none", **settings}, monitoring={"metrics": {"enable": True}}
    )
    text = "\n".join(explained(path, capsys))
    for sentence in (
        "target_device AUTO:GPU,CPU: passed to OpenVINO, instead of CPU.",
        "nireq 4: 4 infer requests for each version",
        'plugin_config: OpenVINO compiles with NUM_STREAMS="2", A=true.',
        "layout NHWC:NCHW: clients use NHWC, transposed for the model's NCHW.",
        "shape of 'x' (1,-1,2:8): the model is reshaped to it.",
        "shape of 'y' auto: requests may have any shape that the model takes.",
        "mean 1, 2.5: subtracted from the channels' values",
        "scale 3: dividing every value",
        "color_format BGR:RGB: clients send BGR, converted to the model's RGB.",
        "precision of 'x' uint8:fp32: clients send uint8, converted to the model's fp32.",
        "allow_cache: ",
        "Notices\n",
        "batch_size has no effect, as shape takes precedence",
        "nam is unknown and has no effect; did you mean 'name'?",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    ("batch_size", "sentence"),
    [
        ("auto", "batch_size auto: requests may have any batch size"),
        ("-1", "batch_size -1: dimension N of every input becomes dynamic."),
        (4, "batch_size 4: dimension N of every input becomes 4."),
        ("1:8", "batch_size 1:8: dimension N of every input may be 1 to 8."),
    ],
)
def test_batch_sizes_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_size: object, sentence: str
) -> None:
    path = write(tmp_path, {"name": "m", "base_path": "/none", "batch_size": batch_size})

    assert any(line.strip().startswith(sentence) for line in explained(path, capsys))


def test_strictness_and_other_flags_are_part_of_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {"name": "m", "base_path": "/none", "nirq": 1})
    assert any("nirq is unknown" in line for line in explained(path, capsys))

    assert main(["config", "--check", path, "--strict_config"]) == 2
    assert "nirq is unknown, which --strict_config refuses" in capsys.readouterr().err
    assert main(["config", "--check", path, "--nireq", "x"]) == 2
    assert main(["config", "--check", path, "--port", "x"]) == 2


def test_a_check_leaves_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {"name": "m", "base_path": "none"})

    explained(path, capsys, "--cache_dir", str(tmp_path / "cache"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_a_real_process_explains_without_the_server(tmp_path: Path) -> None:
    path = write(tmp_path, {"name": "m", "base_path": "/none"})
    code = (
        "import sys; from ovms_mp.cli import main; code = main(['config', '--check', sys.argv[1]]); "
        "print(code, [name for name in ('openvino', 'grpc', 'zmq', 'falcon') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False, timeout=60)
    lines = done.stdout.decode().splitlines()
    assert (lines[0], lines[-1], done.stderr) == (f"{path} is valid: 1 model.", "0 []", b"")
