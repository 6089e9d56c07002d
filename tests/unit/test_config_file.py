# SPDX-License-Identifier: Apache-2.0
"""The configuration file in OVMS's JSON form: what it means, and where it is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ovms_mp.config import MAX_NIREQ, NOT_YET_KEYS, ModelConfig
from ovms_mp.config_file import check_plugin_config, parse_config_file
from ovms_mp.errors import ConfigError
from ovms_mp.model.versions import All, Latest, Specific

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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


@pytest.mark.parametrize("value", [None, False, 0])
@pytest.mark.parametrize("key", NOT_YET_KEYS)
def test_settings_that_ask_for_nothing_are_taken(tmp_path: Path, key: str, value: object) -> None:
    models, notices = read(tmp_path, listed({"name": "m", "base_path": "/b", key: value}))

    assert len(models) == 1
    assert notices == ()


@pytest.mark.parametrize("value", ["auto", 4, {"x": "(1,3)"}, True])
@pytest.mark.parametrize("key", NOT_YET_KEYS)
def test_settings_without_effect_are_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, listed({"name": "m", "base_path": "/b", key: value}))

    assert caught.value.message.startswith(
        f"$.model_config_list[0].config.{key} {value!r}: not supported yet"
    )


def test_legacy_num_versions_zero_means_all(tmp_path: Path) -> None:
    policy = {"latest": {"num_versions": 0}}
    models, _ = read(tmp_path, listed({"name": "m", "base_path": "/b", "model_version_policy": policy}))

    assert models[0].version_policy == All()


GOOD: dict[str, object] = {"name": "m", "base_path": "/b"}
WRONG: dict[str, tuple[object, list[str]]] = {
    "root is a list": ([], ["$: []", "an object with model_config_list"]),
    "root is null": (None, ["$: None"]),
    "no list": ({}, ["$: model_config_list is missing"]),
    "list is an object": ({"model_config_list": {}}, ["$.model_config_list: {}", "an array of"]),
    "entry is text": ({"model_config_list": ["m"]}, ["$.model_config_list[0]: 'm'", '{"config": {...}}']),
    "entry without config": (
        {"model_config_list": [{}]},
        ["$.model_config_list[0].config: None", "an object"],
    ),
    "config is a list": ({"model_config_list": [{"config": []}]}, ["$.model_config_list[0].config: []"]),
    "second is wrong": (listed(GOOD, {"name": "n"}), ["$.model_config_list[1].config.base_path: None"]),
    "no name": (listed({"base_path": "/b"}), ["[0].config.name: None", "a text, not empty"]),
    "empty name": (listed(GOOD | {"name": ""}), ["[0].config.name: ''", "a text, not empty"]),
    "number as name": (listed(GOOD | {"name": 5}), ["[0].config.name: 5", "a text, not empty"]),
    "list as path": (listed(GOOD | {"base_path": ["/b"]}), ["[0].config.base_path: ['/b']"]),
    "same name": (
        listed(GOOD, {"name": "n", "base_path": "/n"}, GOOD),
        ["[2].config.name: 'm'", "names must differ"],
    ),
    "nireq text": (listed(GOOD | {"nireq": "4"}), ["[0].config.nireq: '4'", f"0 to {MAX_NIREQ}"]),
    "nireq true": (listed(GOOD | {"nireq": True}), ["[0].config.nireq: True", f"0 to {MAX_NIREQ}"]),
    "nireq null": (listed(GOOD | {"nireq": None}), ["[0].config.nireq: None"]),
    "nireq fraction": (listed(GOOD | {"nireq": 1.0}), ["[0].config.nireq: 1.0"]),
    "nireq negative": (listed(GOOD | {"nireq": -1}), ["[0].config.nireq: -1"]),
    "nireq too high": (listed(GOOD | {"nireq": MAX_NIREQ + 1}), [f"[0].config.nireq: {MAX_NIREQ + 1}"]),
    "device number": (listed(GOOD | {"target_device": 0}), ["[0].config.target_device: 0", "AUTO:GPU,CPU"]),
    "device empty": (listed(GOOD | {"target_device": ""}), ["[0].config.target_device: ''"]),
    "plugins text": (listed(GOOD | {"plugin_config": "{}"}), ["[0].config.plugin_config: '{}'", "an object"]),
    "plugins nested": (
        listed(GOOD | {"plugin_config": {"DEVICE_PROPERTIES": {"CPU": 1}}}),
        ["[0].config.plugin_config.DEVICE_PROPERTIES: {'CPU': 1}", "text, number or boolean"],
    ),
    "plugins null": (listed(GOOD | {"plugin_config": {"A": None}}), ["[0].config.plugin_config.A: None"]),
    "policy": (
        listed(GOOD | {"model_version_policy": {"latests": {}}}),
        ["[0].config.model_version_policy: ", "{'latests': {}}", '{"all": {}}'],
    ),
}


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
        "monitoring": {},
    }
    models, notices = read(tmp_path, document)

    assert len(models) == 1
    assert models[0].target_device == "CPU"
    place = "$.model_config_list[0]"
    known = "name, base_path, nireq, target_device, plugin_config, model_version_policy"
    assert notices[:3] == (
        "$.model_config_lisst is unknown and has no effect; did you mean 'model_config_list'?",
        "$.monitoring is unknown and has no effect; known are model_config_list",
        f"{place}.more is unknown and has no effect; known are config",
    )
    assert (
        notices[3]
        == f"{place}.config.target_devise is unknown and has no effect; did you mean 'target_device'?"
    )
    assert notices[4].startswith(f"{place}.config.zzz is unknown and has no effect; known are {known}")
    assert len(notices) == 5


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config_file(tmp_path / "none.json")

    assert caught.value.message == f"--config_path {tmp_path / 'none.json'}: No such file or directory"


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", '{"model_config_list": []} x', "nul"])
def test_a_file_that_is_not_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not JSON") as caught:
        parse_config_file(path)

    assert str(path) in caught.value.message


def test_plugin_config_is_read_only() -> None:
    assert dict(check_plugin_config(None, "here")) == {}
    checked = check_plugin_config({"A": 1}, "here")
    with pytest.raises(TypeError):
        checked["A"] = 2  # type: ignore[index]  # that is the point
