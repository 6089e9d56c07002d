# SPDX-License-Identifier: Apache-2.0
"""The flags of ``ovms_mp bench``, those that ``tune`` has as well, and what their texts become."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ovms_mp.bench.endpoint import ACCEPTED, Trust
from ovms_mp.config.argument_parser import Parser
from ovms_mp.config.target_flags import add_target_flags
from ovms_mp.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

MOST_IN_FLIGHT = 10_000
_MOST_LEVELS = 64
_MOST_RATE = 1e6
_MOST_SECONDS = 86_400.0
_MOST_PROCESSES = 256
_MOST_BATCH = 1_000_000

_TARGET = "ovms_mp bench grpc://127.0.0.1:9000 resnet"


def bench_parser() -> Parser:
    """Flags of ``ovms_mp bench``."""
    parser = Parser(
        prog="ovms_mp bench",
        operands="URL MODEL",
        description="Load a server with one request, again and again, and show how many it answers and how long each "
        "takes. A note says when the generator, and not the server, was the limit. Ctrl-C shows what was measured so "
        "far.",
        examples=(
            ("1, 2, 4, 8 and 16 requests in flight", _TARGET),
            (
                "KServe's REST API, up to 64 in flight",
                "ovms_mp bench http://127.0.0.1:8000 resnet --concurrency 1-64",
            ),
            ("500 requests a second, whatever is answered", f"{_TARGET} --rate 500"),
            ("photos, which the server decodes", f"{_TARGET} --input @cat.jpg"),
            (
                "a server that speaks TLS and asks for a key",
                "ovms_mp bench grpcs://models.example:9000 resnet --tls_ca ca.pem --api_key @keys",
            ),
        ),
        closing="Exit codes: 0 measured, 2 usage, 3 nothing could be measured or no request was answered.",
    )
    parser.add_argument("url", metavar="URL", help=ACCEPTED)
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--concurrency",
        metavar="N[,N...]|N-N",
        help="closed loop: so many requests under way at any time, one level after the other; 1-64 doubles from one "
        "to the other (default 1,2,4,8,16)",
    )
    load.add_argument(
        "--rate",
        metavar="R[,R...]",
        help="open loop: so many requests a second, due at times fixed before, from which latency is counted",
    )
    load.add_argument(
        "--arrivals",
        choices=("poisson", "even"),
        default="poisson",
        help="how those of an open loop are spread (default poisson)",
    )
    load.add_argument("--seconds", metavar="S", default="5", help="length of each level (default 5)")
    load.add_argument(
        "--warmup", metavar="S", default="1", help="time before it that does not count (default 1)"
    )
    load.add_argument(
        "--connections",
        metavar="N",
        default="1",
        help="gRPC: connections that share the requests (default 1)",
    )
    load.add_argument(
        "--timeout", metavar="S", default="30", help="time after which a request has failed (default 30)"
    )
    request = parser.add_argument_group("request")
    request.add_argument(
        "--api",
        choices=("kserve", "kserve_json", "tfs"),
        default="kserve",
        help="KServe v2, over REST with binary tensors; the same in JSON; TensorFlow Serving's (default kserve)",
    )
    request.add_argument(
        "--model_version", metavar="N", default="", help="version of the model (default: the server's choice)"
    )
    add_input_flags(request)
    add_target_flags(parser.add_argument_group("access"))
    shown = parser.add_argument_group("result")
    shown.add_argument("--json", action="store_true", help="print a document instead of the table")
    shown.add_argument("--svg", metavar="FILE", default="", help="write a plot of rate and latency")
    shown.add_argument(
        "--metrics",
        metavar="URL",
        default="",
        help="REST address whose /metrics has the server's stages (default: URL, if that is REST); the server needs "
        "--metrics_enable",
    )
    maker = parser.add_argument_group("generator")
    maker.add_argument(
        "--generator",
        choices=("auto", "h2load", "own"),
        default="auto",
        help="what makes the load; auto takes h2load for closed loops where it is installed, as it needs least "
        "processor time (default auto)",
    )
    maker.add_argument(
        "--processes", metavar="N", default="1", help="processes of our own generator (default 1)"
    )
    return parser


def add_input_flags(parser: Parser | argparse._ArgumentGroup) -> None:
    """What is sent."""
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]VALUE",
        help="values of an input, for each one: JSON such as [[1, 2]], @FILE.npy, @FILE.json, or @FILE with an encoded "
        "image, which is sent as one string (default: made up)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1,3,224,224",
        help="shape of an input that is made up, where the model takes several",
    )
    parser.add_argument(
        "--batch",
        default="1",
        metavar="N",
        help="first size of inputs that are made up, where it may vary (default 1)",
    )


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


def shapes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``NAME=1,3,224,224``, several times.

    Raises:
        ConfigError: One has no name, or a size is none.
    """
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals or not text:
            raise ConfigError(f"--shape {word!r}; accepted: NAME=1,3,224,224")
        found[name] = tuple(
            whole(size.strip(), f"shape {name}", 0, _MOST_BATCH) for size in text.strip("()[]").split(",")
        )
    return found


def trust(given: Mapping[str, Any]) -> Trust:
    """How the server is trusted."""
    authority, certificate, key = (given[name] or "" for name in ("tls_ca", "tls_cert", "tls_key"))
    if key and not certificate:
        raise ConfigError("--tls_key is the key of --tls_cert, which is missing")
    return Trust(authority, certificate, key)
