# SPDX-License-Identifier: Apache-2.0
"""Files of keys. A key is kept as its SHA-256 only, from the moment when its line has been read.

Of each line that is not empty and does not begin with ``#`` the last word is a key, and the one before it, if there is
one, its name in the log. So a file of OVMS, which is one key, is one here, too.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass

from ovms_mp.errors import ConfigError
from ovms_mp.files import read_regular, refusal

_MOST_BYTES = 1 << 20
_MOST_KEYS = 1000
_LONGEST_KEY = 512
_USUAL_LENGTH = 16
"""Shorter keys can be guessed."""
_KEY = re.compile(rb"[\x21-\x7e]+")
_NAME = re.compile(rb"[A-Za-z0-9._@+-]{1,64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients may send.

    Attributes:
        name: For the log.
        digest: Its SHA-256.
    """

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of keys.

    Attributes:
        keys: In the file's order; at least one.
        remarks: What is not good about the file.
    """

    keys: tuple[ApiKey, ...]
    remarks: tuple[str, ...]


def read_keys(path: str, flag: str) -> KeyFile:
    """Read a file of keys.

    Args:
        path: Where it is.
        flag: The setting that names it.

    Raises:
        ConfigError: It cannot be read, has no key, or a line that is none: with the line's number, never its content.
    """
    place = f"--{flag} {path}"
    try:
        content = read_regular(path, _MOST_BYTES)
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{place}: {refusal(path, error)}") from None
    remarks = []
    if mode & stat.S_IROTH:
        remarks.append(
            f"{place} can be read by every user of this machine (mode {stat.S_IMODE(mode):04o}); chmod o-r"
        )
    keys: dict[bytes, tuple[int, ApiKey]] = {}
    names: dict[str, int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        key = _read_line(words, number, place)
        if key.digest in keys:
            raise ConfigError(f"{place}: line {number} has the same key as line {keys[key.digest][0]}")
        if key.name in names:
            raise ConfigError(f"{place}: line {number} has the same name as line {names[key.name]}")
        if len(keys) == _MOST_KEYS:
            raise ConfigError(
                f"{place}: line {number} is one key more than the {_MOST_KEYS} that are accepted"
            )
        if len(words[-1]) < _USUAL_LENGTH:
            remarks.append(
                f"{place}: the key of line {number} has less than {_USUAL_LENGTH} characters and can be guessed"
            )
        keys[key.digest], names[key.name] = (number, key), number
    if not keys:
        raise ConfigError(f"{place} has no key; give one a line, e.g. what `openssl rand -hex 32` prints")
    return KeyFile(tuple(key for _, key in keys.values()), tuple(remarks))


def _read_line(words: list[bytes], number: int, place: str) -> ApiKey:
    """A line's key.

    Raises:
        ConfigError: It is none.
    """
    if len(words) > 2:
        raise ConfigError(
            f"{place}: line {number} has {len(words)} words; accepted: KEY, or NAME KEY; a comment begins with # in a "
            f"line of its own"
        )
    key = words[-1]
    if not _KEY.fullmatch(key):
        raise ConfigError(f"{place}: the key of line {number} has a character that is not visible ASCII")
    if len(key) > _LONGEST_KEY:
        raise ConfigError(
            f"{place}: the key of line {number} has {len(key)} characters; accepted: at most {_LONGEST_KEY}"
        )
    if len(words) == 1:
        return ApiKey(f"line-{number}", hashlib.sha256(key).digest())
    if not _NAME.fullmatch(words[0]):
        raise ConfigError(
            f"{place}: the name of line {number} is none; accepted: up to 64 letters, digits and .@+_-"
        )
    if len(key) < _USUAL_LENGTH <= len(words[0]):
        # SAFETY: taken as it stands, the key would be in the log, and its user's name let everybody in.
        raise ConfigError(
            f"{place}: line {number} has a word of {len(words[0])} characters before one of {len(key)}; the name comes "
            f"first, then the key"
        )
    return ApiKey(words[0].decode(), hashlib.sha256(key).digest())
