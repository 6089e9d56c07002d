# SPDX-License-Identifier: Apache-2.0
"""The configuration file in OVMS's JSON form: what it means, and where it is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config.file import parse_config_file, read_config_file
from ovms_mp.config.metrics import MetricsConfig
from ovms_mp.config.model import ModelConfig
from ovms_mp.config.model_keys import MODEL_KEYS, UNSUPPORTED_MODEL_KEYS, UNSUPPORTED_ROOT_KEYS
from ovms_mp.errors import ConfigError, ConfigUnreadable
from ovms_mp.model.input_settings import (
    BatchSize,
    ChannelValues,
    Conversion,
    InputSettings,
    InputShape,
    Layout,
)
from ovms_mp.model.store_url import parse_store_url
from ovms_mp.model.versions import All, Latest, Specific

if TYPE_CHECKING:
    from collections.abc import Mapping


def write(path: Path, document: object) -> Path:
    """A configuration file with this document."""
    path = path / "config.json"
    path.write_text(json.dumps(document))
    return path


def listed(*models: Mapping[str, object]) -> dict[str, object]:
    """The document of these models."""
    return {"model_config_list": [{"config": model} for model in models]}


def read(path: Path, document: object) -> tuple[tuple[ModelConfig, ...], tuple[str, ...]]:
    return parse_config_file(write(path, document))


def test_a_model_with_everything(tmp_path: Path) -> None:
    models, notices = read(
        tmp_path,
        listed(
            {
                "name": "resnet",
                "base_path": "/opt/ml/resnet",
                "nireq": 4,
                "target_device": "AUTO:GPU,CPU",
                "plugin_config": {
                    "NUM_STREAMS": "2",
                    "INFERENCE_NUM_THREADS": 3,
                    "X": 0.5,
                    "PROFILING": True,
                },
                "model_version_policy": {"specific": {"versions": [1, 3]}},
            }
        ),
    )

    assert notices == ()
    (model,) = models
    assert (model.name, str(model.base_path), model.nireq) == ("resnet", "/opt/ml/resnet", 4)
    assert model.target_device == "AUTO:GPU,CPU"
    assert dict(model.plugin_config) == {
        "NUM_STREAMS": "2",
        "INFERENCE_NUM_THREADS": 3,
        "X": 0.5,
        "PROFILING": True,
    }
    assert model.version_policy == Specific(frozenset({1, 3}))


def test_defaults_of_a_model(tmp_path: Path) -> None:
    models, notices = read(tmp_path, listed({"name": "m", "base_path": "/b"}))

    (model,) = models
    assert notices == ()
    assert (model.nireq, model.target_device, dict(model.plugin_config)) == (0, "CPU", {})
    assert model.version_policy == Latest(1)


def test_order_of_the_file_is_kept_and_an_empty_list_is_fine(tmp_path: Path) -> None:
    models, _ = read(tmp_path, listed(*({"name": name, "base_path": "/b"} for name in "zab")))

    assert [model.name for model in models] == ["z", "a", "b"]
    assert read(tmp_path, listed()) == ((), ())


def test_relative_base_paths_start_at_the_file(tmp_path: Path) -> None:
    models, _ = read(tmp_path, listed({"name": "m", "base_path": "models/m"}))

    assert models[0].base_path == tmp_path / "models" / "m"


@pytest.mark.parametrize("name", ["n" * 1024, "\u00e9" * 512, "\U0001f600" * 256])
def test_the_longest_names(tmp_path: Path, name: str) -> None:
    models, _ = read(tmp_path, listed({"name": name, "base_path": "/b"}))

    assert [model.name for model in models] == [name]


@pytest.mark.parametrize("name", ["n" * 1025, "\u00e9" * 513, "\U0001f600" * 257, "n" * 5_000_000])
def test_a_longer_name_is_refused_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(listed({"name": name, "base_path": "/b"}, {"name": "m", "base_path": "/b"})))
    document = read_config_file(path)

    assert [model.name for model in document.models] == ["m"]
    (refused,) = document.refused
    assert refused.name == ""
    assert (
        f"it has {len(name.encode())} bytes; accepted: a non-empty string of at most 1024 bytes"
        in refused.reasons[0]
    )
    assert len(refused.reasons[0]) + len(refused.client_text) < 1000


def test_a_long_name_that_is_refused_for_something_else_is_known_by_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(listed({"name": "n" * 1024, "base_path": "/b", "nireq": -1})))

    assert [entry.name for entry in read_config_file(path).refused] == ["n" * 1024]


HARMLESS: list[object] = [None, False, 0, "", [], {}]


@pytest.mark.parametrize("value", HARMLESS, ids=repr)
@pytest.mark.parametrize("key", UNSUPPORTED_MODEL_KEYS)
def test_keys_of_ovms_that_ask_for_nothing_are_taken(tmp_path: Path, key: str, value: object) -> None:
    models, notices = read(tmp_path, listed({"name": "m", "base_path": "/b", key: value}))

    assert len(models) == 1
    assert notices == ()


@pytest.mark.parametrize("value", HARMLESS, ids=repr)
@pytest.mark.parametrize("key", UNSUPPORTED_ROOT_KEYS)
def test_root_keys_of_ovms_that_ask_for_nothing_are_taken(tmp_path: Path, key: str, value: object) -> None:
    assert read(tmp_path, listed() | {key: value}) == ((), ())


def test_defaults_of_ovms_that_are_spelt_out_are_taken(tmp_path: Path) -> None:
    document = listed(GOOD | {"stateful": False, "idle_sequence_cleanup": True, "max_sequence_number": 500})

    models, notices = read(tmp_path, document)
    assert (len(models), notices) == (1, ())


@pytest.mark.parametrize("value", ["auto", 4, {"x": 1}])
@pytest.mark.parametrize("key", UNSUPPORTED_MODEL_KEYS)
def test_keys_of_ovms_that_ask_for_something_are_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, listed({"name": "m", "base_path": "/b", key: value}))

    assert caught.value.message == (
        f"$.model_config_list[0].config.{key}: {json.dumps(value)} is not valid: "
        f"{UNSUPPORTED_MODEL_KEYS[key].remedy}; accepted: nothing, leave it out"
    )


@pytest.mark.parametrize("key", sorted(set(MODEL_KEYS) - {"name", "base_path"}))
def test_null_is_as_if_the_key_were_absent(tmp_path: Path, key: str) -> None:
    assert read(tmp_path, listed(GOOD | {key: None})) == read(tmp_path, listed(GOOD))


ANY = (0, -1)
INPUTS: list[tuple[dict[str, object], InputSettings]] = [
    ({"batch_size": 4}, InputSettings(batch_size=BatchSize((4, 4)))),
    ({"batch_size": "4"}, InputSettings(batch_size=BatchSize((4, 4)))),
    ({"batch_size": 0}, InputSettings()),
    ({"batch_size": "0"}, InputSettings()),
    ({"batch_size": -1}, InputSettings(batch_size=BatchSize(ANY))),
    ({"batch_size": "-1"}, InputSettings(batch_size=BatchSize(ANY))),
    ({"batch_size": "1:8"}, InputSettings(batch_size=BatchSize((1, 8)))),
    ({"batch_size": "auto"}, InputSettings(batch_size=BatchSize(None))),
    ({"shape": "auto"}, InputSettings(shapes=(InputShape("", None),))),
    ({"shape": "(1,3)"}, InputSettings(shapes=(InputShape("", ((1, 1), (3, 3))),))),
    ({"shape": [1, "2:4", -1]}, InputSettings(shapes=(InputShape("", ((1, 1), (2, 4), ANY)),))),
    ({"shape": {"data": "(1, 3, -1)"}}, InputSettings(shapes=(InputShape("data", ((1, 1), (3, 3), ANY)),))),
    (
        {"shape": {"a": "[2]", "b": "auto", "c:0": [4]}},
        InputSettings(
            shapes=(InputShape("a", ((2, 2),)), InputShape("b", None), InputShape("c:0", ((4, 4),)))
        ),
    ),
    ({"shape": ' {"a": "(2)"}'}, InputSettings(shapes=(InputShape("a", ((2, 2),)),))),
    ({"shape": {}, "batch_size": 2}, InputSettings(batch_size=BatchSize((2, 2)))),
    ({"layout": "nhwc"}, InputSettings(layouts=(Layout("", "NHWC"),))),
    (
        {"layout": {"x": "NHWC:NCHW", "out": "CN:NC"}},
        InputSettings(layouts=(Layout("x", "NHWC", "NCHW"), Layout("out", "CN", "NC"))),
    ),
    ({"layout": '{"x": "N?HWC"}'}, InputSettings(layouts=(Layout("x", "N?HWC"),))),
    ({"mean": 127.5, "scale": "255"}, InputSettings(
        mean=(ChannelValues("", (127.5,)),), scale=(ChannelValues("", (255.0,)),)
    )),
    ({"mean": {"a": 1, "b": "2"}}, InputSettings(mean=(ChannelValues("a", (1.0,)), ChannelValues("b", (2.0,))))),
    (
        {"scale": "(1, 2.5,3)", "layout": "NCHW"},
        InputSettings(scale=(ChannelValues("", (1.0, 2.5, 3.0)),), layouts=(Layout("", "NCHW"),)),
    ),
    (
        {"mean": {"x": [1, 2]}, "layout": {"x": "NC", "y": "N..."}},
        InputSettings(
            mean=(ChannelValues("x", (1.0, 2.0)),), layouts=(Layout("x", "NC"), Layout("y", "N..."))
        ),
    ),
    (
        {"color_format": "nv12:rgb", "layout": "NHWC:NCHW"},
        InputSettings(
            color_format=(Conversion("", model="RGB", client="NV12"),), layouts=(Layout("", "NHWC", "NCHW"),)
        ),
    ),
    (
        {"precision": {"x": "UINT8 : FP32"}, "layout": "N..."},
        InputSettings(
            precision=(Conversion("x", model="fp32", client="uint8"),), layouts=(Layout("", "N..."),)
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "inputs"), INPUTS, ids=lambda value: str(value)[:60])
def test_every_form_of_what_inputs_become(
    tmp_path: Path, settings: dict[str, object], inputs: InputSettings
) -> None:
    models, notices = read(tmp_path, listed(GOOD | settings))

    assert models[0].inputs == inputs
    assert notices == ()


def test_batch_size_beside_shape_is_ignored_with_a_notice(tmp_path: Path) -> None:
    models, notices = read(tmp_path, listed(GOOD | {"batch_size": 4, "shape": "(1,2)"}))

    assert models[0].inputs == InputSettings(shapes=(InputShape("", ((1, 1), (2, 2))),))
    assert notices == ("$.model_config_list[0].config.batch_size has no effect, as shape takes precedence",)


@pytest.mark.parametrize(
    ("device", "result"),
    [
        ("", "AUTO"),
        ("gpu.1", "GPU.1"),
        ("Auto: GPU, cpu", "AUTO:GPU,CPU"),
        ("BATCH:GPU(16)", "BATCH:GPU(16)"),
        ("HETERO:NPU,CPU", "HETERO:NPU,CPU"),
        ("MyPlugin", "MyPlugin"),
    ],
)
def test_devices(tmp_path: Path, device: str, result: str) -> None:
    models, _ = read(tmp_path, listed(GOOD | {"target_device": device}))

    assert models[0].target_device == result


def test_json_inside_texts_as_ovms_documents_it(tmp_path: Path) -> None:
    settings = {
        "plugin_config": '{"NUM_STREAMS": 2}',
        "model_version_policy": '{"all": {}}',
        "allow_cache": True,
    }

    (model,), _ = read(tmp_path, listed(GOOD | settings))
    assert (dict(model.plugin_config), model.version_policy) == ({"NUM_STREAMS": 2}, All())
    assert model.allow_cache


def test_device_properties_as_openvino_reads_them(tmp_path: Path) -> None:
    plugin_config = {"DEVICE_PROPERTIES": "{CPU:{NUM_STREAMS:2}}"}

    (model,), _ = read(tmp_path, listed(GOOD | {"plugin_config": plugin_config}))
    assert dict(model.plugin_config) == plugin_config


def test_what_is_said_of_metrics_is_beside_the_models(tmp_path: Path) -> None:
    metrics = {"enable": True, "metrics_list": ["ovms_streams"]}
    path = write(tmp_path, listed(GOOD) | {"monitoring": {"metrics": metrics}})

    document = read_config_file(path)

    assert document.metrics == MetricsConfig(is_enabled=True, listed="ovms_streams")
    assert (len(document.models), document.faults, document.notices) == (1, (), ())
    assert read_config_file(write(tmp_path, listed(GOOD))).metrics is None


def test_what_is_wrong_of_metrics_keeps_no_model_from_being_served(tmp_path: Path) -> None:
    metrics = {"enable": True, "metrics_list": ["ovms_stream"]}
    document = read_config_file(write(tmp_path, listed(GOOD) | {"monitoring": {"metrics": metrics}}))

    assert (document.metrics, len(document.models)) == (None, 1)
    (fault,) = document.metrics_faults
    assert document.faults == (fault,)
    assert fault.text.startswith("$.monitoring.metrics.metrics_list[0]: ")
    assert "Invalid name in metrics_list: 'ovms_stream'; did you mean 'ovms_streams'?" in fault.text


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(listed(GOOD)).encode())

    models, _ = parse_config_file(path)
    assert [model.name for model in models] == ["m"]


def test_every_prefix_of_a_file_is_an_error_or_the_whole(tmp_path: Path) -> None:
    text = json.dumps(listed(GOOD | {"shape": "(1,3)", "nireq": 2}))
    path = tmp_path / "config.json"
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(ConfigError):
            parse_config_file(path)


def test_legacy_num_versions_zero_means_all(tmp_path: Path) -> None:
    policy = {"latest": {"num_versions": 0}}
    models, _ = read(tmp_path, listed({"name": "m", "base_path": "/b", "model_version_policy": policy}))

    assert models[0].version_policy == All()


GOOD: dict[str, object] = {"name": "m", "base_path": "/b"}
WRONG: dict[str, tuple[object, list[str]]] = {
    "several at once": (
        listed(GOOD | {"nireq": -1, "shape": {"x": "(y)"}}, {"name": "n"}),
        ["[0].config.nireq: -1", '[0].config.shape.x: "(y)"', "[1].config.base_path: null"],
    ),
    "beside another name": (listed(GOOD | {"color_format": {"x": "RGB:BGR"}, "layout": {"y": "NHWC"}}), [
        '[0].config.color_format: {"x": "RGB:BGR"}', "config.layout of 'x' that says with C",
    ]),
    "odd name of an input": (
        listed(GOOD | {"shape": {'a "b': "x"}}), ['[0].config.shape["a \\"b"]: "x" is not valid']
    ),
    "integer beyond OpenVINO's": (
        listed(GOOD | {"plugin_config": {"A": 1 << 63}}), [f"plugin_config.A: {1 << 63}", "out of range"]
    ),
    "null as property": (listed(GOOD | {"plugin_config": {"A": None}}), ["[0].config.plugin_config.A: null"]),
}  # fmt: skip


@pytest.mark.parametrize(("document", "pieces"), WRONG.values(), ids=WRONG)
def test_errors_name_the_place_the_value_and_what_is_accepted(
    tmp_path: Path, document: object, pieces: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, document)

    for piece in pieces:
        assert piece in caught.value.message


def test_unknown_keys_are_notices_that_name_the_nearest(tmp_path: Path) -> None:
    document = {
        "model_config_list": [{"config": {**GOOD, "target_devise": "GPU", "zzz": 1}, "more": 1}],
        "model_config_lisst": [],
        "monitoring": {"metrics": {"enable": False, "metric_list": []}},
    }
    models, notices = read(tmp_path, document)

    assert len(models) == 1
    assert models[0].target_device == "CPU"
    place = "$.model_config_list[0]"
    assert notices == (
        "$.model_config_lisst is unknown and has no effect; did you mean 'model_config_list'?",
        "$.monitoring.metrics.metric_list is unknown and has no effect; did you mean 'metrics_list'?",
        f"{place}.more is unknown and has no effect; known are config",
        f"{place}.config.target_devise is unknown and has no effect; did you mean 'target_device'?",
        f"{place}.config.zzz is unknown and has no effect; known are {', '.join(MODEL_KEYS)}",
    )
    with pytest.raises(ConfigError) as caught:
        parse_config_file(tmp_path / "config.json", is_strict=True)
    assert caught.value.message.splitlines() == [
        notice.replace("is unknown and has no effect", "is unknown, which --strict_config refuses")
        for notice in notices
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable) as caught:
        parse_config_file(tmp_path / "none.json")

    assert caught.value.message.startswith(
        f"--config_path {tmp_path / 'none.json'}: No such file or directory; "
    )


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(ConfigUnreadable, match="give a JSON file"):
            parse_config_file(path)


def test_plugin_config_is_read_only(tmp_path: Path) -> None:
    (model,), _ = read(tmp_path, listed(GOOD | {"plugin_config": {"A": 1}}))

    with pytest.raises(TypeError):
        model.plugin_config["A"] = 2  # type: ignore[index]  # that is the point


def read_entries(path: Path, *entries: object) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the models, and name and reason for clients of what is refused."""
    document = read_config_file(write(path, {"model_config_list": list(entries)}))
    return [model.name for model in document.models], [
        (entry.name, entry.client_text) for entry in document.refused
    ]


FIRST = "$.model_config_list[0].config"
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "retired device": (
        {"target_device": "HDDL"},
        f"{FIRST}.target_device: HDDL is gone since OpenVINO 2023.0",
    ),
    "among others": ({"target_device": "MULTI:MYRIAD,CPU"}, f"{FIRST}.target_device: MYRIAD is gone"),
    "object store": (
        {"base_path": "s3://secret@b/m"},
        f"{FIRST}.base_path: credentials must not be in the URL",
    ),
    "shape": ({"shape": "(secret)"}, f"{FIRST}.shape: not valid; accepted: "),
    "named shape": ({"shape": {"secret name": "x"}}, f"{FIRST}.shape: sizes must be enclosed in one pair of"),
    "layout": ({"layout": "secret"}, f"{FIRST}.layout: not valid; accepted: "),
    "JSON in a text": ({"plugin_config": '{"secret": '}, f"{FIRST}.plugin_config: not valid; accepted: "),
    "no number": ({"mean": float("inf")}, f"{FIRST}.mean: it is not a valid JSON number"),
    "half a pair": ({"target_device": "\ud800secret"}, f"{FIRST}.target_device: it is not a valid string"),
    "too deep": (
        {"plugin_config": json.loads("[" * 50 + "]" * 50)},
        ": it is nested more than 32 levels deep",
    ),
}


@pytest.mark.parametrize(("settings", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_entry_that_cannot_be_served_is_refused_alone(
    tmp_path: Path, settings: dict[str, object], reason: str
) -> None:
    models, ((name, text),) = read_entries(
        tmp_path, {"config": GOOD | settings}, {"config": GOOD | {"name": "other"}}
    )

    assert (models, name) == (["other"], "m")
    assert reason in text
    assert "secret" not in text
    with pytest.raises(ConfigError):
        parse_config_file(tmp_path / "config.json")
    with pytest.raises(ConfigError):
        read_config_file(tmp_path / "config.json", is_strict=True)


def test_of_two_entries_with_one_name_the_first_counts(tmp_path: Path) -> None:
    document = read_config_file(
        write(tmp_path, listed(GOOD, GOOD | {"base_path": "/c"}, GOOD | {"name": "n"}))
    )

    assert [(model.name, str(model.base_path)) for model in document.models] == [("m", "/b"), ("n", "/b")]
    assert [entry.name for entry in document.refused] == ["m"]
    assert "$.model_config_list[0].config has the same name" in document.refused[0].client_text


@pytest.mark.parametrize("entry", ["m", None, {}, {"config": []}, {"config": {"base_path": "/b"}}], ids=repr)
def test_an_entry_without_a_name_is_refused_alone(tmp_path: Path, entry: object) -> None:
    models, ((name, _),) = read_entries(tmp_path, entry, {"config": GOOD})

    assert (models, name) == (["m"], "")


@pytest.mark.parametrize("name", ["\ud800", "x" * 1025])
def test_a_name_that_cannot_be_shown_is_none(tmp_path: Path, name: str) -> None:
    _, ((shown, _),) = read_entries(tmp_path, {"config": GOOD | {"name": name, "nireq": -1}})

    assert shown == ""


def test_what_is_no_list_of_models_is_an_error_of_the_file(tmp_path: Path) -> None:
    documents: list[object] = [
        [],
        {},
        {"model_config_list": {}},
        {"model_config_list": [], "x": float("nan")},
    ]
    for document in documents:
        with pytest.raises(ConfigError):
            read_config_file(write(tmp_path, document))


def test_clients_are_told_neither_paths_nor_excerpts(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"secret": ]')
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    assert caught.value.client_message == "$: it is not JSON: Expecting value in line 1, column 12"
    with pytest.raises(ConfigError) as caught:
        read_config_file(tmp_path)
    assert str(tmp_path.parent) not in caught.value.client_message
    assert str(tmp_path) in caught.value.message


def test_relative_paths_of_a_file_from_a_store_begin_there(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        listed(
            {"name": "beside", "base_path": "./m"},
            {"name": "here", "base_path": "/models/here"},
            {"name": "elsewhere", "base_path": "gs://other/m"},
            {"name": "above", "base_path": "../m"},
            {"name": "cached", "base_path": "m", "plugin_config": {"CACHE_DIR": "cache"}},
        ),
    )
    origin = parse_store_url("s3://bucket/a/config.json")
    document = read_config_file(path, store_dir="/store", origin=origin)
    beside, here, elsewhere = document.models

    assert str(beside.store) == "s3://bucket/a/m"
    assert beside.base_path == Path("/store", parse_store_url("s3://bucket/a/m").mirror_of("beside"))
    assert (here.store, here.base_path) == (None, Path("/models/here"))
    assert str(elsewhere.store) == "gs://other/m"
    reasons = [entry.reasons[0] for entry in document.refused]
    assert "`..`" in reasons[0]
    assert "a relative path means nothing" in reasons[1]
