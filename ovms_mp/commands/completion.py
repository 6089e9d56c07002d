# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp completion SHELL``: a script with which a shell completes commands, flags and values.

It is made once from the parsers and knows all by itself: a shell that completes starts no Python.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovms_mp.bench.flags import bench_parser
from ovms_mp.codes import ExitCode
from ovms_mp.commands.demo import demo_parser
from ovms_mp.commands.edit import add_parser, remove_parser
from ovms_mp.commands.fleet import ACTIONS, fleet_parser
from ovms_mp.commands.install_service import install_service_parser
from ovms_mp.commands.models import models_parser
from ovms_mp.commands.predict import predict_parser
from ovms_mp.commands.status import status_parser
from ovms_mp.commands.topics import help_parser, topic_names
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.declared import declared_settings
from ovms_mp.config.device_flags import device_parser
from ovms_mp.config.server_parser import COMMANDS, server_parser
from ovms_mp.model.devices import OPENVINO_DEVICES
from ovms_mp.tuning.command import tune_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SHELLS = ("bash", "zsh", "fish")


def completion_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp completion",
        operands="SHELL",
        description="Print a script that completes ovms_mp's commands, flags and values. Shells read it when they "
        "start; bash needs its package bash-completion for that.",
        examples=(
            (
                "bash, for good (the directory must exist)",
                "ovms_mp completion bash > ~/.local/share/bash-completion/completions/ovms_mp",
            ),
            ("bash, in this shell only", 'eval "$(ovms_mp completion bash)"'),
            ("zsh", 'ovms_mp completion zsh > "${fpath[1]}/_ovms_mp"'),
            ("fish", "ovms_mp completion fish > ~/.config/fish/completions/ovms_mp.fish"),
        ),
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return parser


PARSERS: Mapping[str, Callable[[], Parser]] = {
    "": lambda: server_parser(""),
    "model": lambda: server_parser("model"),
    "config": lambda: server_parser("config"),
    "demo": demo_parser,
    "status": status_parser,
    "models": models_parser,
    "predict": predict_parser,
    "add": add_parser,
    "remove": remove_parser,
    "bench": bench_parser,
    "tune": tune_parser,
    "fleet": fleet_parser,
    "devices": device_parser,
    "install-service": install_service_parser,
    "help": help_parser,
    "completion": completion_parser,
}
"""What each command takes."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag.

    Attributes:
        name: With its dashes.
        meaning: The beginning of its help.
        takes_value: Whether a value follows.
        values: Those that there are; empty for paths.
    """

    name: str
    meaning: str
    takes_value: bool
    values: tuple[str, ...]


def run_completion(arguments: Sequence[str], _environment: Mapping[str, str]) -> int:
    """Print the script; the exit code.

    Raises:
        ConfigError: No such shell.
    """
    given = completion_parser().read(arguments)
    make = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}[given["shell"]]
    sys.stdout.write(make())
    return ExitCode.CLEAN


def flags_of(command: str) -> list[Flag]:
    """The flags of a command that people are told of."""
    values = {f"--{entry.setting.flag}": entry.setting.choices for entry in declared_settings()}
    values["--target_device"] = (*OPENVINO_DEVICES, "AUTO")
    found = []
    for action in PARSERS[command]()._actions:  # argparse has no other way to ask.
        if action.help == argparse.SUPPRESS:
            continue
        for name in action.option_strings:
            if name.startswith("--"):
                meaning = (
                    (action.help or "").replace("%%", "%").partition(" (")[0].partition(". ")[0].rstrip(".")
                )
                accepted = values.get(name) or tuple(map(str, action.choices or ()))
                found.append(Flag(name, meaning, action.nargs != 0, tuple(accepted)))
    return found


def words_of(command: str) -> tuple[str, ...]:
    """What may follow a command besides flags and paths."""
    return {"help": topic_names(), "completion": SHELLS, "fleet": ACTIONS}.get(command, ())


def bash_script() -> str:
    """For bash 4.4 or newer."""
    lines = [
        "# bash completion of ovms_mp, written by: ovms_mp completion bash",
        "_ovms_mp() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="" flags="" words=""',
        '    [[ $COMP_CWORD -gt 1 && "${COMP_WORDS[1]}" != -* ]] && command="${COMP_WORDS[1]}"',
        '    [[ "$before" == "=" ]] && before="${COMP_WORDS[COMP_CWORD-2]}"',
        '    [[ "$word" == "=" ]] && { before="${COMP_WORDS[COMP_CWORD-1]}"; word=""; }',
        '    case "$command" in',
    ]
    for command in PARSERS:
        flags = " ".join(flag.name for flag in flags_of(command))
        words = " ".join(COMMANDS if not command else words_of(command))
        lines.append(f'        "{command}") flags="{flags}"; words="{words}" ;;')
    lines += ["    esac", '    case "$before" in']
    for name, values in sorted(_values_by_flag().items()):
        text = " ".join(values)
        lines.append(f'        {name}) COMPREPLY=($(compgen -W "{text}" -- "$word")); return ;;')
    lines += [
        "    esac",
        '    if [[ "$word" == -* ]]; then',
        '        COMPREPLY=($(compgen -W "$flags" -- "$word"))',
        '    elif [[ -n "$words" && "$before" != --* ]]; then',
        '        COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "    else",
        "        compopt -o filenames 2>/dev/null",
        '        mapfile -t COMPREPLY < <(compgen -f -- "$word")',
        "    fi",
        "}",
        "complete -F _ovms_mp ovms_mp",
    ]
    return "\n".join(lines) + "\n"


def zsh_script() -> str:
    """For zsh, to be found by ``compinit``."""
    lines = [
        "#compdef ovms_mp",
        "# zsh completion of ovms_mp, written by: ovms_mp completion zsh",
        "_ovms_mp() {",
        "    local -a commands",
        "    commands=(",
        *(f"        {_quoted(f'{_escaped(name)}:{text}')}" for name, text in COMMANDS.items()),
        "    )",
        "    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then",
        "        _describe command commands",
        "        return",
        "    fi",
        '    local command=""',
        "    if [[ $words[2] != -* ]]; then",
        "        command=$words[2]",
        "        shift words",
        "        (( CURRENT-- ))",
        "    fi",
        "    case $command in",
    ]
    for command in PARSERS:
        words = words_of(command)
        rest = f"'*:value:({' '.join(words)})'" if words else "'*:file:_files'"
        specs = [_zsh_spec(flag) for flag in flags_of(command)]
        lines.append(f'        "{command}") _arguments {" ".join([*specs, rest])} ;;')
    lines += ["    esac", "}", '_ovms_mp "$@"']
    return "\n".join(lines) + "\n"


def _zsh_spec(flag: Flag) -> str:
    meaning = flag.meaning.replace("[", "(").replace("]", ")")
    if not flag.takes_value:
        return _quoted(f"{flag.name}[{meaning}]")
    values = f"({' '.join(flag.values)})" if flag.values else "_files"
    return _quoted(f"{flag.name}=[{meaning}]:value:{values}")


def fish_script() -> str:
    """For fish."""
    lines = ["# fish completion of ovms_mp, written by: ovms_mp completion fish"]
    names = " ".join(COMMANDS)
    for name, text in COMMANDS.items():
        lines.append(f"complete -c ovms_mp -n __fish_use_subcommand -f -a {_quoted(name)} -d {_quoted(text)}")
    for command in PARSERS:
        condition = (
            f"__fish_seen_subcommand_from {command}"
            if command
            else f"not __fish_seen_subcommand_from {names}"
        )
        for flag in flags_of(command):
            parts = [
                f"complete -c ovms_mp -n {_quoted(condition)} -l {flag.name[2:]} -d {_quoted(flag.meaning)}"
            ]
            if flag.values:
                parts.append(f"-x -a {_quoted(' '.join(flag.values))}")
            elif flag.takes_value:
                parts.append("-r")
            lines.append(" ".join(parts))
        if words := words_of(command):
            lines.append(f"complete -c ovms_mp -n {_quoted(condition)} -f -a {_quoted(' '.join(words))}")
    return "\n".join(lines) + "\n"


def _values_by_flag() -> dict[str, tuple[str, ...]]:
    return {flag.name: flag.values for command in PARSERS for flag in flags_of(command) if flag.values}


def _escaped(text: str) -> str:
    return text.replace(":", "\\:")


def _quoted(text: str) -> str:
    """A word for all three shells, whatever is in it."""
    return "'" + text.replace("'", "`") + "'"
