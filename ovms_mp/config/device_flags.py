# SPDX-License-Identifier: Apache-2.0
"""The flags of ``ovms_mp devices``, read by the command line and again by the process that it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.config.argument_parser import Parser
from ovms_mp.places import absolute_path

if TYPE_CHECKING:
    from collections.abc import Sequence

PROG = "ovms_mp devices"
_FLAGS = {
    "model": ("FILE", "model file, version directory or base path to compile on each device"),
    "target_device": ("DEVICE", "only this device, e.g. AUTO:GPU,CPU"),
    "plugins_xml": ("XML", "OpenVINO's plugins.xml that registers further devices"),
    "cpu_extension": ("LIBRARY", "shared library with custom operations for the CPU"),
}
_PATHS = ("model", "plugins_xml", "cpu_extension")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceQuery:
    """What is asked about the devices; each is empty where it is not given."""

    model: str = ""
    target_device: str = ""
    plugins_xml: str = ""
    cpu_extension: str = ""

    def arguments(self) -> list[str]:
        """The flags that say the same."""
        given = ((flag, getattr(self, flag)) for flag in _FLAGS)
        return [word for flag, value in given if value for word in (f"--{flag}", value)]


def device_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog=PROG,
        description="Show the devices that OpenVINO finds on this machine, what those lack that it does not find, and "
        "what AUTO would choose.",
        examples=(
            ("what there is", "ovms_mp devices"),
            ("what each would do with a model", "ovms_mp devices --model models/resnet"),
            ("only what AUTO would", "ovms_mp devices --model models/resnet --target_device AUTO:GPU,CPU"),
        ),
    )
    for flag, (metavar, text) in _FLAGS.items():
        parser.add_argument(f"--{flag}", default="", metavar=metavar, help=text)
    return parser


def read_device_flags(arguments: Sequence[str]) -> DeviceQuery:
    """Read the flags; paths become absolute.

    Raises:
        ConfigError: A flag is unknown, or a path is not valid.
        EarlyExit: Help was asked for and printed.
    """
    given = device_parser().read(arguments)
    for flag in _PATHS:
        if given[flag]:
            given[flag] = str(absolute_path(given[flag], f"--{flag}"))
    return DeviceQuery(**given)
