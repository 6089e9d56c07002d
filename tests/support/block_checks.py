# SPDX-License-Identifier: Apache-2.0
"""What can be said of a page's block without running it: flags, files and manifests are those that there are."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ovms_mp.commands.completion import PARSERS
from ovms_mp.config.file import parse_config_file
from ovms_mp.errors import ConfigError
from tests.support.manifests import mistakes_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.readme import Block

ROOT = Path(__file__).parents[2]
_COMMAND = re.compile(r"^(?:\$ )?(?:/opt/ovms_mp/bin/)?ovms_mp ((?:[^\n#\\]|\\\n)*)", re.MULTILINE)
_AFTERWARDS = re.compile(r"[|>;]|&&")
_EXTRAS = re.compile(r"(?:ovms_mp|\.)\[([a-z, ]+)\]")
_LEGACY = ["/ie-serving-py/start_server.sh", "ie_serving"]
_UNITS = ROOT / "deploy" / "systemd"


def wrong_flags(block: Block) -> Iterator[str]:
    """Why the program would refuse commands of a block."""
    for found in _COMMAND.finditer(block.text):
        words = shlex.split(_AFTERWARDS.split(found[1].replace("\\\n", " "))[0])
        if (wrong := refusal_of(words)) is not None:
            yield wrong


def refusal_of(words: Sequence[str]) -> str | None:
    """Why the program would refuse these arguments; None if it would not."""
    command = words[0] if words and not words[0].startswith("-") else ""
    if command not in PARSERS:
        return f"there is no command {command}"
    parser, flags = PARSERS[command](), list(words[1:] if command else words)
    try:
        # A demo hands what it does not know to its server.
        parser.read_known(flags) if command == "demo" else parser.read(flags)
    except ConfigError as error:
        return error.message
    return None


def wrong_extras(block: Block) -> Iterator[str]:
    """Extras that are installed and do not exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for found in _EXTRAS.finditer(block.text):
        for extra in found[1].replace(" ", "").split(","):
            if extra not in setup["options.extras_require"]:
                yield extra


def lines_of(block: Block) -> Iterator[list[str]]:
    """The words of each command."""
    for line in block.text.replace("\\\n", " ").splitlines():
        # What a shell would put in is one word.
        yield shlex.split(re.sub(r"\$\(.*?\)|\$\w+", "INSERTED", line), comments=True)


def _docker_run() -> argparse.ArgumentParser:
    """The flags of ``docker run`` that pages use; what follows the image is the container's."""
    parser = argparse.ArgumentParser("docker run", allow_abbrev=False)
    for switch in ("--rm", "-d", "-it", "--read-only"):
        parser.add_argument(switch, action="store_true")
    for flag in (
        *("-p", "-v", "--volume", "-u", "-e", "--tmpfs", "--cap-drop", "--security-opt", "--device"),
        *("--group-add", "--network", "--health-cmd", "--stop-timeout"),
    ):
        parser.add_argument(flag, action="append")
    parser.add_argument("image")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def wrong_in_docker(block: Block) -> Iterator[str]:
    """What the image, its build or Docker would refuse."""
    for words in lines_of(block):
        while words and "=" in words[0]:  # Variables.
            words = words[1:]
        match words:
            case ["docker", "run", *rest]:
                given, unknown = _docker_run().parse_known_args(rest)
                arguments = given.arguments
                yield from unknown
                if not given.image.startswith("ovms_mp"):
                    yield f"the image {given.image}"
                if arguments[:2] == _LEGACY:
                    arguments = arguments[2:]
                if arguments and not arguments[0].startswith("/"):
                    yield from filter(None, [refusal_of(arguments)])
            case ["docker", "build", "-f", file, *_] | ["docker", "compose", "-f", file, *_]:
                yield from missing_files([file])
            case ["docker", "exec", _, "ovms_mp", *arguments]:
                yield from filter(None, [refusal_of(arguments)])
            case _:
                yield f"not understood: {words}"


def wrong_in_kubectl(block: Block) -> Iterator[str]:
    """Files that are applied and do not exist, and documents that are no JSON."""
    for words in lines_of(block):
        match words:
            case ["kubectl", "apply", "-f" | "-k", file]:
                yield from missing_files([file])
            case ["kubectl", "patch", _, _, "--type", "merge", "-p", document]:
                json.loads(document)
            case ["kubectl", "get" | "describe" | "logs", *_]:
                pass
            case _:
                yield f"not understood: {words}"


def missing_files(files: Sequence[str]) -> Iterator[str]:
    """Those that are not in the repository."""
    yield from (f"no file {file}" for file in files if not (ROOT / file).exists())


def wrong_configuration(text: str, path: Path) -> Iterator[str]:
    """What is wrong with a configuration file's text."""
    path.write_text(text)
    try:
        models, notices = parse_config_file(path, is_strict=True)
    except ConfigError as error:
        yield error.message
        return
    yield from notices
    if not models:
        yield "no models"


def wrong_manifest(text: str) -> Iterator[str]:
    """What a cluster, or Prometheus' own check on the page, would refuse."""
    for document in yaml.safe_load_all(text):
        if "kind" in document:
            yield from mistakes_in(document)


def unit_with(drop_in: str, directory: Path) -> Path:
    """The service's unit with a drop-in, in a directory for ``systemd-analyze verify``."""
    unit = directory / "ovms_mp.service"
    text = (_UNITS / unit.name).read_text()
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    place = directory / f"{unit.name}.d"
    place.mkdir()
    (place / "page.conf").write_text(drop_in)
    return unit
