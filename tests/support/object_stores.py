# SPDX-License-Identifier: Apache-2.0
"""Object stores of this machine for the tests, each as the real thing for those who talk its protocol."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from tests.support.server import free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

START_WITHIN_S = 60.0
BUCKET = "models"
ACCOUNT = "devstoreaccount1"
INSTALL = "tests/support/emulators/install"
_GCS = (
    "from gcp_storage_emulator import __main__, storage\n"
    "storage.Storage._write_config_to_file = lambda _: None\n"
    "__main__.main()"
)
"""Without its list of all objects, which it writes anew at each change, though it is in memory, too."""
_MOTO = (
    "from moto import server\n"
    "from moto.s3.models import FakeKey\n"
    "write = FakeKey.value.fset\n"
    "def written(key, content):\n"
    "    write(key, content)\n"
    "    key.etag\n"
    "FakeKey.value = FakeKey.value.setter(written)\n"
    "server.main()"
)
"""With each ETag made by who writes: made by two readers at once it is wrong, and stays so."""
_EMULATORS = Path(__file__).parents[2] / ".emulators"
_PROGRAMS = (_EMULATORS / "node_modules/.bin", _EMULATORS / "venv/bin")


class ObjectStore:
    """A store with the bucket ``models``; who writes to it has a library of the provider's.

    Attributes:
        port: Where it listens.
        scheme: Of its URLs.
        secret: What may not be said.
        why_no_locks: Why it refuses nobody who has the wrong credentials; empty where it does.
        is_forgetful: Whether it has nothing any more when it is started again.
        has_any_names: Whether an object may have any name.
    """

    scheme: ClassVar[str]
    secret: ClassVar[str]
    why_no_locks: ClassVar[str] = ""
    is_forgetful: ClassVar[bool] = False
    has_any_names: ClassVar[bool] = True

    def __init__(self, port: int, directory: Path) -> None:
        """Prepare.

        Args:
            port: Where to listen.
            directory: Where to keep what it has.
        """
        self.port = port
        self._directory = directory
        self._kept: dict[str, bytes] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, port: int) -> dict[str, str]:
        """What a server needs that reaches it by this port."""
        raise NotImplementedError

    def wrong_environment(self, port: int) -> dict[str, str]:
        """The same with credentials that are none."""
        return self.environment(port)

    def make_bucket(self) -> None:
        """Once."""
        raise NotImplementedError

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects by key."""
        if self.is_forgetful:
            self._kept.update(objects)
        self.write(objects)

    def write(self, objects: Mapping[str, bytes]) -> None:
        """Do that."""
        raise NotImplementedError

    def remove(self, prefix: str) -> None:
        """Remove all objects whose keys begin so."""
        self._kept = {key: content for key, content in self._kept.items() if not key.startswith(prefix)}
        self.delete(prefix)

    def delete(self, prefix: str) -> None:
        """Do that."""
        raise NotImplementedError

    def put_many(self, prefix: str, count: int) -> None:
        """Write tiny objects, without a library, which would take longer than the store."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            for number in range(count):
                method, path, headers = self.upload(f"{prefix}{number}")
                connection.request(method, path, b"x", headers)
                with connection.getresponse() as reply:
                    assert reply.status in (200, 201), reply.read()
                    reply.read()

    def upload(self, key: str) -> tuple[str, str, dict[str, str]]:
        """The request that writes an object: method, path and headers."""
        raise NotImplementedError

    def put_version(self, source: Path, prefix: str, version: int) -> None:
        """Write a version directory."""
        self.put({f"{prefix}/{version}/{path.name}": path.read_bytes() for path in sorted(source.iterdir())})

    @classmethod
    @contextlib.contextmanager
    def running(cls, directory: Path) -> Iterator[Self]:
        """One that is started, with the bucket."""
        (port,) = free_ports(1)
        store = cls(port, directory)
        try:
            store.start()
            store.make_bucket()
            yield store
        finally:
            store.kill()

    def start(self) -> None:
        """Start the process."""
        with (self._directory / "store.log").open("a") as log:
            self._process = subprocess.Popen(
                self.command(self._directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
            )
        eventually(self._listens, START_WITHIN_S, f"{type(self).__name__} listens")

    def kill(self) -> None:
        """End it as a machine does that goes down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def come_back(self) -> None:
        """Start it again, with what was put there."""
        self.start()
        if self.is_forgetful:
            self.make_bucket()
            self.write(self._kept)

    def command(self, directory: Path) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    @classmethod
    def is_installed(cls) -> bool:
        """Whether it can be started."""
        raise NotImplementedError

    def _listens(self) -> bool:
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.port)) == 0


class Moto(ObjectStore):
    """S3 by moto's server, which keeps objects in memory."""

    scheme = "s3"
    why_no_locks = "moto's server takes any credentials"
    is_forgetful = True
    key: ClassVar[str] = "moto-key"
    secret = "moto-secret-of-mine"  # noqa: S105  # of a store on this machine

    def environment(self, port: int) -> dict[str, str]:
        return {
            "S3_ENDPOINT": f"127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        import boto3
        from botocore.config import Config

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
        with self._client() as client:
            client.create_bucket(Bucket=BUCKET)

    def write(self, objects: Mapping[str, bytes]) -> None:
        with self._client() as client:
            for key, content in objects.items():
                client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def delete(self, prefix: str) -> None:
        with self._client() as client:
            listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            for entry in listed.get("Contents", ()):
                client.delete_object(Bucket=BUCKET, Key=entry["Key"])

    def upload(self, key: str) -> tuple[str, str, dict[str, str]]:
        return "PUT", f"/{BUCKET}/{key}", {"Content-Type": "binary/octet-stream"}

    def command(self, directory: Path) -> list[str]:
        return [sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(self.port)]

    @classmethod
    def is_installed(cls) -> bool:
        return importlib.util.find_spec("moto") is not None


class S3rver(Moto):
    """S3 by s3rver of npm, which knows one pair of credentials, and keeps objects as files."""

    why_no_locks = ""
    is_forgetful = False

    key = "S3RVER"
    secret = "S3RVER"  # noqa: S105  # as above
    has_any_names = False

    def wrong_environment(self, port: int) -> dict[str, str]:
        return {
            **self.environment(port),
            "AWS_ACCESS_KEY_ID": "wrong-key-of-mine",
            "AWS_SECRET_ACCESS_KEY": "wrong-secret-of-mine",
        }

    def command(self, directory: Path) -> list[str]:
        return [
            # It makes the tokens of its pages by a cipher that newer Nodes have put aside.
            *("/usr/bin/env", "NODE_OPTIONS=--openssl-legacy-provider"),
            *(_program("s3rver"), "-d", str(directory), "-a", "127.0.0.1", "-p", str(self.port)),
        ]

    @classmethod
    def is_installed(cls) -> bool:
        return bool(_program("s3rver"))


class Gcs(ObjectStore):
    """Google Cloud Storage by gcp-storage-emulator."""

    scheme = "gs"
    why_no_locks = "gcp-storage-emulator asks for no credentials"
    is_forgetful = True
    secret = "no-secret-at-all"  # noqa: S105  # as above

    def environment(self, port: int) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        endpoint = {"api_endpoint": f"http://127.0.0.1:{self.port}"}
        client = storage.Client("test", AnonymousCredentials(), client_options=endpoint)
        with contextlib.closing(client):
            yield client

    def make_bucket(self) -> None:
        with self._client() as client:
            client.create_bucket(BUCKET)

    def write(self, objects: Mapping[str, bytes]) -> None:
        with self._client() as client:
            for key, content in objects.items():
                client.bucket(BUCKET).blob(key).upload_from_string(content)

    def delete(self, prefix: str) -> None:
        with self._client() as client:
            for blob in list(client.list_blobs(BUCKET, prefix=prefix)):
                blob.delete()

    def upload(self, key: str) -> tuple[str, str, dict[str, str]]:
        path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(key, safe='')}"
        return "POST", path, {"Content-Type": "application/octet-stream"}

    def command(self, directory: Path) -> list[str]:
        return [
            *(_program("python"), "-c", _GCS, "start", "--host", "127.0.0.1", "--port", str(self.port)),
            "--in-memory",  # On disk not every name is possible.
        ]

    @classmethod
    def is_installed(cls) -> bool:
        return bool(_program("gcp-storage-emulator")) and importlib.util.find_spec("google.cloud") is not None


class Azurite(ObjectStore):
    """Azure Blob Storage by azurite of npm, with the account that all of them have."""

    scheme = "az"
    secret = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # noqa: S105

    def environment(self, port: int) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self._connection(port, self.secret)}

    def wrong_environment(self, port: int) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self._connection(port, "d3Jvbmctc2VjcmV0LW9mLW1pbmU=")}

    @staticmethod
    def _connection(port: int, key: str) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        from azure.storage.blob import ContainerClient

        with ContainerClient.from_connection_string(
            self._connection(self.port, self.secret), BUCKET
        ) as client:
            yield client

    def make_bucket(self) -> None:
        with self._client() as client:
            client.create_container()

    def write(self, objects: Mapping[str, bytes]) -> None:
        with self._client() as client:
            for key, content in objects.items():
                client.upload_blob(key, content, overwrite=True)

    def delete(self, prefix: str) -> None:
        with self._client() as client:
            for blob in list(client.list_blobs(name_starts_with=prefix)):
                client.delete_blob(blob.name)

    @cached_property
    def _signature(self) -> str:
        from azure.storage.blob import generate_container_sas

        until = datetime.now(UTC) + timedelta(hours=1)
        return str(
            generate_container_sas(ACCOUNT, BUCKET, self.secret, permission="cw", expiry=until, start=None)
        )

    def upload(self, key: str) -> tuple[str, str, dict[str, str]]:
        return "PUT", f"/{ACCOUNT}/{BUCKET}/{key}?{self._signature}", {"x-ms-blob-type": "BlockBlob"}

    def command(self, directory: Path) -> list[str]:
        return [
            _program("azurite-blob"),
            *("--blobPort", str(self.port), "--location", str(directory)),
            *("--skipApiVersionCheck", "--disableTelemetry", "--silent"),
        ]

    @classmethod
    def is_installed(cls) -> bool:
        return bool(_program("azurite-blob")) and importlib.util.find_spec("azure.storage") is not None


def _program(name: str) -> str:
    """A program that ``tests/support/emulators/install`` has installed; empty where it is not there."""
    return shutil.which(name, path=os.pathsep.join(map(str, _PROGRAMS))) or ""
