# SPDX-License-Identifier: Apache-2.0
"""URLs of object stores that models may come from. Pure.

``s3://bucket/path``, ``s3://host:port/bucket/path``, ``gs://bucket/path``, ``az://container/path`` (``azure://``, too)
and ``azfs://share/path``, as OVMS has them. Credentials come from the environment and never from a URL.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ovms_mp.errors import ConfigError

SCHEMES = ("s3", "gs", "az", "azfs", "azure")
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}")
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]{0,254}")
_FORMS = {
    "s3": "s3://bucket/path or s3://host:port/bucket/path",
    "gs": "gs://bucket/path",
    "az": "az://container/path",
    "azfs": "azfs://share/path",
}
_READABLE = 64
FILE_NAME = "config.json"
"""What a single object is named in its mirror."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A base path in an object store.

    Attributes:
        scheme: ``s3``, ``gs``, ``az`` or ``azfs``.
        bucket: Bucket, container or share.
        path: Below it, without slashes at its ends; empty for all of it.
        endpoint: ``host:port`` of a store other than the provider's; empty for none in the URL.
    """

    scheme: str
    bucket: str
    path: str
    endpoint: str = ""

    def __str__(self) -> str:
        """The URL."""
        return "/".join(filter(None, (f"{self.scheme}:/", self.endpoint, self.bucket, self.path)))

    def beside(self, path: str) -> StoreUrl:
        """What a relative path means in a file of this URL.

        Raises:
            ConfigError: It cannot be in a store.
        """
        directory = self.path.rpartition("/")[0]
        return parse_store_url(str(replace(self, path="/".join(filter(None, (directory, path))))))

    def mirror_of(self, model: str) -> str:
        """Name of the directory that a model's versions are downloaded to: something for people, and a hash.

        Each model has its own, as models with the same URL may want different versions of it. The configuration file's
        is that of a model without a name.
        """
        parts = [self.scheme, self.bucket, self.path.rpartition("/")[2]]
        readable = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(filter(None, parts)))[:_READABLE]
        digest = hashlib.sha256(f"{self}\n{model}".encode()).hexdigest()
        return f"{readable}-{digest[:16]}"

    def file_in(self, store_dir: str) -> Path:
        """Where the object of this URL is mirrored, if it is a file of its own: as a model's version 1 would be."""
        return Path(store_dir, self.mirror_of(""), "1", FILE_NAME)


def is_url(text: str) -> bool:
    """Whether a path has a scheme."""
    return "://" in text


def parse_store_url(text: str) -> StoreUrl:
    """Read a URL.

    Raises:
        ConfigError: Why it is none, without what may be a secret in it.
    """
    scheme, _, rest = text.partition("://")
    scheme = "az" if scheme.lower() == "azure" else scheme.lower()
    form = _FORMS.get(scheme)
    if form is None:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"only {known} and paths on this machine are served")
    authority, _, path = rest.partition("/")
    if "@" in authority or "?" in rest:
        raise ConfigError("credentials must not be in the URL; give them by environment variables")
    endpoint = ""
    if scheme == "s3" and _ENDPOINT.fullmatch(authority):
        endpoint = authority
        authority, _, path = path.partition("/")
    if not _BUCKET.fullmatch(authority):
        raise ConfigError(f"the form is {form}")
    path = path.strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise ConfigError("its path has an empty part, `.` or `..`")
    if not path.isprintable():
        raise ConfigError("its path has a character that cannot be printed")
    return StoreUrl(scheme, authority, path, endpoint)


def without_secrets(text: str) -> str:
    """A URL as messages may show it, also where it is malformed."""
    scheme, slashes, rest = text.partition("://")
    if not slashes:
        return text
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
