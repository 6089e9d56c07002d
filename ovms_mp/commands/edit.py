# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp add`` and ``remove``, and OVMS's own flags that edit a configuration file or list models.

A server that follows the file loads and unloads by itself, so nothing here asks one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.codes import ExitCode
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.editing import Edit, add_model, remove_model
from ovms_mp.config.model_flags import add_model_flags, model_body
from ovms_mp.config.ovms_flags import EDITING_FLAGS, REPOSITORY_FLAG
from ovms_mp.config.store_dir import default_store_dir
from ovms_mp.errors import ConfigError
from ovms_mp.log import say
from ovms_mp.log_forms import printable
from ovms_mp.model.store_url import is_url
from ovms_mp.places import absolute_path
from ovms_mp.storage.local import list_versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPOSITORY_VARIABLE = "OVMS_MODEL_REPOSITORY_PATH"
_FILE = "config.json"
_DEEPEST = 8
"""Directories below a repository in which models are looked for."""


def add_parser() -> Parser:
    """The flags of ``ovms_mp add``."""
    parser = Parser(
        prog="ovms_mp add",
        operands="PATH --model_name NAME",
        description="Add a model to a configuration file. A server that follows the file loads it. All settings of a "
        "model may be given as flags; they are checked before anything is written.",
        examples=(
            (
                "a model with its versions",
                "ovms_mp add models/resnet --model_name resnet --config_path config.json",
            ),
            (
                "one that takes pictures",
                "ovms_mp add models/resnet --model_name resnet --layout NHWC:NCHW --color_format BGR:RGB "
                "--config_path config.json",
            ),
            (
                "one of an object store",
                "ovms_mp add s3://bucket/bert --model_name bert --batch_size 1:16 --config_path config.json",
            ),
        ),
        closing="Exit codes: 0 written, 2 something is wrong, and nothing was changed.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="directory of the versions, a model file, or a URL of a store"
    )
    _add_file_flag(parser)
    add_model_flags(parser)
    return parser


def remove_parser() -> Parser:
    """The flags of ``ovms_mp remove``."""
    parser = Parser(
        prog="ovms_mp remove",
        operands="NAME",
        description="Remove a model from a configuration file. A server that follows the file unloads it; the model's "
        "files stay.",
        examples=(("the model resnet", "ovms_mp remove resnet --config_path config.json"),),
        closing="Exit codes: 0 written, 2 something is wrong, and nothing was changed.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the model")
    _add_file_flag(parser)
    return parser


def _add_file_flag(parser: Parser) -> None:
    parser.add_argument(
        "--config_path",
        metavar="FILE",
        help=f"the configuration file (default {_FILE} in the directory that {REPOSITORY_VARIABLE} names, else in "
        "this directory)",
    )


def run_add(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Add a model; the exit code.

    Raises:
        ConfigError: Something is wrong, and nothing was changed.
    """
    given = add_parser().read(arguments)
    path = given.pop("path")
    if given["model_path"] is not None:
        raise ConfigError("--model_path and PATH are the same; give one of them")
    if not given["model_name"]:
        raise ConfigError("--model_name is missing; it is the name that clients use")
    file = _config_file(given["config_path"], environment)
    body = _body(given) | {"base_path": _as_the_file_has_it(path, file)}
    name = body["name"]
    edit = add_model(file, _in_order(body), store_dir=default_store_dir(environment))
    made = "made, with" if edit.is_new else "has"
    _tell(f"{edit.path} {made} the model {name} now; a server that follows it loads it.")
    _tell_notices(edit, body["base_path"], file)
    return ExitCode.CLEAN


def run_remove(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Remove a model; the exit code.

    Raises:
        ConfigError: Something is wrong, and nothing was changed.
    """
    given = remove_parser().read(arguments)
    file = _config_file(given["config_path"], environment)
    edit = remove_model(file, given["name"], store_dir=default_store_dir(environment))
    _tell(f"{edit.path} has the model {given['name']} no more; a server that follows it unloads it.")
    return ExitCode.CLEAN


def run_as_ovms(given: Mapping[str, str | None], environment: Mapping[str, str]) -> int:
    """Do what one of OVMS's flags asks for; the exit code.

    ``--add_to_config`` and ``--remove_from_config`` may have the file or its directory as their value, as in OVMS of
    2025, or stand alone beside ``--config_path``, as later.

    Raises:
        ConfigError: Something is wrong, and nothing was changed.
    """
    modes = [mode for mode in EDITING_FLAGS if given.get(mode) not in (None, "", "false")]
    if len(modes) > 1:
        raise ConfigError(f"--{modes[0]} and --{modes[1]}: one at a time")
    mode = modes[0]
    repository = given.get(REPOSITORY_FLAG) or environment.get(REPOSITORY_VARIABLE) or ""
    if mode == "list_models":
        if not repository:
            raise ConfigError(f"--{REPOSITORY_FLAG} is missing; give it, or set {REPOSITORY_VARIABLE}")
        return _list_models(repository)
    value = given[mode]
    path = _ovms_file((given.get("config_path") if value == "true" else value) or "", repository)
    file = absolute_path(path, "--config_path")
    name = given.get("model_name") or ""
    if not name:
        raise ConfigError(f"--{mode} needs --model_name")
    store_dir = default_store_dir(environment)
    if mode == "remove_from_config":
        remove_model(file, name, store_dir=store_dir)
    else:
        body = _body(given) | {"base_path": _ovms_base_path(given, repository, name)}
        edit = add_model(file, _in_order(body), store_dir=store_dir)
        _tell_notices(edit, body["base_path"], file)
    _tell(f"Config updated: {path}")
    return ExitCode.CLEAN


def _ovms_file(path: str, repository: str) -> str:
    """The file that is meant by a path to it or to its directory, or by the repository.

    Raises:
        ConfigError: None is.
    """
    if path and Path(path).is_dir():
        return str(Path(path, _FILE))
    if not path and not repository:
        raise ConfigError(f"--config_path is missing; give it, or set {REPOSITORY_VARIABLE}")
    return path or str(Path(repository, _FILE))


def _ovms_base_path(given: Mapping[str, str | None], repository: str, name: str) -> str:
    """As OVMS has it: a relative ``--model_path`` starts at the file, the repository at the working directory.

    Raises:
        ConfigError: Neither is given.
    """
    if path := given.get("model_path"):
        return path
    if not repository:
        raise ConfigError(f"--add_to_config needs --model_path or --{REPOSITORY_FLAG}")
    return str(absolute_path(repository, f"--{REPOSITORY_FLAG}") / name)


def _body(given: Mapping[str, str | None]) -> dict[str, object]:
    """The entry; objects that are JSON inside a flag become objects."""
    body = model_body(given)
    for key, value in body.items():
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                body[key] = json.loads(value)
            except ValueError:
                continue  # Its reader says what is wrong.
    return body


def _in_order(body: Mapping[str, object]) -> dict[str, object]:
    return {"name": body["name"], "base_path": body["base_path"], **body}


def _config_file(given: str | None, environment: Mapping[str, str]) -> Path:
    if given:
        if is_url(given):
            raise ConfigError(f"--config_path {given}: only a file on this machine can be edited")
        return absolute_path(given, "--config_path")
    repository = environment.get(REPOSITORY_VARIABLE)
    if repository:
        return absolute_path(repository, REPOSITORY_VARIABLE) / _FILE
    file = absolute_path(_FILE, "--config_path")
    if not file.exists():
        raise ConfigError(
            f"--config_path is missing, and there is no {file}; name the file, which is made if needed"
        )
    return file


def _as_the_file_has_it(path: str, file: Path) -> str:
    """A path of the command line as a base path: relative ones start at the file's directory, and may not climb."""
    if is_url(path):
        return path
    absolute = os.path.normpath(absolute_path(path, "PATH"))
    if os.path.isabs(path):
        return absolute
    below = os.path.relpath(absolute, file.parent)
    return absolute if below.split("/", 1)[0] == ".." else below


def _tell_notices(edit: Edit, path: object, file: Path) -> None:
    for notice in edit.notices:
        say(f"ovms_mp: note: {notice}")
    if not isinstance(path, str) or is_url(path):
        return
    listing = list_versions(file.parent / path)
    if not listing.model_files:
        why = "holds no model" if listing.exists else "does not exist"
        say(f"ovms_mp: note: {path} {why} yet; it is served as soon as there is a version with a model")


def _list_models(repository: str) -> int:
    root = absolute_path(repository, "--model_repository_path")
    if not root.is_dir():
        raise ConfigError(f"--model_repository_path {repository}: it is not a directory")
    for name in sorted(set(_models_below(root, root, _DEEPEST, set()))):
        _tell(name)
    return ExitCode.CLEAN


def _models_below(directory: Path, root: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[str]:
    """The directories that hold versions, as paths below the root. Links are followed, once."""
    try:
        state = os.stat(directory)
        inside = sorted(entry.path for entry in os.scandir(directory) if entry.is_dir())
    except OSError as error:
        say(f"ovms_mp: note: {directory}: {error.strerror}")
        return
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    for path in map(Path, inside):
        if list_versions(path).model_files:
            yield str(path.relative_to(root))
        elif depth > 1:
            yield from _models_below(path, root, depth - 1, seen)


def _tell(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
