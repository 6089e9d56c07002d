# SPDX-License-Identifier: Apache-2.0
"""The flags of ``ovms_mp bench``, those that ``tune`` has as well, and what their texts become."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovms_mp.bench.endpoint import Trust
from ovms_mp.config.argument_parser import Parser
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_IN_FLIGHT = 10_000
_MOST_LEVELS = 64
_MOST_RATE = 1e6
_MOST_SECONDS = 86_400.0
_MOST_PROCESSES = 256
_MOST_BATCH = 1_000_000

BENCH_HELP = """\
usage: ovms_mp bench URL MODEL [flags]

Load a server with one request, again and again, and show how many it answers and how long each takes.

  ovms_mp bench grpc://127.0.0.1:9000 digits                      1, 2, 4, 8 and 16 requests in flight
  ovms_mp bench http://127.0.0.1:8000 digits --concurrency 1-64   KServe's REST API, up to 64 in flight
  ovms_mp bench grpc://host:9000 digits --rate 500                500 a second, whatever is answered
  ovms_mp bench grpcs://host:9000 digits --tls_ca ca.pem --api_key_file key

URL:    grpc://HOST:PORT, grpcs://, http://, https://, unix:PATH (gRPC), http+unix:PATH
load:   --concurrency 1,2,4 | 1-64   closed loop: as many requests under way at any time (1,2,4,8,16)
        --rate R[,R...]     open loop: arrivals fixed before, latency from the intended time of each
        --arrivals poisson | even    how those of an open loop are spread (poisson)
        --seconds S         length of each level (5), after --warmup S, which is not counted (1)
        --connections N     gRPC: connections among which requests are spread (1)
        --timeout S         after which a request has failed (30)
what:   --api kserve | kserve_json | tfs   over REST, kserve sends binary tensors (kserve)
        --version N         of the model (the server's choice)
        --input NAME=@FILE.npy | NAME=@FILE.json | NAME=JSON   repeatable; made up without it
        --shape NAME=1,3,224,224     of what is made up; --batch N where only the first size varies (1)
trust:  --tls_ca, --tls_cert, --tls_key FILE; --api_key KEY or --api_key_file FILE
shown:  --json   a document instead of the table; --svg FILE   a plot
        --metrics URL       REST address whose /metrics has the server's stages (an http URL itself)
maker:  --generator auto | h2load | own    auto takes h2load for closed loops if installed: it needs least CPU
        --processes N       of our own generator (1)

A note says when the generator and not the server was the limit. Ctrl-C shows what was measured so far.
Exit codes: 0 measured, 2 usage, 3 nothing could be measured or no request was answered.
"""


def bench_parser() -> Parser:
    """Flags of ``ovms_mp bench``."""
    parser = Parser(prog="ovms_mp bench", description="", usual=BENCH_HELP)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--concurrency")
    parser.add_argument("--rate")
    parser.add_argument("--arrivals", choices=("poisson", "even"), default="poisson")
    parser.add_argument("--seconds", default="5")
    parser.add_argument("--warmup", default="1")
    parser.add_argument("--connections", default="1")
    parser.add_argument("--timeout", default="30")
    parser.add_argument("--api", choices=("kserve", "kserve_json", "tfs"), default="kserve")
    parser.add_argument("--version", default="")
    parser.add_argument("--metrics", default="")
    parser.add_argument("--generator", choices=("auto", "h2load", "own"), default="auto")
    parser.add_argument("--processes", default="1")
    for flag in ("tls_ca", "tls_cert", "tls_key", "api_key", "api_key_file"):
        parser.add_argument(f"--{flag}", default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--svg", default="")
    add_input_flags(parser)
    return parser


def add_input_flags(parser: Parser) -> None:
    """What is sent."""
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--batch", default="1")


def number(text: str, flag: str, low: float, high: float) -> float:
    """A number within bounds.

    Raises:
        ConfigError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ConfigError(f"--{flag} {text!r}; accepted: a number from {low:g} to {high:g}")
    return value


def whole(text: str, flag: str, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        ConfigError: It is none.
    """
    if not (text.isascii() and text.isdecimal()) or not low <= int(text[:20]) <= high:
        raise ConfigError(f"--{flag} {text!r}; accepted: {low} to {high}")
    return int(text)


def levels(text: str) -> tuple[int, ...]:
    """How many requests are to be in flight, from ``1,2,4`` or ``1-64``, whose steps double.

    Raises:
        ConfigError: It is neither.
    """
    first, dash, last = text.partition("-")
    if dash:
        low, high = (whole(part, "concurrency", 1, MOST_IN_FLIGHT) for part in (first, last))
        if low > high:
            raise ConfigError(f"--concurrency {text!r} goes down; accepted: as in 1-64")
        doubling = [low * 2**power for power in range((high // low).bit_length())]
        return tuple(dict.fromkeys([*doubling, high]))
    found = tuple(whole(part, "concurrency", 1, MOST_IN_FLIGHT) for part in text.split(","))
    if len(found) > _MOST_LEVELS:
        raise ConfigError(f"--concurrency has {len(found)} levels; at most {_MOST_LEVELS}")
    return found


def rates(text: str) -> tuple[float, ...]:
    """Rates of an open loop.

    Raises:
        ConfigError: They are none.
    """
    found = tuple(number(part, "rate", 0.01, _MOST_RATE) for part in text.split(","))
    if len(found) > _MOST_LEVELS:
        raise ConfigError(f"--rate has {len(found)} levels; at most {_MOST_LEVELS}")
    return found


def seconds(given: Mapping[str, Any], flag: str, low: float = 0.1) -> float:
    """A duration."""
    return number(given[flag], flag, low, _MOST_SECONDS)


def processes(given: Mapping[str, Any]) -> int:
    """How many processes make the load."""
    return whole(given["processes"], "processes", 1, _MOST_PROCESSES)


def batch(given: Mapping[str, Any]) -> int:
    """The batch of made-up inputs."""
    return whole(given["batch"], "batch", 1, _MOST_BATCH)


def named(words: Sequence[str], flag: str) -> dict[str, str]:
    """``NAME=VALUE``, several times.

    Raises:
        ConfigError: One has no name or no value.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise ConfigError(f"--{flag} {word!r}; accepted: NAME=VALUE, see ovms_mp bench --help")
        found[name] = value
    return found


def shapes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``NAME=1,3,224,224``, several times."""
    return {
        name: tuple(whole(size, f"shape {name}", 0, _MOST_BATCH) for size in text.strip("()[]").split(","))
        for name, text in named(words, "shape").items()
    }


def trust(given: Mapping[str, Any]) -> Trust:
    """How the server is trusted."""
    if given["tls_key"] and not given["tls_cert"]:
        raise ConfigError("--tls_key is the key of --tls_cert, which is missing")
    return Trust(given["tls_ca"], given["tls_cert"], given["tls_key"])


def api_key(given: Mapping[str, Any]) -> str:
    """The key, from a flag or the first line of a file.

    Raises:
        ConfigError: Both are given, the file cannot be read, or what it has is no key.
    """
    key, file = given["api_key"], given["api_key_file"]
    if key and file:
        raise ConfigError("--api_key and --api_key_file: give one of them")
    if file:
        try:
            key = Path(file).read_text().strip().partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--api_key_file {file}: {error}") from None
        if not key:
            raise ConfigError(f"--api_key_file {file} is empty")
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError("the API key has characters that no header can carry")
    return str(key)
