# SPDX-License-Identifier: Apache-2.0
"""The container image, built from its Dockerfile by buildah over a Debian that debootstrap makes. Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_BUILDAH = "buildah"
TOOLS = (_BUILDAH, "debootstrap", "unshare", "nsenter")
CHECKOUT = Path(__file__).parents[2]
DOCKERFILE = CHECKOUT / "deploy" / "docker" / "Dockerfile"
_SUITE = "bookworm"
_BASE, _IMAGE = "localhost/ovms_mp-test-base", "localhost/ovms_mp-test"
_LIMIT_S = 900.0
_MOUNT = ("mount", "-t", "tmpfs", "-o", "mode=755,size=4g", "tmpfs")
_UNMOUNT = ("umount", "--recursive")
_MAKE_BASE = f"""
debootstrap --variant=minbase {_SUITE} "$1" >&2
rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* "$1"/usr/share/doc/* "$1"/usr/share/man/* \
    "$1"/usr/share/locale/*
tar -C "$1" -cf "$2" .
"""


def missing_tools() -> str:
    """Why no image can be built here; empty where it can."""
    if os.geteuid() != 0:
        return "only root builds and runs images here"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Image:
    """An image that was built, unpacked.

    Attributes:
        root: Its files.
        base_bytes: Size of its base.
        settings: What ``docker inspect`` calls its Config.
    """

    root: Path
    base_bytes: int
    settings: Mapping[str, Any]
    store: Store
    container: str


class Store:
    """Images and containers below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, *arguments: str) -> str:
        """Run buildah; what it prints. Its log is in the error if it fails."""
        storage = ("--root", str(self._directory / "images"), "--runroot", str(self._directory / "run"))
        done = subprocess.run(
            [_BUILDAH, *storage, "--storage-driver", "vfs", *arguments],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
            cwd=CHECKOUT,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done.stdout.strip()


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A directory in memory, as buildah and dpkg wait for the disk again and again."""
    directory = Path(tempfile.mkdtemp(prefix="ovms_mp-image-"))
    subprocess.run([*_MOUNT, str(directory)], check=True, timeout=_LIMIT_S)
    try:
        yield directory
    finally:
        subprocess.run([*_UNMOUNT, str(directory)], check=True, timeout=_LIMIT_S)
        directory.rmdir()


def build(directory: Path, cache: Path) -> Image:
    """Build and unpack it.

    Args:
        directory: For everything that is made; the caller removes it. Programs in it must be allowed to run.
        cache: Where the base is kept for the next time.
    """
    store = Store(directory)
    base = _base_archive(cache, directory)
    (directory / "Dockerfile").write_text(f"FROM scratch\nADD {base.name} /\n")
    _build(store, _BASE, directory / "Dockerfile", base.parent, ())
    # A proxy's CA, which the machine is told of by one of these.
    ca = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    options = [f"--ignorefile={DOCKERFILE}.dockerignore", f"--build-arg=BASE_IMAGE={_BASE}"]
    if ca:
        options.append(f"--secret=id=ca,src={ca}")
    _build(store, _IMAGE, DOCKERFILE, CHECKOUT, options)
    container = store.run("from", "--pull-never", _IMAGE)
    described = json.loads(store.run("inspect", "--type", "image", _IMAGE))
    base_container = store.run("from", "--pull-never", _BASE)
    return Image(
        root=Path(store.run("mount", container)),
        base_bytes=size_bytes(Path(store.run("mount", base_container))),
        settings=described["Docker"]["config"],
        store=store,
        container=container,
    )


def _build(store: Store, name: str, file: Path, context: Path, options: Sequence[str]) -> None:
    # Docker's format, as OCI's has no health check.
    how = ("--isolation=chroot", "--format=docker", f"--file={file}", f"--tag={name}")
    store.run("build", *how, *options, str(context))


def _base_archive(cache: Path, directory: Path) -> Path:
    """Debian as an archive, made once."""
    archive = cache / f"{_SUITE}.tar"
    if not archive.exists():
        root = directory / "base"
        root.mkdir()
        half_done = archive.with_suffix(".part")
        command = ["sh", "-ec", _MAKE_BASE, "sh", str(root), str(half_done)]
        subprocess.run(command, check=True, timeout=_LIMIT_S)
        half_done.rename(archive)
        shutil.rmtree(root)
    return archive


def size_bytes(root: Path) -> int:
    """What the files below take, each counted once."""
    seen: dict[tuple[int, int], int] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            state = os.lstat(os.path.join(directory, name))
            seen[state.st_dev, state.st_ino] = state.st_size
    return sum(seen.values())
