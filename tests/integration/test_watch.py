# SPDX-License-Identifier: Apache-2.0
"""Hints from the real kernel's inotify: everything that a look would find is told, and noise is not.

The kernel queues an event before the system call that caused it returns, so a test need not wait for one: it asks at
once, and silence is silence.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovms_mp.storage.local import list_versions
from ovms_mp.storage.watch import RepositoryWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = b"model"


@pytest.fixture
def watch() -> Iterator[RepositoryWatch]:
    with RepositoryWatch() as found:
        yield found


def has_event(watch: RepositoryWatch) -> bool:
    """Whether the descriptor is readable now, as the manager's loop sees it."""
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def is_told(watch: RepositoryWatch) -> bool:
    """Whether a loop that polls the descriptor would look now."""
    return has_event(watch) and watch.read()


def put(path: Path, content: bytes = MODEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_version(base: Path, number: int, content: bytes = MODEL) -> Path:
    return put(base / str(number) / "m.onnx", content).parent


def models(base: Path) -> dict[int, bytes]:
    """Content of each version's model file."""
    return {number: file.read_bytes() for number, file in list_versions(base).model_files.items()}


# Versions.


def test_a_quiet_repository_is_silent_also_after_it_was_armed_again(
    watch: RepositoryWatch, tmp_path: Path
) -> None:
    put_version(tmp_path / "base", 1)
    for _ in range(3):
        watch.arm([tmp_path / "base"], [])
        list_versions(tmp_path / "base")

        assert not has_event(watch)
        assert not watch.read()
    assert watch.polled == {}


def test_a_copy_is_told_at_its_beginning_and_at_its_end(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    watch.arm([base], [])
    (base / "1").mkdir()

    assert is_told(watch)
    watch.arm([base], [])
    with open(base / "1" / "m.onnx", "wb") as file:
        assert is_told(watch)
        watch.arm([base], [])
        file.write(MODEL)
        file.flush()
        assert not has_event(watch)
    assert is_told(watch)
    assert models(base) == {1: MODEL}


def test_what_came_into_a_new_directory_before_it_was_armed_is_seen_by_the_look(
    watch: RepositoryWatch, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    watch.arm([base], [])
    (base / "1" / "variables").mkdir(parents=True)
    assert is_told(watch)
    put(base / "1" / "saved_model.pb")  # Nobody watches 1 yet.
    assert not has_event(watch)
    watch.arm([base], [])

    assert list_versions(base).model_files == {1: base / "1"}
    put(base / "1" / "variables" / "variables.index")
    assert is_told(watch)


def test_a_version_that_is_renamed_into_place(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "base"
    put_version(base, 1)
    made = put_version(tmp_path / "made", 2)
    watch.arm([base], [])
    made.rename(base / "2")

    assert is_told(watch)
    assert set(models(base)) == {1, 2}


@pytest.mark.parametrize(
    "change",
    [
        lambda version: shutil.rmtree(version),
        lambda version: version.rename(version.parent.parent / "elsewhere"),
        lambda version: (version / "m.onnx").unlink(),
        lambda version: put(version / "m.onnx", b"other"),
        lambda version: put(version / "n.onnx").replace(version / "m.onnx"),
        lambda version: put(version / "deep" / "er" / "weights"),
        lambda version: put(version / "sub" / "weights", b"other"),
        lambda version: os.utime(version / "m.onnx", (1, 1)),
        lambda version: (version / "sub").rename(version / "renamed"),
    ],
)
def test_a_change_of_a_version_is_told_once(
    watch: RepositoryWatch, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    base = tmp_path / "base"
    version = put_version(base, 1)
    put(version / "sub" / "weights")
    watch.arm([base], [])
    before = list_versions(base).versions
    change(version)

    assert is_told(watch)
    assert list_versions(base).versions != before
    watch.arm([base], [])
    assert not watch.read()


def test_permission_that_is_given_later_is_told(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "base"
    version = put_version(base, 1)
    version.chmod(0)
    watch.arm([base], [])
    version.chmod(0o700)

    assert is_told(watch)


def test_many_versions_are_armed_quickly_enough_for_every_look(
    watch: RepositoryWatch, tmp_path: Path
) -> None:
    for number in range(1, 301):
        put_version(tmp_path, number)
    watch.arm([tmp_path], [])
    (tmp_path / "300" / "m.onnx").write_bytes(b"other")

    assert watch.polled == {}
    assert is_told(watch)


# The way to a base path.


def test_a_base_path_that_is_missing_appears(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "a" / "b" / "base"
    watch.arm([base], [])
    for directory in (tmp_path / "a", tmp_path / "a" / "b", base, base / "1"):
        directory.mkdir()
        assert is_told(watch), directory
        watch.arm([base], [])
    put(base / "1" / "m.onnx")
    assert is_told(watch)
    assert models(base) == {1: MODEL}


def test_a_base_path_is_removed_and_made_again(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "base"
    for content in (b"one", b"two", b"three"):
        put_version(base, 1, content)
        watch.arm([base], [])
        assert models(base) == {1: content}
        shutil.rmtree(base)
        assert is_told(watch)
        watch.arm([base], [])
        assert not list_versions(base).exists
        base.mkdir()
        assert is_told(watch)
        watch.arm([base], [])


def test_a_base_path_that_was_moved_away_is_not_watched_there(watch: RepositoryWatch, tmp_path: Path) -> None:
    base, away = tmp_path / "base", tmp_path / "away"
    put_version(base, 1)
    watch.arm([base], [])
    base.rename(away)
    assert is_told(watch)
    watch.arm([base], [])
    assert not watch.read()
    put_version(away, 2)
    put_version(away, 1, b"other")

    assert not has_event(watch)


def test_a_base_path_that_somebody_is_in_is_removed_and_made_again(
    watch: RepositoryWatch, tmp_path: Path
) -> None:
    """The kernel's IN_DELETE_SELF waits for the last one who has the directory open, e.g. a shell."""
    base = tmp_path / "base"
    base.mkdir()
    watch.arm([base], [])
    shell = os.open(base, os.O_DIRECTORY)
    try:
        base.rmdir()
        assert is_told(watch)
        watch.arm([base], [])
        base.mkdir()
        assert is_told(watch)
        watch.arm([base], [])
        put_version(base, 1)
        assert is_told(watch)
    finally:
        os.close(shell)


def test_a_directory_above_the_base_path_is_replaced(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "top" / "middle" / "base"
    put_version(base, 1, b"old")
    put_version(tmp_path / "new" / "middle" / "base", 1, b"new")
    watch.arm([base], [])
    (tmp_path / "top").rename(tmp_path / "old")
    assert is_told(watch)
    watch.arm([base], [])
    (tmp_path / "new").rename(tmp_path / "top")
    assert is_told(watch)
    watch.arm([base], [])

    assert models(base) == {1: b"new"}
    put_version(base, 2)
    assert is_told(watch)
    watch.arm([base], [])
    put_version(tmp_path / "old" / "middle" / "base", 2)
    assert not has_event(watch), "what was moved away is not watched any more"


def swap(link: Path, target: str) -> None:
    """Like ``ln -sfn``, or Kubernetes: a new link renamed over the old one."""
    fresh = link.with_name(link.name + "_tmp")
    fresh.symlink_to(target)
    fresh.rename(link)


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_base_path_that_is_a_link_is_swapped(
    watch: RepositoryWatch, tmp_path: Path, is_relative: bool
) -> None:
    for name in ("blue", "green"):
        put_version(tmp_path / "releases" / name, 1, name.encode())
    base = tmp_path / "links" / "base"
    base.parent.mkdir()
    target = "../releases/" if is_relative else f"{tmp_path}/releases/"
    swap(base, target + "blue")
    watch.arm([base], [])
    assert models(base) == {1: b"blue"}
    swap(base, target + "green")

    assert is_told(watch)
    watch.arm([base], [])
    assert models(base) == {1: b"green"}
    assert not watch.read(), "that a watch was given up is no news"
    put_version(tmp_path / "releases" / "blue", 2)
    assert not has_event(watch), "the old target is not watched any more"
    put_version(tmp_path / "releases" / "green", 2)
    assert is_told(watch)


def test_a_link_in_the_middle_of_a_chain_of_links_is_swapped(watch: RepositoryWatch, tmp_path: Path) -> None:
    put_version(tmp_path / "one" / "base", 1, b"one")
    put_version(tmp_path / "two" / "base", 1, b"two")
    (tmp_path / "x").mkdir()
    (tmp_path / "first").symlink_to("x/second")
    (tmp_path / "x" / "second").symlink_to(tmp_path / "one")
    base = tmp_path / "first" / "base"
    watch.arm([base], [])
    assert models(base) == {1: b"one"}
    swap(tmp_path / "x" / "second", "../two")

    assert is_told(watch)
    assert models(base) == {1: b"two"}


def test_links_in_a_circle_are_left_alone(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(base)
    watch.arm([base], [])
    base.unlink()

    assert is_told(watch)


@pytest.mark.timeout(30)
def test_a_version_that_links_into_itself_is_watched_once(watch: RepositoryWatch, tmp_path: Path) -> None:
    version = put_version(tmp_path, 1)
    for number in range(6):
        (version / f"loop{number}").symlink_to(".")
    (version / "up").symlink_to("..")
    watch.arm([tmp_path], [])
    put(version / "m.onnx", b"other")

    assert is_told(watch)


@pytest.mark.parametrize("is_version_the_mount", [False, True])
def test_kubernetes_swaps_its_data_link(
    watch: RepositoryWatch, tmp_path: Path, is_version_the_mount: bool
) -> None:
    """A volume: ``NAME -> ..data/NAME``, ``..data -> ..TIMESTAMP``, the old timestamp removed at the end."""
    base = tmp_path / "base"
    volume = base / "1" if is_version_the_mount else base
    name = "m.onnx" if is_version_the_mount else "1"

    def write(stamp: str, content: bytes) -> None:
        put(volume / stamp / "m.onnx" if is_version_the_mount else volume / stamp / "1" / "m.onnx", content)

    write("..2026_01", b"first")
    (volume / "..data").symlink_to("..2026_01")
    (volume / name).symlink_to(f"..data/{name}")
    watch.arm([base], [])
    assert models(base) == {1: b"first"}
    before = list_versions(base).versions[1].fingerprint
    write("..2026_02", b"second")
    watch.read()
    watch.arm([base], [])
    swap(volume / "..data", "..2026_02")

    assert is_told(watch)
    watch.arm([base], [])
    assert models(base) == {1: b"second"}
    assert list_versions(base).versions[1].fingerprint != before
    shutil.rmtree(volume / "..2026_01")
    watch.read()
    watch.arm([base], [])
    put(
        volume / "..data" / "m.onnx" if is_version_the_mount else volume / "..data" / "1" / "m.onnx", b"third"
    )
    assert is_told(watch)


def test_a_file_that_is_a_link_is_watched_where_it_leads(watch: RepositoryWatch, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    base = tmp_path / "base"
    (base / "1").mkdir(parents=True)
    (base / "1" / "m.onnx").symlink_to("../../blobs/abc")
    watch.arm([base], [])
    assert models(base) == {}
    put(tmp_path / "blobs" / "abc")
    assert is_told(watch)
    watch.arm([base], [])
    assert models(base) == {1: MODEL}
    put(tmp_path / "blobs" / "abc", b"other")
    assert is_told(watch)


# A base path that is a file, or a model itself.


def test_a_base_path_that_is_a_model_file(watch: RepositoryWatch, tmp_path: Path) -> None:
    file = put(tmp_path / "m.xml")
    watch.arm([file], [])
    assert models(file) == {}
    put(tmp_path / "m.bin")
    assert is_told(watch)
    watch.arm([file], [])
    assert models(file) == {1: MODEL}
    for changed in ("m.xml", "m.bin", "mapping_config.json"):
        put(tmp_path / changed, changed.encode())
        assert is_told(watch), changed
        watch.arm([file], [])
    put(tmp_path / "other.bin")
    assert not watch.read()
    file.unlink()
    assert is_told(watch)


def test_a_saved_model_as_base_path(watch: RepositoryWatch, tmp_path: Path) -> None:
    base = tmp_path / "base"
    put(base / "saved_model.pb")
    weights = put(base / "variables" / "variables.index")
    for given in (base, base / "saved_model.pb"):
        watch.arm([given], [])
        assert list_versions(given).model_files == {1: base}
        put(weights, os.urandom(8))
        assert is_told(watch)


# The configuration file.


def test_a_configuration_file_that_changes_in_every_way(watch: RepositoryWatch, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    watch.arm([], [file])
    changes: list[Callable[[], object]] = [
        lambda: put(file, b"appeared"),
        lambda: put(file, b"rewritten in place"),
        lambda: put(tmp_path / "config.json.new", b"renamed into place").rename(file),
        lambda: put(file, b"rewritten again"),
        lambda: file.chmod(0o600),
        lambda: file.unlink(),
        lambda: put(file, b"made again"),
        lambda: swap(file, "config.json.real"),
        lambda: put(tmp_path / "config.json.real", b"appeared behind the link"),
        lambda: put(tmp_path / "config.json.real", b"rewritten behind the link"),
        lambda: put(tmp_path / "x").rename(tmp_path / "config.json.real"),
    ]
    for number, change_it in enumerate(changes):
        change_it()
        assert is_told(watch), number
        watch.arm([], [file])
        assert not watch.read()


def test_a_configuration_file_of_a_kubernetes_config_map(watch: RepositoryWatch, tmp_path: Path) -> None:
    put(tmp_path / "..1" / "config.json", b"one")
    put(tmp_path / "..2" / "config.json", b"two")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "config.json").symlink_to("..data/config.json")
    watch.arm([], [tmp_path / "config.json"])
    swap(tmp_path / "..data", "..2")

    assert is_told(watch)
    watch.arm([], [tmp_path / "config.json"])
    shutil.rmtree(tmp_path / "..1")
    assert not watch.read()


# Noise.


def test_noise_beside_a_base_path_and_a_configuration_file_is_not_told(
    watch: RepositoryWatch, tmp_path: Path
) -> None:
    put_version(tmp_path / "base", 1)
    put(tmp_path / "config.json")
    watch.arm([tmp_path / "base"], [tmp_path / "config.json"])
    put(tmp_path / "noise")
    put(tmp_path / "noise.d" / "deep")
    (tmp_path / "noise").rename(tmp_path / "config.json.swp")
    shutil.rmtree(tmp_path / "noise.d")

    assert has_event(watch)
    assert not watch.read()
    put(tmp_path / "config.json.swp", b"written in place")
    assert not has_event(watch), "the kernel is not even asked for this"
    put(tmp_path / "config.json", b"other")
    assert is_told(watch)


def test_what_a_fetcher_or_a_copy_keeps_for_itself_is_not_told(
    watch: RepositoryWatch, tmp_path: Path
) -> None:
    version = put_version(tmp_path / "base", 1)
    watch.arm([tmp_path / "base"], [])

    put(tmp_path / "base" / ".lock")
    (tmp_path / "base" / ".served").touch()
    copied = put(version / ".m.onnx.x7Gh2")
    assert not is_told(watch)
    copied.rename(version / "m.onnx")

    assert is_told(watch)


def test_reading_a_model_is_not_told(watch: RepositoryWatch, tmp_path: Path) -> None:
    put_version(tmp_path, 1)
    watch.arm([tmp_path], [])
    models(tmp_path)
    subprocess.run(["/bin/ls", "-lR", str(tmp_path)], check=True, stdout=subprocess.DEVNULL)

    assert not has_event(watch)


def test_what_is_not_armed_any_more_is_not_told(watch: RepositoryWatch, tmp_path: Path) -> None:
    put_version(tmp_path / "one", 1)
    put_version(tmp_path / "two", 1)
    watch.arm([tmp_path / "one", tmp_path / "two"], [])
    watch.arm([tmp_path / "two"], [])
    watch.read()
    put_version(tmp_path / "one", 2)
    assert not has_event(watch)
    put_version(tmp_path / "two", 2)
    assert is_told(watch)


def test_one_directory_that_is_watched_for_two_reasons(watch: RepositoryWatch, tmp_path: Path) -> None:
    """A base path that lies on the way to another, is the parent of the configuration file, and is given twice."""
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "9" / "inner"
    put_version(outer, 1)
    put_version(inner, 1)
    (tmp_path / "again").symlink_to("outer")
    config = put(outer / "config.json")
    for order in ([outer, inner, tmp_path / "again"], [tmp_path / "again", inner, outer]):
        watch.arm(order, [config])
        for changed in (outer / "1" / "m.onnx", inner / "1" / "m.onnx", config):
            put(changed, os.urandom(8))
            assert is_told(watch), changed


# What inotify cannot tell.


def test_more_events_than_the_queue_holds(watch: RepositoryWatch, tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"the queue holds {limit} events")
    base = tmp_path / "base"
    version = put_version(base, 1)
    watch.arm([base.parent / "config.json", base], [])
    noise = [str(tmp_path / name) for name in "ab"]
    put(Path(noise[0]))
    for number in range(limit // 2 + 1):  # Two events each, none of which matters by itself.
        os.rename(noise[number % 2], noise[1 - number % 2])
    put(version / "m.onnx", b"lost")

    assert is_told(watch)
    assert not has_event(watch), "everything was taken"
    watch.arm([base], [])
    put(version / "m.onnx", b"other")
    assert is_told(watch)


def test_our_own_limit_of_watches(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    put_version(few, 1)
    for number in range(1, 50):
        put_version(many, number)
    with RepositoryWatch(max_watches=30) as watch:
        watch.arm([few, many], [])

        assert list(watch.polled) == [many]
        assert "more than 30 watches" in watch.polled[many]
        put(few / "1" / "m.onnx", b"other")
        assert is_told(watch)
        shutil.rmtree(many)
        put_version(many, 1)
        watch.arm([few, many], [])
        assert watch.polled == {}


def in_a_namespace(*options: str) -> list[str]:
    """Start of a command that runs Python in new namespaces; skips the test where there are none."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, *options, "/bin/true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    return [unshare, *options, sys.executable]


WITH_A_LIMIT = """
import sys
import threading
from pathlib import Path
from ovms_mp.storage.watch import RepositoryWatch

Path("/proc/sys/user/max_inotify_" + sys.argv[2]).write_text(sys.argv[3])
watch = RepositoryWatch()
watch.arm([Path(sys.argv[1])], [])
print(watch.fileno() >= 0, watch.read(), *watch.polled.values())
watch.close()
"""


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("watches", 3, "fs.inotify.max_user_watches"), ("instances", 0, "fs.inotify.max_user_instances")],
)
def test_the_kernels_limits(tmp_path: Path, limit: str, value: int, reason: str) -> None:
    """In a user namespace, which has limits of its own."""
    command = in_a_namespace("--user", "--map-root-user")
    for number in range(1, 9):
        put_version(tmp_path, number)
    done = subprocess.run(
        [*command, "-c", WITH_A_LIMIT, str(tmp_path), limit, str(value)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.startswith("True False ")
    assert reason in done.stdout


AS_NOBODY = """
import os, sys
from pathlib import Path
from ovms_mp.storage.local import list_versions
from ovms_mp.storage.watch import RepositoryWatch

bases = [Path(path) for path in sys.argv[1:]]
with RepositoryWatch() as watch:
    watch.arm(bases, [])
    for base in bases:
        file = base / "1" / "m.onnx"
        os.utime(file)
        listing = list_versions(base)
        print(watch.read(), listing.is_certain, sorted(listing.versions), "=", watch.polled.get(base))
"""


def test_what_we_may_not_read_is_polled_and_the_rest_is_watched(tmp_path: Path) -> None:
    """In a user namespace without a mapping, where root is nobody special."""
    command = in_a_namespace("--user")
    names = ("plain", "way/x/base", "holder/base", "version")
    bases = [tmp_path / name for name in names]
    for base in bases:
        put_version(base, 1)
    put_version(tmp_path / "version", 2)
    closed = [(tmp_path / "way", 0o300), (tmp_path / "holder", 0o300), (tmp_path / "version" / "2", 0)]
    for path, mode in closed:
        path.chmod(mode)
    try:
        done = subprocess.run(
            [*command, "-c", AS_NOBODY, *map(str, bases)],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        for path, _ in closed:
            path.chmod(0o700)
    lines = done.stdout.splitlines()

    assert lines == [
        "True True [1] = None",
        "True True [1] = None",
        f"True True [1] = inotify cannot watch {tmp_path / 'holder'}: Permission denied",
        f"True False [1] = inotify cannot watch {tmp_path / 'version' / '2'}: Permission denied",
    ]


@pytest.mark.parametrize("kind", ["nfs4", "fuse.s3fs", "cifs", "9p"])
def test_a_file_system_that_others_write_to_is_polled(tmp_path: Path, kind: str) -> None:
    device = tmp_path.stat().st_dev
    table = put(
        tmp_path / "mountinfo",
        b"21 1 0:0 / /proc rw - proc proc rw\n"
        + f"22 1 {os.major(device)}:{os.minor(device)} / / rw,x shared:1 master:2 - {kind} h:/e rw\n".encode(),
    )
    base, config = tmp_path / "base", tmp_path / "config.json"
    with RepositoryWatch(mount_table=table) as watch:
        watch.arm([base], [config])  # Neither is there yet.
        assert set(watch.polled) == {base, config}
        put_version(base, 1)
        assert is_told(watch), "what this machine writes is told nevertheless"
        watch.arm([base], [config])
        assert f"type {kind}" in watch.polled[base]
    for harmless in (b"", b"garbage\n\n1 2 3:x - y\n", table.read_bytes().replace(kind.encode(), b"ext4")):
        put(table, harmless)
        with RepositoryWatch(mount_table=table) as watch:
            watch.arm([base], [config])
            assert watch.polled == {}


def test_close_gives_the_descriptor_back(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        watch = RepositoryWatch()
        watch.arm([tmp_path], [])
        assert not os.get_inheritable(watch.fileno())
        watch.close()
        watch.close()

    assert sorted(os.listdir("/proc/self/fd")) == before


# Everything at once.


def everything_that_a_look_sees(base: Path, config: Path) -> object:
    listing = list_versions(base)
    try:
        state = config.stat()
        seen = (state.st_ino, state.st_mtime_ns, state.st_size) if config.is_file() else (0, 0, 0)
    except OSError:
        seen = (0, 0, 0)
    files = {number: (found.model_file, found.fingerprint) for number, found in listing.versions.items()}
    return listing.exists, files, seen


KINDS = ["directory", "file", "file", "file", "remove", "rename", "link", "link", "swap"]


def places_below(root: Path, base: Path) -> list[Path]:
    """Where something may change: on the way to a base path and configuration file, and below the base path."""
    on_the_way = """srv etc data srv/models data/models data/base data/1 srv/models/base data/models/base
        etc/config.json etc/config.json data/config.json data/m.onnx data/1/m.onnx"""
    below = """1 2 ..data ..a ..b ..a/1 ..b/1 1/sub 2/variables 1/m.onnx 1/m.xml 1/m.bin 1/sub/w 2/saved_model.pb
        ..a/1/m.onnx m.onnx 2/variables/v ..b/1/m.onnx 2/m.tflite"""
    return [*(root / name for name in on_the_way.split()), *(base / name for name in below.split())]


@pytest.mark.parametrize("seed", range(10))
def test_every_change_that_a_look_can_see_is_told(watch: RepositoryWatch, tmp_path: Path, seed: int) -> None:
    """Random changes along the way to a base path and a configuration file, and in what they lead to."""
    chance = random.Random(seed)
    base, config = tmp_path / "srv" / "models" / "base", tmp_path / "etc" / "config.json"
    places = places_below(tmp_path, base)
    told = silent = step = 0
    watch.arm([base], [config])
    before = everything_that_a_look_sees(base, config)
    while told < 40:
        step += 1
        what, place, other = chance.choice(KINDS), chance.choice(places), chance.choice(places)
        change(what, place, other, chance)
        after = everything_that_a_look_sees(base, config)
        is_hint = watch.read()
        assert is_hint or after == before, f"step {step}: {what} {place} {other}"
        told += after != before
        silent += not is_hint
        watch.arm([base], [config])
        before = everything_that_a_look_sees(base, config)
        assert step < 10_000, f"only {told} changes that a look sees"
    assert silent > 5


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_while_others_write(watch: RepositoryWatch, tmp_path: Path, seed: int) -> None:
    """The order of read, arm and look: when the writer is done and all is quiet, the last look saw what is there."""
    base, config = tmp_path / "srv" / "models" / "base", tmp_path / "etc" / "config.json"
    places = places_below(tmp_path, base)

    def write() -> None:
        chance = random.Random(seed)
        for _ in range(1500):
            change(chance.choice(KINDS), chance.choice(places), chance.choice(places), chance)

    watch.arm([base], [config])
    last = everything_that_a_look_sees(base, config)
    looks = 0
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    writer = threading.Thread(target=write)
    writer.start()
    while (is_writing := writer.is_alive()) or has_event(watch):
        if poll.poll(10 if is_writing else 0) and watch.read():
            watch.arm([base], [config])
            last = everything_that_a_look_sees(base, config)
            looks += 1
    writer.join()

    assert last == everything_that_a_look_sees(base, config)
    assert looks > 5


def change(what: str, place: Path, other: Path, chance: random.Random) -> None:
    """One random change, or half of one where something is in the way."""
    try:
        _change(what, place, other, chance)
    except OSError:
        return


def _change(what: str, place: Path, other: Path, chance: random.Random) -> None:
    if what in ("directory", "file"):
        place.parent.mkdir(parents=True, exist_ok=True)
    if what == "directory":
        place.mkdir()
    elif what == "file":
        place.write_bytes(chance.randbytes(chance.randrange(1, 9)))
    elif what == "remove":
        if place.is_symlink() or place.is_file():
            place.unlink()
        else:
            shutil.rmtree(place)
    elif what == "rename":
        place.rename(other)
    elif what == "link":
        place.symlink_to(other if chance.random() < 0.5 else os.path.relpath(other, place.parent))
    else:
        fresh = place.with_name(".fresh")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(other)
        fresh.rename(place)
