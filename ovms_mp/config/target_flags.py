# SPDX-License-Identifier: Apache-2.0
"""Flags of commands that ask a server: how it is trusted, and by which key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovms_mp.errors import ConfigError
from ovms_mp.files import read_regular, refusal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ovms_mp.config.argument_parser import Parser

KEY_VARIABLE = "OVMS_MP_API_KEY"
_MOST_KEY_BYTES = 1 << 20


def add_target_flags(parser: Parser | argparse._ArgumentGroup) -> None:
    """Declare what says how a server's ports are spoken to."""
    parser.add_argument(
        "--api_key",
        metavar="KEY",
        help=f"key for a server with --api_key_file, or @FILE to read it from; variable {KEY_VARIABLE}",
    )
    parser.add_argument(
        "--tls_ca", metavar="FILE", help="certificate of the authority of a server that speaks TLS"
    )
    parser.add_argument("--tls_cert", metavar="FILE", help="certificate for a server that asks for one")
    parser.add_argument("--tls_key", metavar="FILE", help="private key of --tls_cert")


def read_key(given: Mapping[str, str | None], environment: Mapping[str, str]) -> str:
    """The API key: a file's is the last word of its first line that has one, as the server reads it.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    text = given["api_key"]
    source = "--api_key"
    if text is None:
        text, source = environment.get(KEY_VARIABLE, ""), KEY_VARIABLE
    if text.startswith("@"):
        text = key_of_file(text[1:], source)
    if text and not (text.isascii() and text.isprintable() and " " not in text):
        raise ConfigError(f"{source}: a key has letters, digits and signs of ASCII, without spaces")
    return text


def key_of_file(path: str, source: str) -> str:
    """The first key of a file of keys.

    Raises:
        ConfigError: It cannot be read, or has none.
    """
    try:
        lines = read_regular(path, _MOST_KEY_BYTES).decode("ascii", "replace").splitlines()
    except (OSError, ValueError) as error:
        reason = refusal(path, error) if isinstance(error, OSError) else error
        raise ConfigError(f"{source} {path}: {reason}") from None
    for line in lines:
        words = line.split()
        if words and not words[0].startswith("#"):
            return words[-1]
    raise ConfigError(f"{source} {path}: there is no key in it")
