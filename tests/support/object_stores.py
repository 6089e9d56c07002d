# SPDX-License-Identifier: Apache-2.0
"""Object stores of this machine for the tests, each as the real thing for those who talk its protocol."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from tests.support.server import free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_WITHIN_S = 60.0
BUCKET = "models"


@dataclass(frozen=True)
class ObjectStore:
    """A store with the bucket ``models``.

    Attributes:
        scheme: Of its URLs.
        port: Where it listens.
        key: Access key.
        secret: What belongs to it.
        has_locks: Whether it refuses who has the wrong credentials.
        has_any_names: Whether an object may have any name.
    """

    scheme: str
    port: int
    key: str
    secret: str
    has_locks: bool
    has_any_names: bool = True

    def environment(self, port: int) -> dict[str, str]:
        """What a server needs that reaches it by this port."""
        return {
            "S3_ENDPOINT": f"127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }

    def wrong_environment(self, port: int) -> dict[str, str]:
        """The same with credentials that are none."""
        return {**self.environment(port), "AWS_SECRET_ACCESS_KEY": "wrong-secret-of-mine"}

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )
        with contextlib.closing(client):
            yield client

    def make_bucket(self) -> None:
        """Once."""
        with self._client() as client:
            client.create_bucket(Bucket=BUCKET)

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects by key."""
        with self._client() as client:
            for key, content in objects.items():
                client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def put_version(self, source: Path, prefix: str, version: int) -> None:
        """Write a version directory."""
        self.put({f"{prefix}/{version}/{path.name}": path.read_bytes() for path in sorted(source.iterdir())})

    def remove(self, prefix: str) -> None:
        """Remove all objects whose keys begin so."""
        with self._client() as client:
            listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            for entry in listed.get("Contents", ()):
                client.delete_object(Bucket=BUCKET, Key=entry["Key"])


def has_moto() -> bool:
    """Whether moto's server is installed."""
    return importlib.util.find_spec("moto") is not None


def s3rver() -> str | None:
    """The program s3rver of npm, if it is installed: by ``S3RVER``, or on the path."""
    return os.environ.get("S3RVER") or shutil.which("s3rver")


@contextlib.contextmanager
def moto_store(_directory: Path) -> Iterator[ObjectStore]:
    """S3 by moto, which takes any credentials."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(
        command, ObjectStore("s3", port, "moto-key", "moto-secret-of-mine", has_locks=False)
    ) as store:
        yield store


@contextlib.contextmanager
def s3rver_store(directory: Path) -> Iterator[ObjectStore]:
    """S3 by s3rver, which knows one pair of credentials."""
    (port,) = free_ports(1)
    command = [s3rver() or "s3rver", "-d", str(directory / "s3rver"), "-a", "127.0.0.1", "-p", str(port)]
    (directory / "s3rver").mkdir()
    with _running(
        command, ObjectStore("s3", port, "S3RVER", "S3RVER", has_locks=True, has_any_names=False)
    ) as store:
        yield store


@contextlib.contextmanager
def _running(command: list[str], store: ObjectStore) -> Iterator[ObjectStore]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            eventually(lambda: _listens(store.port), START_WITHIN_S, f"{command[0]} listens")
            store.make_bucket()
            yield store
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0
