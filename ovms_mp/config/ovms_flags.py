# SPDX-License-Identifier: Apache-2.0
"""Flags of OVMS's newer generations that this server has no use for: taken with a notice, or refused with the reason.

A flag that tunes what does not exist here changes no answer and is ignored with a notice, so that a command line of
OVMS works unchanged. A flag that asks for another kind of server, or for protection, is refused.
"""

from __future__ import annotations

import argparse
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_GRPC_LIBRARY = "it tunes the gRPC library of OVMS"
_GENERATIVE = "it belongs to generative models, which are not served"

IGNORED_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "grpc_channel_arguments": _GRPC_LIBRARY,
        "grpc_max_threads": _GRPC_LIBRARY + "; gRPC front processes are set by --grpc_workers",
        "grpc_memory_quota": _GRPC_LIBRARY + "; memory is bounded by --arena_size_mb and --max_message_mb",
        "sequence_cleaner_poll_wait_minutes": "it belongs to stateful models, which are not supported",
        "custom_node_resources_cleaner_interval_seconds": "it belongs to pipelines, which are not supported",
        "verbose_response": _GENERATIVE,
        "allowed_media_domains": _GENERATIVE,
        "allowed_local_media_path": _GENERATIVE,
    }
)
"""What to say of each."""

_PULLING = "OVMS downloads generative models by it; put a model into a directory and give --model_path"

REFUSED_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "pull": _PULLING,
        "source_model": _PULLING,
        "task": _GENERATIVE,
    }
)
"""Why each cannot be had, and what to do instead."""


EDITING_FLAGS = ("list_models", "add_to_config", "remove_from_config")
"""What OVMS does instead of serving: :mod:`ovms_mp.commands.edit`."""
REPOSITORY_FLAG = "model_repository_path"
"""Where models lie for those."""


def add_ovms_flags(parser: argparse.ArgumentParser) -> None:
    """Declare them all; help does not list them."""
    for flag in (*IGNORED_FLAGS, *REFUSED_FLAGS, *EDITING_FLAGS, REPOSITORY_FLAG):
        parser.add_argument(f"--{flag}", help=argparse.SUPPRESS, nargs="?", const="true")


def is_edit(given: Mapping[str, str | None]) -> bool:
    """Whether one of :data:`EDITING_FLAGS` asks for something."""
    return any(given.get(flag) not in (None, "", "false") for flag in EDITING_FLAGS)


def take_ovms_flags(given: Mapping[str, str | None], notices: list[str]) -> None:
    """Note those that were given and have no effect.

    Raises:
        ConfigError: One was given that asks for what this server does not have.
    """
    for flag, reason in REFUSED_FLAGS.items():
        if given.get(flag) not in (None, ""):
            raise ConfigError(f"--{flag} is not supported: {reason}")
    if given.get(REPOSITORY_FLAG) not in (None, ""):
        raise ConfigError(
            f"--{REPOSITORY_FLAG} is for --{', --'.join(EDITING_FLAGS)}; to serve give --model_path, or --config_path"
        )
    notices.extend(
        f"--{flag} has no effect: {reason}"
        for flag, reason in IGNORED_FLAGS.items()
        if given.get(flag) is not None
    )
