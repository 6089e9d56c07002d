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

_EDITING = "OVMS edits its configuration file by it; edit the file, and see `ovms_mp config --check FILE`"
_PULLING = "OVMS downloads generative models by it; put a model into a directory and give --model_path"

REFUSED_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "list_models": _EDITING,
        "add_to_config": _EDITING,
        "remove_from_config": _EDITING,
        "model_repository_path": _EDITING,
        "pull": _PULLING,
        "source_model": _PULLING,
        "task": _GENERATIVE,
    }
)
"""Why each cannot be had, and what to do instead."""


def add_ovms_flags(parser: argparse.ArgumentParser) -> None:
    """Declare them all; help does not list them."""
    for flag in (*IGNORED_FLAGS, *REFUSED_FLAGS):
        parser.add_argument(f"--{flag}", help=argparse.SUPPRESS, nargs="?", const="true")


def take_ovms_flags(given: Mapping[str, str | None], notices: list[str]) -> None:
    """Note those that were given and have no effect.

    Raises:
        ConfigError: One was given that asks for what this server does not have.
    """
    for flag, reason in REFUSED_FLAGS.items():
        if given.get(flag) not in (None, ""):
            raise ConfigError(f"--{flag} is not supported: {reason}")
    notices.extend(
        f"--{flag} has no effect: {reason}"
        for flag, reason in IGNORED_FLAGS.items()
        if given.get(flag) is not None
    )
