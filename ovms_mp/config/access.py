# SPDX-License-Identifier: Apache-2.0
"""Settings of who may call what: keys, origins of web pages, proxies; see :mod:`ovms_mp.config.server`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ovms_mp.config.api_keys import read_keys
from ovms_mp.config.setting import SWITCH, Setting, declare
from ovms_mp.errors import ConfigError

ANY = "*"
UNIX_PEERS = "unix"
"""In the list of trusted proxies: whoever connects by a Unix socket."""

_ORIGIN = re.compile(r"(?:[a-z][a-z0-9+.-]*://[^\s/?#@,*]+|null)")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Who may call what, over either protocol."""

    api_key_file: str = declare(
        "",
        Setting(
            "api_key_file",
            "File of the keys that clients must send (`authorization: Bearer KEY`) for everything but probes of "
            "health; one a line, with a name before it if it shall have one in the log. Read again when it changes.",
            is_path=True,
        ),
    )
    admin_api_key_file: str = declare(
        "",
        Setting(
            "admin_api_key_file",
            "File of the keys for what changes the server: reloads, loading and unloading models, shared memory, "
            "settings of the log and of tracing. They are good for everything else, too. Without it the keys of "
            "api_key_file are good for that.",
            is_path=True,
        ),
    )
    trusted_proxies: str = declare(
        "",
        Setting(
            "trusted_proxies",
            "Networks of the proxies whose X-Forwarded-For or Forwarded headers are believed, separated by commas, "
            "e.g. 10.0.0.0/8; unix is whoever connects by a Unix socket.",
        ),
    )
    allowed_origins: str = declare(
        ANY,
        Setting(
            "allowed_origins",
            "Origins whose web pages may read answers (CORS), separated by commas, e.g. https://app.example.com; * is "
            "every origin, which may not change the server then, and an empty string none.",
        ),
    )
    allowed_methods: str = declare(
        ANY,
        Setting(
            "allowed_methods",
            "HTTP methods that web pages of these origins may use, separated by commas; * is all.",
        ),
    )
    allowed_headers: str = declare(
        ANY,
        Setting(
            "allowed_headers",
            "Headers that web pages of these origins may send, separated by commas; * is all.",
        ),
    )
    allow_credentials: bool = declare(
        False,
        Setting(
            "allow_credentials",
            "Let web pages of these origins send what the browser knows its user by, e.g. cookies for a proxy.",
            choices=SWITCH,
        ),
    )

    @property
    def proxies(self) -> tuple[str, ...]:
        """Networks of trusted proxies, and :data:`UNIX_PEERS`."""
        return _parts(self.trusted_proxies)

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins in lower case, as browsers send them."""
        return tuple(origin.lower() for origin in _parts(self.allowed_origins))

    @property
    def methods(self) -> tuple[str, ...]:
        """HTTP methods in upper case."""
        return tuple(method.upper() for method in _parts(self.allowed_methods))

    @property
    def headers(self) -> tuple[str, ...]:
        """Names of headers."""
        return _parts(self.allowed_headers)


def check_access(access: AccessConfig, rest_prefix: str, *, has_rest: bool) -> tuple[str, ...]:
    """Refuse settings that mean nothing; what their user should know.

    Raises:
        ConfigError: Naming the flag and what is accepted.
    """
    _check_origins(access)
    for proxy in access.proxies:
        _check_proxy(proxy)
    if rest_prefix and not _PREFIX.fullmatch(rest_prefix):
        raise ConfigError(
            f"--rest_prefix {rest_prefix}: accepted: a path of letters, digits and -._~ that begins with a slash and "
            f"does not end with one, e.g. /models"
        )
    if rest_prefix and not has_rest:
        raise ConfigError("--rest_prefix needs a REST server; give --rest_port")
    notices: list[str] = []
    for flag, path in (
        ("api_key_file", access.api_key_file),
        ("admin_api_key_file", access.admin_api_key_file),
    ):
        if path:
            notices += read_keys(path, flag).remarks
    return tuple(notices)


def _check_origins(access: AccessConfig) -> None:
    for origin in access.origins:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"--allowed_origins: {origin!r} is no origin; accepted: *, or scheme and host without a path, e.g. "
                f"https://app.example.com:8443"
            )
    if ANY in access.origins and len(access.origins) > 1:
        raise ConfigError("--allowed_origins: * stands alone, as it is every origin")
    if access.allow_credentials and (ANY in access.origins or not access.origins):
        raise ConfigError(
            "--allow_credentials needs --allowed_origins with the origins by name; browsers refuse it together with *"
        )
    for flag, words in (("allowed_methods", access.methods), ("allowed_headers", access.headers)):
        for word in words:
            if not _TOKEN.fullmatch(word):
                raise ConfigError(f"--{flag}: {word!r} is not one; accepted: *, or names separated by commas")


def _check_proxy(proxy: str) -> None:
    if proxy == UNIX_PEERS:
        return
    try:
        ipaddress.ip_network(proxy)
    except ValueError as error:
        raise ConfigError(
            f"--trusted_proxies: {error}; accepted: addresses, networks such as 10.0.0.0/8 or fd00::/8, and "
            f"{UNIX_PEERS}"
        ) from None


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
