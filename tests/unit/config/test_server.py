# SPDX-License-Identifier: Apache-2.0
"""Declarations of settings: documented, bounded, and refused with what would be accepted."""

from __future__ import annotations

import dataclasses

import pytest

from ovms_mp.config.declared import SECTIONS, DeclaredSetting, declared_settings, settings_table
from ovms_mp.config.server import RepositoryConfig, ServerConfig
from ovms_mp.config.setting import SWITCH, Setting
from ovms_mp.errors import ConfigError

DECLARED = list(declared_settings())
NUMBERS = [entry for entry in DECLARED if entry.kind in (int, float)]


def by_flag(entry: DeclaredSetting) -> str:
    return entry.setting.flag


# Declarations.


def test_every_section_of_the_tree_is_declared() -> None:
    sections = {entry.name for entry in dataclasses.fields(ServerConfig)} - {
        "models",
        "refused",
        "config_path",
        "config_store",
    }

    assert sections == set(SECTIONS)
    for name, cls in SECTIONS.items():
        assert {entry.name for entry in dataclasses.fields(cls)} == {
            entry.name for entry in DECLARED if entry.section == name
        }


def test_flags_and_variables_are_unique() -> None:
    flags = [entry.setting.flag for entry in DECLARED]
    variables = [entry.setting.environment for entry in DECLARED if entry.setting.environment]

    assert len(set(flags)) == len(flags)
    assert len(set(variables)) == len(variables)


def test_legacy_variables_are_read() -> None:
    variables = {
        entry.setting.environment: entry.setting.flag for entry in DECLARED if entry.setting.environment
    }

    assert variables == {
        "GRPC_SERVERS": "grpc_workers",
        "SERIALIZATION_FUNCTION": "grpc_output_encoding",
        "REST_REQUESTS_QUEUE_SIZE": "rest_requests_queue_size",
        "FILE_SYSTEM_POLL_WAIT_SECONDS": "file_system_poll_wait_seconds",
        "CPU_EXTENSION": "cpu_extension",
        "LOG_LEVEL": "log_level",
        "OTEL_BSP_MAX_QUEUE_SIZE": "trace_queue_spans",
        "LOG_PATH": "log_path",
    }


@pytest.mark.parametrize("entry", DECLARED, ids=by_flag)
def test_a_setting_is_documented_and_its_default_is_accepted(entry: DeclaredSetting) -> None:
    assert entry.setting.meaning.endswith(".")
    assert len(entry.setting.meaning) > 10
    assert entry.setting.parse(entry.default_text, entry.kind, "here") == entry.default


@pytest.mark.parametrize("entry", NUMBERS, ids=by_flag)
def test_bounds_are_accepted_and_what_is_beyond_is_not(entry: DeclaredSetting) -> None:
    setting = entry.setting
    assert setting.low is not None
    assert setting.high is not None
    for bound, beyond in ((setting.low, -1), (setting.high, 1)):
        text = str(entry.kind(bound))
        assert setting.parse(text, entry.kind, "here") == bound
        outside = str(entry.kind(bound) + beyond)
        with pytest.raises(ConfigError) as caught:
            setting.parse(outside, entry.kind, f"--{setting.flag}")
        assert caught.value.message == (
            f"--{setting.flag}: {outside} is out of range; accepted: {setting.accepted()}"
        )


@pytest.mark.parametrize("entry", NUMBERS, ids=by_flag)
@pytest.mark.parametrize("text", ["", "x", "1,5", "0x10", "1 2"])
def test_what_is_no_number_is_named(entry: DeclaredSetting, text: str) -> None:
    noun = "an integer" if entry.kind is int else "a number"
    with pytest.raises(ConfigError) as caught:
        entry.setting.parse(text, entry.kind, "VARIABLE")

    assert caught.value.message.startswith(f"VARIABLE: {text!r} is not {noun}; accepted: ")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize("entry", [entry for entry in NUMBERS if entry.kind is float], ids=by_flag)
def test_numbers_without_a_place_on_the_line_are_out_of_range(entry: DeclaredSetting, text: str) -> None:
    with pytest.raises(ConfigError, match=f"--flag: {text} is out of range"):
        entry.setting.parse(text, float, "--flag")


def test_fractions_are_no_integers() -> None:
    with pytest.raises(ConfigError, match=r"'1\.5' is not an integer"):
        Setting("port", "x", low=0, high=9).parse("1.5", int, "--port")


def test_choices_ignore_case_and_are_listed() -> None:
    setting = Setting("log_level", "x", choices=("TRACE", "INFO"))

    assert setting.parse("info", str, "--log_level") == "INFO"
    with pytest.raises(ConfigError) as caught:
        setting.parse("loud", str, "--log_level")
    assert caught.value.message == "--log_level: 'loud' is unknown; accepted: one of TRACE, INFO"


@pytest.mark.parametrize("word", ["native", "NATIVE", "wire", "WIRE", "Wire"])
def test_aliases_mean_a_choice_in_any_case_and_are_not_listed(word: str) -> None:
    (front,) = (entry for entry in DECLARED if entry.setting.flag == "grpc_front")

    assert front.setting.parse(word, str, "--grpc_front") == front.default == "native"
    assert front.setting.accepted() == "one of native, grpcio"


@pytest.mark.parametrize("entry", [entry for entry in DECLARED if entry.setting.aliases], ids=by_flag)
def test_an_alias_means_one_of_the_choices(entry: DeclaredSetting) -> None:
    assert {choice for _, choice in entry.setting.aliases} <= set(entry.setting.choices)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (Setting("a", "x", low=1), "at least 1"),
        (Setting("a", "x", low=0, high=0.5), "0 to 0.5"),
        (Setting("a", "x", low=1, high=1 << 24), "1 to 16777216"),
        (Setting("a", "x", choices=SWITCH), "one of true, false"),
        (Setting("a", "x"), "any string"),
    ],
)
def test_accepted_text(setting: Setting, text: str) -> None:
    assert setting.accepted() == text


@pytest.mark.parametrize(("text", "value"), [("true", True), ("FALSE", False), ("on", True), ("Off", False)])
def test_switches(text: str, value: bool) -> None:
    setting = Setting("strict_config", "x", choices=SWITCH)

    assert setting.parse(text, bool, "--strict_config") is value
    with pytest.raises(ConfigError) as caught:
        setting.parse("1", bool, "--strict_config")
    assert caught.value.message == "--strict_config: '1' is unknown; accepted: one of true, false"


def test_strictness_is_the_repositorys() -> None:
    assert not ServerConfig(models=()).is_strict
    assert ServerConfig(models=(), repository=RepositoryConfig(is_strict=True)).is_strict


def test_the_configuration_cannot_be_changed() -> None:
    config = ServerConfig(models=())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.grpc.port = 1  # type: ignore[misc]  # that is the point


def test_the_table_has_a_row_for_every_setting() -> None:
    table = settings_table()

    for entry in DECLARED:
        (row,) = [line for line in table.splitlines() if f"--{entry.setting.flag}`" in line]
        assert entry.setting.meaning in row
        assert entry.setting.environment in row
