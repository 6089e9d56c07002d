# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp add``, ``remove`` and OVMS's flags for the same, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovms_mp.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model ``m`` of one version."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OVMS_MODEL_REPOSITORY_PATH", raising=False)
    for name in ("m", "deep/er", "empty"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
    for name in ("m", "deep/er"):
        (tmp_path / "models" / name / "1" / "model.onnx").write_bytes(b"x")
    (tmp_path / "models" / "loop").symlink_to(tmp_path / "models")
    return tmp_path


def entries(file: str = "config.json") -> list[dict[str, object]]:
    return [entry["config"] for entry in json.loads(Path(file).read_text())["model_config_list"]]


def test_a_model_is_added_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--config_path", "config.json", "--nireq", "2", "--layout", "NHWC:NCHW")
    assert (
        main(["add", "models/m", "--model_name", "m", *flags, "--plugin_config", '{"NUM_STREAMS": 1}']) == 0
    )
    assert entries() == [
        {
            "name": "m",
            "base_path": "models/m",
            "nireq": 2,
            "layout": "NHWC:NCHW",
            "plugin_config": {"NUM_STREAMS": 1},
        }
    ]
    assert main(["remove", "m"]) == 0  # The file here is found.
    assert entries() == []

    out, err = capsys.readouterr()
    assert [line.partition(" ")[2] for line in out.splitlines()] == [
        "made, with the model m now; a server that follows it loads it.",
        "has the model m no more; a server that follows it unloads it.",
    ]
    assert err == ""


@pytest.mark.parametrize(
    ("path", "file", "base_path"),
    [
        ("models/m", "config.json", "models/m"),
        ("models/m", "models/config.json", "m"),
        ("./models/../models/m/", "models/config.json", "m"),
        ("models/m", "models/deep/config.json", "{here}/models/m"),
        ("{here}/models/m", "config.json", "{here}/models/m"),
        ("s3://bucket/m", "config.json", "s3://bucket/m"),
    ],
)
def test_paths_are_as_the_file_may_have_them(path: str, file: str, base_path: str, here: Path) -> None:
    assert main(["add", path.format(here=here), "--model_name", "m", "--config_path", file]) == 0

    assert entries(file)[0]["base_path"] == base_path.format(here=here)


def test_a_path_without_a_model_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", "models/empty", "--model_name", "e", "--config_path", "config.json"]) == 0
    assert main(["add", "nowhere", "--model_name", "n", "--config_path", "config.json"]) == 0

    err = capsys.readouterr().err
    assert "models/empty holds no model yet" in err
    assert "nowhere does not exist yet" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["add"], "PATH"),
        (["add", "models/m", "--config_path", "c.json"], "--model_name is missing"),
        (["add", "models/m", "--model_name", "m"], "--config_path is missing, and there is no"),
        (["add", "m", "--model_name", "m", "--model_path", "m"], "--model_path and PATH"),
        (["add", "m", "--model_name", "m", "--config_path", "s3://b/c.json"], "only a file on this machine"),
        (["add", "m", "--model_name", "m", "--nirq", "2"], "did you mean --nireq"),
        (["remove"], "NAME"),
        (["remove", "m", "--config_path", "c.json"], "does not exist"),
        (["--list_models"], "--model_repository_path is missing"),
        (["--list_models", "--model_repository_path", "nowhere"], "not a directory"),
        (["--add_to_config", "--model_name", "m"], "--config_path is missing"),
        (["--add_to_config", "--config_path", "c.json"], "needs --model_name"),
        (["--add_to_config", "--config_path", "c.json", "--model_name", "m"], "needs --model_path or"),
        (["--remove_from_config", "--add_to_config"], "one at a time"),
    ],
)
def test_mistakes_are_named(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2

    out, err = capsys.readouterr()
    assert text in err
    assert out == ""


def test_ovms_lists_the_models_of_a_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list_models", "--model_repository_path", "models"]) == 0

    assert capsys.readouterr().out.splitlines() == ["deep/er", "m"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--add_to_config", "--config_path", "models/config.json", "--model_path", "m"],
        ["--add_to_config", "true", "--config_path", "models", "--model_path", "m"],
        ["--add_to_config", "models/config.json", "--model_path", "m"],
        ["--add_to_config", "models", "--model_repository_path", "models"],
        ["--add_to_config", "--model_repository_path", "models"],
        ["--add_to_config", "--config_path=models/config.json", "--model_repository_path", "models"],
    ],
    ids=" ".join,
)
def test_ovms_adds_and_removes(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--model_name", "m", "--batch_size", "4"]) == 0
    file = "models/config.json"
    (entry,) = entries(file)
    assert entry["name"] == "m"
    assert (here / "models" / str(entry["base_path"])).resolve() == here / "models" / "m"
    assert entry["batch_size"] == "4"
    assert main(["--remove_from_config", "--config_path", file, "--model_name", "m"]) == 0
    assert entries(file) == []

    assert capsys.readouterr().out == "Config updated: models/config.json\n" * 2


def test_a_variable_names_the_repository(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVMS_MODEL_REPOSITORY_PATH", "models")
    assert main(["--list_models"]) == 0
    assert main(["--add_to_config", "--model_name", "m"]) == 0
    assert main(["remove", "m"]) == 0

    assert capsys.readouterr().out.splitlines()[:2] == ["deep/er", "m"]
    assert entries("models/config.json") == []


def test_who_serves_gives_no_repository(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model_name", "m", "--model_path", "models/m", "--port", "1")
    assert main([*flags, "--model_repository_path", "models"]) == 2

    assert "is for --list_models, --add_to_config" in capsys.readouterr().err
