# SPDX-License-Identifier: Apache-2.0
"""The command line: defaults of both forms, precedence, refusals and exit codes. No server is started."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp import __version__
from ovms_mp.cli import Effective, effective_config, main
from ovms_mp.commands.completion import PARSERS
from ovms_mp.config.declared import declared_settings
from ovms_mp.config.engine_flags import make_cache_dir
from ovms_mp.config.model_keys import MODEL_KEYS, UNSUPPORTED_MODEL_KEYS
from ovms_mp.config.ovms_flags import IGNORED_FLAGS, REFUSED_FLAGS
from ovms_mp.config.server import ServerConfig
from ovms_mp.config.server_parser import COMMANDS, server_parser
from ovms_mp.errors import ConfigError
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
    from collections.abc import Callable, Mapping

    from ovms_mp.config.model import ModelConfig

MODEL = ("--model_name", "m", "--model_path", "/models/m")
CORES = len(os.sched_getaffinity(0))


def effective(
    *arguments: str, command: str = "model", environment: Mapping[str, str] | None = None
) -> Effective:
    return effective_config(arguments, environment or {}, command)


def refused(*arguments: str, command: str = "model", environment: Mapping[str, str] | None = None) -> str:
    """The message with which these are refused."""
    with pytest.raises(ConfigError) as caught:
        effective(*arguments, command=command, environment=environment)
    return caught.value.message


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    document = {
        "model_config_list": [
            {"config": {"name": "a", "base_path": "a"}},
            {"config": {"name": "b", "base_path": "/b", "nirq": 3}},
        ]
    }
    path.write_text(json.dumps(document))
    return str(path)


# Defaults.


def test_model_has_the_legacy_defaults() -> None:
    config = effective(*MODEL).config

    assert (config.grpc.port, config.rest.port) == (9000, 0)
    assert (config.grpc.workers, config.rest.workers) == (1, 1)
    assert config.grpc.bind_address == "[::]"
    assert config.rest.bind_address == "[::]"
    assert (config.repository.poll_wait_s, config.log.level, config.log.path) == (1.0, "INFO", "")
    assert config.limits.max_message_mb >= 1024


def test_config_has_the_legacy_defaults(config_file: str) -> None:
    config = effective("--config_path", config_file, command="config").config

    assert (config.grpc.port, config.rest.port) == (9000, 0)
    assert [model.name for model in config.models] == ["a", "b"]
    assert config.config_path == Path(config_file)
    assert not config.is_strict


def test_a_configuration_file_in_a_store_is_read_later(tmp_path: Path) -> None:
    store_dir = ("--store_dir", str(tmp_path))
    config = effective("--config_path", "s3://bucket/a/config.json", *store_dir, command="config").config

    assert config.config_store == parse_store_url("s3://bucket/a/config.json")
    assert config.config_path == parse_store_url("s3://bucket/a/config.json").file_in(str(tmp_path))
    assert config.models == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("--config_path", "s3://key:secret@bucket/c.json"),
            "--config_path s3://bucket/c.json: credentials must",
        ),
        (("--config_path", "s3://bucket"), "--config_path s3://bucket: it names no object"),
        (("--config_path", "http://h/c.json?secret"), "--config_path http://h/c.json: only s3://"),
        (
            ("--config_path", "s3://k:secret@bucket/c.json", "--model_name", "m"),
            "--model_name belongs into s3://bucket/c.json",
        ),
    ],
)
def test_a_url_that_is_none_is_refused_without_its_secrets(arguments: tuple[str, ...], reason: str) -> None:
    message = refused(*arguments, "--port", "1", command="")

    assert reason in message
    assert "secret" not in message


def test_a_configuration_file_in_a_store_cannot_be_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--check", "s3://bucket/c.json"]) == 2
    assert "only a file on this machine can be checked" in capsys.readouterr().err


def test_the_flat_form_starts_only_what_has_a_port(config_file: str) -> None:
    both = effective(*MODEL, "--rest_port", "8000", command="").config
    assert (both.grpc.port, both.rest.port) == (0, 8000)
    only_grpc = effective("--config_path", config_file, "--port", "9001", command="").config
    assert (only_grpc.grpc.port, only_grpc.rest.port) == (9001, 0)


def test_flags_only_mean_the_same_server_in_both_forms() -> None:
    arguments = (*MODEL, "--port", "9001", "--rest_port", "8001", "--nireq", "3")

    assert effective(*arguments).config == effective(*arguments, command="").config


def test_a_model_by_flags() -> None:
    config = effective(
        *MODEL,
        "--nireq",
        "4",
        "--target_device",
        "AUTO:GPU,CPU",
        "--plugin_config",
        '{"NUM_STREAMS": "2", "A": 1}',
        "--model_version_policy",
        '{"specific": {"versions": [1, 3]}}',
    ).config

    (model,) = config.models
    assert config.config_path is None
    assert (model.name, model.base_path, model.nireq) == ("m", Path("/models/m"), 4)
    assert (model.target_device, dict(model.plugin_config)) == ("AUTO:GPU,CPU", {"NUM_STREAMS": "2", "A": 1})
    assert model.version_policy == Specific(frozenset({1, 3}))


def test_defaults_of_a_model_by_flags() -> None:
    (model,) = effective(*MODEL).config.models

    assert (model.nireq, model.target_device, dict(model.plugin_config)) == (0, "CPU", {})
    assert model.version_policy == Latest(1)


def test_policy_all_by_flag() -> None:
    (model,) = effective(*MODEL, "--model_version_policy", '{"all": {}}').config.models

    assert model.version_policy == All()


def test_a_relative_model_path_starts_here() -> None:
    (model,) = effective("--model_name", "m", "--model_path", "models/m").config.models

    assert model.base_path == Path.cwd() / "models" / "m"


def test_spellings_of_flags() -> None:
    config = effective(
        "--model-name=m", "--model_path=/a-b", "--rest-port=8001", "--grpc-workers", "1"
    ).config

    assert config.models[0].base_path == Path("/a-b")
    assert config.rest.port == 8001


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--rest_p=1", "--rest_port"),  # As the legacy server's argparse took it.
        ("--rest-prot", "--rest_port"),
        ("--modelname", "--model_name"),
        ("--log_levle=INFO", "--log_level"),
        ("--nireqs", "--nireq"),
    ],
)
@pytest.mark.parametrize("command", ["", "model"])
def test_a_flag_is_never_guessed_but_the_nearest_is_named(given: str, meant: str, command: str) -> None:
    message = refused(*MODEL, given, command=command)

    assert message.startswith(
        f"{given.partition('=')[0].replace('-', '_').replace('__', '--', 1)} is unknown; "
    )
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("flag", IGNORED_FLAGS)
@pytest.mark.parametrize("command", ["", "model", "config"])
def test_flags_of_ovms_that_change_no_answer_are_taken_with_a_notice(
    flag: str, command: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_config_list": []}')
    models = ("--config_path", str(file)) if command == "config" else MODEL
    for value in (("x",), ("7",), ("a=1,b=2",), ()):
        notices = effective(*models, "--port", "1", f"--{flag}", *value, command=command).notices

        (notice,) = [text for text in notices if f"--{flag} " in text]
        assert "has no effect: " in notice


@pytest.mark.parametrize("flag", REFUSED_FLAGS)
@pytest.mark.parametrize("command", ["", "model"])
def test_flags_of_ovms_that_ask_for_another_server_are_refused(flag: str, command: str) -> None:
    assert refused(*MODEL, f"--{flag}", "x", command=command).startswith(f"--{flag} is not supported: ")
    # Scripts pass empty variables on.
    assert effective(*MODEL, f"--{flag}", "", "--port", "1", command=command).config.models


def test_a_socket_for_clients_memory_needs_that_they_may_have_some() -> None:
    assert "--client_shm_socket is given without --allow_client_shm" in refused(
        *MODEL, "--client_shm_socket", "/s"
    )
    long = refused(*MODEL, "--allow_client_shm", "--client_shm_socket", "/" + "s" * 107)
    assert "--client_shm_socket unix:/sss" in long
    assert "107 bytes at most" in long


# Every declared setting.


SPECIAL = {
    "rest_prefix": "/models",
    "trusted_proxies": "10.0.0.0/8",
    "allowed_origins": "https://app.example.com",
}
"""Values of settings for which not every text will do."""
BESIDE = {
    "rest_prefix": ("--rest_port", "1"),
    "allow_credentials": ("--allowed_origins", SPECIAL["allowed_origins"]),
    "client_shm_socket": ("--allow_client_shm", "true"),
}
"""Flags without which others are refused."""


@pytest.mark.parametrize("declared", list(declared_settings()), ids=lambda entry: entry.setting.flag)
def test_every_flag_reaches_its_field(declared: object, tmp_path: Path) -> None:
    entry = next(found for found in declared_settings() if found == declared)
    setting = entry.setting
    value = {int: "1", float: "2.0", str: "text", bool: "true"}[entry.kind]
    if setting.choices and entry.kind is str:
        value = next(choice for choice in setting.choices if choice != entry.default)
    if setting.flag == "unix_socket_mode":
        value = "600"
    if setting.is_path:
        value = str(tmp_path / "file")
        if setting.flag in ("plugins_xml", "cpu_extension"):
            Path(value).touch()
    others: tuple[str, ...] = ()
    if setting.flag in ("metrics_enable", "metrics_list"):
        others = ("--metrics_enable", "true", "--rest_port", "1")
        value = "ovms_streams" if setting.flag == "metrics_list" else value
    if setting.flag in SPECIAL:
        value = SPECIAL[setting.flag]
    if setting.flag.endswith("api_key_file"):
        Path(value).write_text("a-key-that-is-long-enough\n")
    others = BESIDE.get(setting.flag, others)
    config = effective(*MODEL, *others, f"--{setting.flag}", value).config

    found = getattr(getattr(config, entry.section), entry.name)
    assert found == entry.kind(value)
    assert found != entry.default or entry.default == 1


def test_flags_go_before_variables_and_those_before_defaults() -> None:
    environment = {"FILE_SYSTEM_POLL_WAIT_SECONDS": "2.5", "LOG_LEVEL": "debug", "LOG_PATH": "/tmp/l"}  # noqa: S108  # not used

    by_variable = effective(*MODEL, environment=environment).config
    assert (by_variable.repository.poll_wait_s, by_variable.log.level) == (2.5, "DEBUG")
    assert by_variable.log.path == environment["LOG_PATH"]
    by_flag = effective(*MODEL, "--file_system_poll_wait_seconds", "0", environment=environment).config
    assert (by_flag.repository.poll_wait_s, by_flag.log.level) == (0.0, "DEBUG")


def test_empty_variables_say_nothing() -> None:
    environment = {
        entry.setting.environment: "" for entry in declared_settings() if entry.setting.environment
    }

    assert effective(*MODEL, environment=environment) == effective(*MODEL)


def test_variables_that_are_no_numbers_are_named() -> None:
    message = refused(*MODEL, environment={"REST_REQUESTS_QUEUE_SIZE": "many"})

    assert message == "REST_REQUESTS_QUEUE_SIZE: 'many' is not an integer; accepted: 1 to 65535"


def test_an_unknown_log_level_of_the_environment_means_info_and_is_told() -> None:
    answer = effective(*MODEL, environment={"LOG_LEVEL": "verbose"})

    assert answer.config.log.level == "INFO"
    assert answer.notices == (
        "LOG_LEVEL: 'verbose' is unknown, INFO is used; accepted: one of TRACE, DEBUG, INFO, WARNING, ERROR",
    )


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("_prepare_output_with_make_tensor_proto", "TENSOR_CONTENT"),
        ("_prepare_output_as_AppendArrayToTensorProto", "TYPED_FIELDS"),
        ("typed_fields", "TYPED_FIELDS"),
    ],
)
def test_the_legacy_names_of_output_encodings(value: str, encoding: str) -> None:
    answer = effective(*MODEL, environment={"SERIALIZATION_FUNCTION": value})

    assert (answer.config.grpc.output_encoding, answer.notices) == (encoding, ())


@pytest.mark.parametrize(
    "name", ["PLUGIN_DIR", "ENGINE_REQUESTS_QUEUE_SIZE", "ENGINE_REQUESTS_QUEUE_TIMEOUT"]
)
def test_variables_without_effect_are_told(name: str) -> None:
    answer = effective(*MODEL, environment={name: "x"})

    assert len(answer.notices) == 1
    assert answer.notices[0].startswith(f"{name} is set and has no effect")


def test_more_workers_than_cores_are_lowered_with_a_notice() -> None:
    answer = effective(
        *MODEL, "--grpc_workers", str(CORES + 1), "--rest_workers", "9999", "--cpu_workers", "1024"
    )

    assert (answer.config.grpc.workers, answer.config.rest.workers) == (CORES, CORES)
    assert answer.config.engine.cpu_workers == CORES
    assert len(answer.notices) == 3
    assert answer.notices[2].startswith(f"--cpu_workers 1024 is lowered to {CORES}")
    assert answer.notices[0].startswith(f"--grpc_workers {CORES + 1} is lowered to {CORES}")
    assert answer.notices[1].startswith(f"--rest_workers 9999 is lowered to {CORES}")


def test_as_many_workers_as_cores_are_taken_without_a_word() -> None:
    answer = effective(*MODEL, "--grpc_workers", str(CORES))

    assert (answer.config.grpc.workers, answer.notices) == (CORES, ())


def test_notices_of_the_file_are_passed_on(config_file: str) -> None:
    answer = effective("--config_path", config_file, command="config")

    assert answer.notices == (
        "$.model_config_list[1].config.nirq is unknown and has no effect; did you mean 'nireq'?",
    )


def test_every_setting_of_a_model_by_flag() -> None:
    answer = effective(
        *MODEL, "--shape", "(1,-1,2:8,3)", "--layout", "NHWC:NCHW", "--mean", "[1,2,3]", "--scale", "2",
        "--color_format", "bgr:rgb", "--precision", "UINT8:FP32", "--allow_cache",
    )  # fmt: skip

    (model,) = answer.config.models
    assert answer.notices == ()
    assert model.allow_cache
    assert model.inputs == InputSettings(
        shapes=(InputShape("", ((1, 1), (0, -1), (2, 8), (3, 3))),),
        layouts=(Layout("", "NHWC", "NCHW"),),
        mean=(ChannelValues("", (1, 2, 3)),),
        scale=(ChannelValues("", (2,)),),
        color_format=(Conversion("", model="RGB", client="BGR"),),
        precision=(Conversion("", model="fp32", client="uint8"),),
    )


@pytest.mark.parametrize(
    ("text", "bounds"), [("4", (4, 4)), ("-1", (0, -1)), ("1:8", (1, 8)), ("auto", None), ("AUTO", None)]
)
def test_batch_size_by_flag(text: str, bounds: tuple[int, int] | None) -> None:
    (model,) = effective(*MODEL, "--batch_size", text).config.models

    assert model.inputs == InputSettings(batch_size=BatchSize(bounds))


def test_shapes_by_name_in_a_flag() -> None:
    (model,) = effective(*MODEL, "--shape", '{"a": "(1,3)", "b": "auto"}').config.models

    assert model.inputs.shapes == (InputShape("a", ((1, 1), (3, 3))), InputShape("b", None))


@pytest.mark.parametrize(
    ("text", "device"), [("", "AUTO"), ("cpu", "CPU"), (" multi:gpu.1, cpu ", "MULTI:GPU.1,CPU")]
)
def test_devices_are_tidied(text: str, device: str) -> None:
    (model,) = effective(*MODEL, "--target_device", text).config.models

    assert model.target_device == device


@pytest.mark.parametrize(
    "flag", sorted(set(MODEL_KEYS) - {"name", "base_path", "target_device", "allow_cache"})
)
def test_empty_flags_say_nothing(flag: str) -> None:
    assert effective(*MODEL, f"--{flag}", "") == effective(*MODEL)


def test_batch_size_beside_shape_is_told() -> None:
    answer = effective(*MODEL, "--batch_size", "4", "--shape", "auto")

    assert answer.config.models[0].inputs.batch_size is None
    assert answer.notices == ("--batch_size has no effect, as shape takes precedence",)


# Files of the engine.


@pytest.mark.parametrize("flag", ["cpu_extension", "plugins_xml"])
def test_files_of_the_engine_must_exist(flag: str, tmp_path: Path) -> None:
    path = tmp_path / "none"

    assert refused(*MODEL, f"--{flag}", str(path)) == (
        f"File path provided as an --{flag} parameter does not exist in the filesystem: {path}"
    )


def test_a_missing_cpu_extension_of_the_environment_is_ignored_and_told(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    environment = {"CPU_EXTENSION": str(path)}

    answer = effective(*MODEL, environment=environment)
    assert (answer.config.engine.cpu_extension, answer.notices) == (
        "",
        (f"CPU_EXTENSION: {path} does not exist and is ignored",),
    )
    path.touch()
    answer = effective(*MODEL, environment=environment)
    assert (answer.config.engine.cpu_extension, answer.notices) == (str(path), ())


def test_a_cache_directory_may_be_made_later(tmp_path: Path) -> None:
    config = effective(*MODEL, "--cache_dir", str(tmp_path / "a" / "b")).config

    assert config.engine.cache_dir == str(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_directory_below_a_file_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    for path in (file, file / "cache"):
        assert refused(*MODEL, "--cache_dir", str(path)).startswith(
            f"--cache_dir {path}: {file} is not a directory"
        )


def test_a_cache_directory_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    message = refused(*MODEL, "--cache_dir", str(tmp_path))
    assert message.startswith(f"--cache_dir {tmp_path}: this user may not write to {tmp_path}")


def test_the_usual_cache_is_taken_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovms_mp.config.engine_flags._USUAL_CACHE", str(tmp_path / "cache"))

    assert effective(*MODEL).config.engine.cache_dir == ""
    (tmp_path / "cache").mkdir()
    assert effective(*MODEL).config.engine.cache_dir == str(tmp_path / "cache")
    assert effective(*MODEL, "--cache_dir", "").config.engine.cache_dir == ""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    answer = effective(*MODEL)
    assert answer.config.engine.cache_dir == ""
    assert answer.notices[0].startswith(f"{tmp_path / 'cache'} exists and is not used")


@pytest.mark.parametrize(
    ("mode", "owner", "reason"),
    [
        (0o777, 0, "every user may write there"),
        (0o1777, 0, "every user may write there"),
        (0o702, 0, "every user may write there"),
        (0o755, 65534, "it belongs to user 65534"),
        (0o700, 65534, "it belongs to user 65534"),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_a_cache_that_others_can_write_to_is_refused(
    mode: int, owner: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, owner, 0)
    cache.chmod(mode)

    assert refused(*MODEL, "--cache_dir", str(cache)).startswith(f"--cache_dir {cache}: {reason}")
    monkeypatch.setattr("ovms_mp.config.engine_flags._USUAL_CACHE", str(cache))
    answer = effective(*MODEL)
    assert answer.config.engine.cache_dir == ""
    assert answer.notices[0].startswith(f"{cache} exists and is not used: {reason}")


def test_a_cache_of_this_users_group_is_taken(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)

    assert effective(*MODEL, "--cache_dir", str(tmp_path)).config.engine.cache_dir == str(tmp_path)


def test_a_cache_that_is_made_is_not_for_everybody(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_cache_dir(str(tmp_path / "cache"))
    finally:
        os.umask(before)

    assert effective(*MODEL, "--cache_dir", str(tmp_path / "cache")).config.engine.cache_dir


@pytest.mark.parametrize(
    "flag", ["--model_path", "--log_path", "--cache_dir", "--plugins_xml", "--cpu_extension"]
)
@pytest.mark.parametrize("path", ["/models/\udcff", "m\udce9l"])
def test_a_path_that_is_not_utf_8_is_explained(flag: str, path: str) -> None:
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    message = refused(*MODEL, flag, path)

    assert message.startswith(f"{flag}: ")
    assert f"{shown} is not UTF-8, as all paths must be; rename it" in message


def test_a_configuration_file_whose_path_is_not_utf_8_is_explained(tmp_path: Path) -> None:
    message = refused("--config_path", f"{tmp_path}/\udcff.json", command="config")

    assert message == (
        f"--config_path: {tmp_path}/\\xff.json is not UTF-8, as all paths must be; rename it, or give a symbolic link "
        "to it"
    )


@pytest.mark.parametrize("key", ["CACHE_DIR", "WEIGHTS_PATH"])
def test_relative_paths_of_properties_start_where_the_models_does(key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    entry = {"name": "m", "base_path": "m", "plugin_config": {key: "below", "DEVICE_ID": "0"}}
    path.write_text(json.dumps({"model_config_list": [{"config": entry}]}))

    (model,) = effective("--config_path", str(path), command="config").config.models
    assert (model.base_path, model.plugin_config) == (
        tmp_path / "m",
        {key: str(tmp_path / "below"), "DEVICE_ID": "0"},
    )


@pytest.mark.parametrize(
    ("words", "is_strict"), [((), False), (("",), True), (("true",), True), (("False",), False)]
)
def test_strict_config_may_stand_alone(words: tuple[str, ...], is_strict: bool, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_config_list": []}')
    flags = [word for value in words for word in ("--strict_config", value) if word]

    config = effective("--config_path", str(path), *flags, command="config").config
    assert config.is_strict is is_strict


def test_strict_config_refuses_unknown_keys(config_file: str) -> None:
    message = refused("--config_path", config_file, "--strict_config", command="config")

    assert message.splitlines() == [
        f"{config_file} is not valid:",
        "$.model_config_list[1].config.nirq is unknown, which --strict_config refuses; did you mean 'nireq'?",
    ]


def test_devices_passes_its_flags_on(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(
        command: list[str], check: bool, cwd: str, env: dict[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 5)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["devices", "--model", "m.xml", "--target_device", "AUTO", "--plugins_xml=p"]) == 5
    assert commands[0][1:] == [
        "-P", "-m", "ovms_mp.worker.devices", "--model", str(Path("m.xml").absolute()),
        "--target_device", "AUTO", "--plugins_xml", str(Path("p").absolute()),
    ]  # fmt: skip


# Refusals.


@pytest.mark.parametrize(("command", "ports"), [("", ()), ("", ("--port", "0")), ("model", ("--port", "0"))])
def test_no_port_at_all(command: str, ports: tuple[str, ...]) -> None:
    message = refused(*MODEL, *ports, command=command)

    assert message.startswith("port and rest_port cannot both be unset")
    assert "--rest_port" in message


@pytest.mark.parametrize("ports", [("--rest_port", "9000"), ("--port", "8000", "--rest_port", "8000")])
def test_equal_ports(ports: tuple[str, ...]) -> None:
    message = refused(*MODEL, *ports)

    assert message == f"port and rest_port cannot have the same values; both are {ports[-1]}"


@pytest.mark.parametrize("flag", ["port", "rest_port"])
@pytest.mark.parametrize("value", ["-1", "65536"])
def test_port_out_of_range(flag: str, value: str) -> None:
    assert refused(*MODEL, f"--{flag}", value) == f"--{flag}: {value} is out of range; accepted: 0 to 65535"


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "100001", "1e3", "9" * 5000, "٣"])
def test_nireq_that_is_none(value: str) -> None:
    message = refused(*MODEL, "--nireq", value)

    assert message.startswith("--nireq: ")
    assert "is not valid" in message
    assert message.endswith("; accepted: 0 (automatic) to 100000")


@pytest.mark.parametrize("flag", ["plugin_config", "model_version_policy"])
def test_json_flags_that_are_no_json(flag: str) -> None:
    message = refused(*MODEL, f"--{flag}", "{'A': 1}")

    assert message.startswith(f"--{flag}: \"{{'A': 1}}\" is not valid: it is not JSON: ")
    assert "line 1, column 2" in message
    assert message.endswith(MODEL_KEYS[flag].accepted)


def test_json_flags_of_the_wrong_form() -> None:
    assert refused(*MODEL, "--plugin_config", "[]").startswith(
        '--plugin_config: "[]" is not valid; accepted: an'
    )
    assert refused(*MODEL, "--plugin_config", '{"A": []}').startswith("--plugin_config.A: [] is not valid")
    message = refused(*MODEL, "--model_version_policy", '{"latests": {}}')
    assert message.startswith("--model_version_policy: ")
    assert '{"all": {}}' in message


def test_all_wrong_flags_of_a_model_are_told_at_once() -> None:
    lines = refused(
        *MODEL, "--nireq", "x", "--shape", '{"data": "(1,y)"}', "--target_device", "HDDL"
    ).splitlines()

    assert sorted(line.partition(":")[0] for line in lines) == ["--nireq", "--shape.data", "--target_device"]


def test_a_model_in_an_object_store_has_a_directory_of_its_own(tmp_path: Path) -> None:
    def model_of(*arguments: str, **environment: str) -> ModelConfig:
        (model,) = effective(*arguments, environment=environment).config.models
        return model

    flags = ("--model_name", "m", "--model_path", "S3://bucket/models/m/")
    model = model_of(*flags, "--store_dir", str(tmp_path))

    assert model.source == str(model.store) == "s3://bucket/models/m"
    assert model.base_path.parent == tmp_path
    assert not any(tmp_path.iterdir()), "made when something is served"
    assert model_of(*flags, XDG_CACHE_HOME=str(tmp_path)).base_path.parent == tmp_path / "ovms_mp" / "store"
    assert model_of(*flags, STATE_DIRECTORY=f"{tmp_path}:/other").base_path.parent == tmp_path / "store"
    assert model_of(*flags, HOME="/dev/null", TMPDIR=str(tmp_path)).base_path.parent.parent == tmp_path


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    message = refused("--model_name", "m", "--model_path", "s3://key:secret@bucket/m")

    assert message.startswith(
        '--model_path: "s3://bucket/m" is not valid: credentials must not be in the URL'
    )
    assert "secret" not in message


@pytest.mark.parametrize("flag", ["model_name", "nireq", "target_device", "plugin_config", "shape"])
def test_model_flags_exclude_a_file(config_file: str, flag: str) -> None:
    message = refused("--config_path", config_file, f"--{flag}", "1", "--port", "1", command="")

    assert message.startswith("Model parameters in CLI are exclusive with the config file")
    assert f"--{flag}" in message


@pytest.mark.parametrize("flag", UNSUPPORTED_MODEL_KEYS)
@pytest.mark.parametrize("command", ["", "model"])
def test_flags_of_what_this_server_has_not(flag: str, command: str) -> None:
    message = refused(*MODEL, f"--{flag}", "7", "--port", "1", command=command)

    assert message.startswith(f"--{flag}: ")
    assert "supported" in message
    for harmless in ("false", "", "0"):
        assert effective(*MODEL, f"--{flag}", harmless, "--port", "1", command=command).config.models


def test_what_is_missing_is_named() -> None:
    assert refused("--model_name", "m") == "--model_path is missing; give --model_name and --model_path"
    assert refused("--model_path", "m").startswith("--model_name is missing")
    assert refused("--port", "1", command="").endswith("or --config_path FILE")


@pytest.mark.parametrize(
    ("command", "flag"),
    [("model", "--config_path"), ("config", "--model_name"), ("", "--no_such"), ("model", "--v2")],
)
def test_unknown_flags_are_errors(command: str, flag: str) -> None:
    message = refused(flag, "x", "--port", "1", command=command)

    assert flag in message
    assert f"{f'ovms_mp {command}'.strip()} --help" in message


# The command as a whole.


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["model"],
        ["config"],
        ["model", *MODEL, "--port", "x"],
        ["model", *MODEL, "--port"],
        ["model", *MODEL, "--rest_port", "9000"],
        ["model", *MODEL, "stray"],
        [*MODEL],
        ["config", "--config_path", "/no/such/file.json"],
        ["config", "--check", "/no/such/file.json"],
        ["config", "--check"],
        ["config", "--check", "a", "--config_path", "a"],
        ["model", "--check", "a"],
        ["model", *MODEL, "--strict_config", "maybe"],
        ["status", "--rest_port", "x"],
        ["status", "stray"],
        ["--config_path", "/no/such/file.json", "--port", "9000"],
        ["devices", "--what"],
        ["demo", "--port", "-1"],
        ["demo", "--rest_port", "x"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_2_and_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ovms_mp: error: ")
    assert err.count("\n") == 1


def test_an_unknown_command_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve"])

    err = capsys.readouterr().err
    assert "unknown command 'serve'" in err
    for command in COMMANDS:
        assert command in err


@pytest.mark.parametrize(("pid", "code"), [(1, 143), (2, None)])
def test_process_1_takes_sigterm_before_it_serves(
    pid: int, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals without a handler do not reach process 1, so nobody could stop a container that is starting."""
    handlers: dict[int, Callable[[int, None], None]] = {}
    monkeypatch.setattr(os, "getpid", lambda: pid)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    main(["--version"])

    assert set(handlers) == ({signal.SIGTERM} if code else set())
    for number, handler in handlers.items():
        with pytest.raises(SystemExit) as ended:
            handler(number, None)
        assert ended.value.code == code


def test_nothing_given_shows_the_help_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: ovms_mp" in err


@pytest.mark.parametrize("command", [[], ["model"], ["config"]], ids=["flat", "model", "config"])
def test_help_lists_every_setting(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10000")

    assert main([*command, "--help", "all"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    blocks = [" ".join(block.split()) for block in re.split(r"^  (?=--)", out, flags=re.MULTILINE)]
    for entry in declared_settings():
        setting = entry.setting
        (line,) = [
            block
            for block in blocks
            if block.replace("[", "").startswith(f"--{setting.flag} {entry.kind.__name__.upper()}")
        ]
        default = "0" if setting.flag == "port" and not command else entry.default_text
        assert setting.meaning in line
        assert f"default {default or 'none'}" in line
        if setting.environment:
            assert f"variable {setting.environment}" in line
        if setting.low is not None:
            assert f"accepted {setting.accepted()}" in line
    model_flags = {f"--{key}" for key in MODEL_KEYS if key not in ("name", "base_path")}
    model_flags |= {"--model_name", "--model_path"}
    listed = {block.split()[0] for block in blocks[1:]}
    assert (model_flags <= listed) == (command != ["config"])
    for key in MODEL_KEYS.values():
        assert (key.meaning in out) == (command != ["config"])
        assert command == ["config"] or key.accepted in " ".join(out.split())
    assert ("--check" in listed) == (command == ["config"])
    assert ("--config_path" in listed) == (command != ["model"])


def test_help_names_the_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])

    out = capsys.readouterr().out
    for piece in (
        "  demo ",
        "  model ",
        "  config ",
        "--check FILE",
        "  status ",
        "  devices ",
        "exit codes: 0 clean stop, 2",
        "ovms_mp --help all",
    ):
        assert piece in out


@pytest.mark.parametrize("command", [[], ["model"], ["config"]], ids=["flat", "model", "config"])
def test_help_fits_a_terminal(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) <= 39
    assert max(map(len, out.splitlines())) <= 110
    for flag in re.findall(r"^  --(\w+)", out, flags=re.MULTILINE):
        effective_flags = server_parser(command[0] if command else "").flags()
        assert f"--{flag}" in effective_flags
    assert (" 9000 " in out) == bool(command)


def test_help_knows_one_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "everything"]) == 2

    assert "accepted: --help, --help all" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["model"], ["config"]], ids=["flat", "model", "config"])
def test_version(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--version"]) == 0

    out, err = capsys.readouterr()
    assert out.startswith(f"ovms_mp {__version__} (OpenVINO ")
    assert err == ""


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("model", "config")])
def test_help_of_the_other_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0

    assert f"usage: ovms_mp {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("model", "config")])
def test_help_of_the_other_commands_teaches(command: str) -> None:
    """Every flag and operand is explained, and the command lines that are shown are right."""
    parser = PARSERS[command]()

    assert [action.dest for action in parser._actions if not action.help] == []
    assert parser.examples
    for example in parser.examples:
        words = shlex.split(re.sub(r"^eval \"\$\((.*)\)\"$", r"\1", example).split(" | ")[0].split(" > ")[0])
        assert words[:2] == ["ovms_mp", command]
        parser.read(words[2:])
        assert len(example) <= 118


def test_sentences_of_a_help_are_wrapped_and_commands_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["predict", "--help"]) == 0

    out = capsys.readouterr().out
    sentences = [line for line in out.split("\n") if not line.startswith(("  ", "usage:"))]
    assert max(map(len, sentences)) <= 60
    assert all(f"  {example}\n" in out for example in PARSERS["predict"]().examples)


def test_what_is_missing_leads_to_the_commands_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict"]) == 2

    assert capsys.readouterr().err.endswith("required: URL, MODEL; see ovms_mp predict --help\n")


def test_the_same_arguments_give_the_same_configuration() -> None:
    config = effective(*MODEL).config

    assert isinstance(config, ServerConfig)
    assert config == effective(*MODEL).config
