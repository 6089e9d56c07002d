# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp predict``: one request from the command line, by the client library, and its answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovms_mp.client import Client, ClientError, InvalidRequest
from ovms_mp.codes import Code, ExitCode
from ovms_mp.commands.http_target import add_target_flags, read_key
from ovms_mp.commands.printing import failed, show, table
from ovms_mp.config.argument_parser import Parser
from ovms_mp.errors import ConfigError
from ovms_mp.files import read_regular, refusal
from ovms_mp.model.dtypes import DType, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovms_mp.client.calls import TensorMetadata
    from ovms_mp.client.options import ClientOptions
    from ovms_mp.model.dtypes import AnyArray

_MOST_FILE_BYTES = 2 << 30
_MOST_SHOWN = 8
"""Values of a tensor in the table."""
_LONGEST_VALUES = 100
_HINTS = {Code.UNAUTHENTICATED: "; give --api_key", Code.PERMISSION_DENIED: "; give another --api_key"}
_HEAD = ("OUTPUT", "TYPE", "SHAPE", "VALUES")
_NPY = b"\x93NUMPY"
_MOST_DIGITS = 19
"""Of a version."""


def predict_parser() -> Parser:
    """The flags."""
    parser = Parser(
        prog="ovms_mp predict URL MODEL --input NAME=VALUE",
        description="Send one request to a model and show the answer. The URL begins with http://, https://, grpc://, "
        "grpcs:// (TLS) or unix:; without any of them it is http://. The name of an input may be left out where the "
        "model has only one.",
    )
    parser.add_argument("url", metavar="URL", help="e.g. http://127.0.0.1:8000 or grpc://127.0.0.1:9000")
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument(
        "--model_version", metavar="N", help="version of the model (default: the server's choice)"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]VALUE",
        help="an input, for each one: JSON such as [[1, 2]], or @FILE with an array of NumPy (.npy), JSON (.json, also "
        "a request with instances), or anything else, such as an encoded image, which is sent as one string",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="NAME[=FILE.npy]",
        help="an output to ask for, and where to write it to (default: all outputs)",
    )
    parser.add_argument(
        "--deadline_s", default="60", metavar="S", help="seconds to wait for the answer (default 60)"
    )
    parser.add_argument("--json", action="store_true", help="print all values, as JSON")
    add_target_flags(parser)
    return parser


def run_predict(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Ask a model and print its answer; the exit code.

    Raises:
        ConfigError: A flag is wrong, or a file cannot be read.
    """
    given = predict_parser().read(arguments)
    version = _version(given["model_version"])
    deadline_s = _seconds(given["deadline_s"])
    wanted = dict(_name_and_file(text) for text in given["output"])
    url = given["url"]
    if "://" not in url and not url.startswith("unix:"):
        url = f"http://{url}"
    try:
        client = Client(url, **_options(given, environment, deadline_s))
    except InvalidRequest as error:
        raise ConfigError(error.message) from None
    try:
        with client:
            inputs = {
                tensor.name: tensor for tensor in client.metadata(given["model"], version=version).inputs
            }
            arrays = read_inputs(given["input"], inputs)
            outputs = client.predict(given["model"], arrays, version=version, outputs=tuple(wanted))
    except ClientError as error:
        return failed(f"{url}: {error}{_HINTS.get(error.code, '')}")
    for name, file in wanted.items():
        if file:
            _save(outputs[name], file)
    if given["json"]:
        sys.stdout.write(json.dumps(_document(given["model"], outputs), ensure_ascii=False) + "\n")
    else:
        show(output_lines(outputs), environment)
    return ExitCode.CLEAN


def _options(
    given: Mapping[str, str | None], environment: Mapping[str, str], deadline_s: float
) -> ClientOptions:
    """What the flags say of the client.

    Raises:
        ConfigError: A certificate without its key.
    """
    options: ClientOptions = {"timeout": deadline_s}
    if key := read_key(given, environment):
        options["api_key"] = key
    if authority := given["tls_ca"]:
        options["ca"] = authority
    certificate, private = given["tls_cert"], given["tls_key"]
    if (certificate is None) is not (private is None):
        raise ConfigError("--tls_cert and --tls_key belong together")
    if certificate is not None and private is not None:
        options["certificate"] = (certificate, private)
    return options


def output_lines(outputs: Mapping[str, AnyArray]) -> list[str]:
    """The table of an answer."""
    rows = [
        (name, dtype_name(array), f"[{','.join(map(str, array.shape))}]", _values_in_short(array))
        for name, array in outputs.items()
    ]
    return table([_HEAD, *rows], indent=0)


def dtype_name(array: AnyArray) -> str:
    """KServe's name of an array's dtype."""
    if array.dtype.kind in "OSU":
        return DType.BYTES.name
    return next((dtype.name for dtype in DType if dtype.numpy == array.dtype), str(array.dtype))


def _values_in_short(array: AnyArray) -> str:
    """The first values; of many numbers the greatest, with its place, besides."""
    flat = array.ravel()
    if dtype_name(array) == DType.BYTES.name:
        shown = ", ".join(repr(_text(value)) for value in flat[:_MOST_SHOWN].tolist())
    else:
        shown = ", ".join(_number(value) for value in flat[:_MOST_SHOWN].tolist())
    if len(shown) > _LONGEST_VALUES:
        shown = f"{shown[:_LONGEST_VALUES]}..."
    elif flat.size > _MOST_SHOWN:
        shown += ", ..."
    if flat.size > 1 and array.dtype.kind in "fiu" and not np.isnan(flat.astype(np.float64)).any():
        place = np.unravel_index(int(flat.argmax()), array.shape)
        shown += f"  max {_number(flat.max().item())} at [{','.join(str(int(index)) for index in place)}]"
    return shown


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _document(model: str, outputs: Mapping[str, AnyArray]) -> dict[str, object]:
    return {
        "model_name": model,
        "outputs": {
            name: {"datatype": dtype_name(array), "shape": list(array.shape), "data": _nested(array)}
            for name, array in outputs.items()
        },
    }


def _nested(array: AnyArray) -> object:
    if dtype_name(array) == DType.BYTES.name:
        texts = np.empty(array.shape, np.object_)
        texts.ravel()[:] = [_text(value) for value in array.ravel().tolist()]
        return texts.tolist()
    return (array.astype(np.float64) if array.dtype.kind not in "fiub" else array).tolist()


def _version(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and 0 < int(text) < 1 << 63):
        raise ConfigError(f"--model_version {text!r} is not valid; accepted: 1 to {(1 << 63) - 1}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86400:
        raise ConfigError(f"--deadline_s {text!r} is not valid; accepted: a number of seconds, up to 86400")
    return seconds


def _name_and_file(text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    if not name:
        raise ConfigError(f"--output {text!r} is not valid; accepted: NAME, or NAME=FILE.npy")
    return name, file.removeprefix("@")


def read_inputs(words: Sequence[str], model: Mapping[str, TensorMetadata]) -> dict[str, AnyArray]:
    """All inputs by name.

    Raises:
        ConfigError: One is missing or given twice, or as of :func:`read_input`.
    """
    found: dict[str, AnyArray] = {}
    for text in words:
        name, array = read_input(text, model)
        if name in found:
            raise ConfigError(f"--input {name} is given twice; each input of the model is given once")
        found[name] = array
    if missing := [tensor for name, tensor in model.items() if name not in found]:
        wanted = ", ".join(
            f"{tensor.name} ({tensor.datatype} [{','.join(map(str, tensor.shape))}])" for tensor in missing
        )
        raise ConfigError(f"--input is missing for {wanted}; give it as in --input {missing[0].name}=[[1,2]]")
    return found


def read_input(text: str, model: Mapping[str, TensorMetadata]) -> tuple[str, AnyArray]:
    """A flag's input and its array, of the model's dtype where that is known.

    Raises:
        ConfigError: It is no input of the model, or its value cannot be read.
    """
    name, value = _split(text, model)
    if name not in model:
        raise ConfigError(f"--input {name}: the model has no such input; it has {', '.join(model)}")
    dtype = DType.__members__.get(model[name].datatype)
    if not value.startswith("@"):
        return name, _from_json(value, dtype, f"--input {name}")
    path = Path(value[1:])
    try:
        content = read_regular(path, _MOST_FILE_BYTES)
    except OSError as error:
        raise ConfigError(f"--input {name}: {path}: {refusal(path, error)}") from None
    if content.startswith(_NPY):
        return name, _from_npy(path, f"--input {name}")
    if path.suffix == ".json":
        return name, _from_json(content.decode("utf-8", "replace"), dtype, f"--input {name}")
    array = np.empty(1, np.object_)
    array[0] = content
    return name, array


def _split(text: str, model: Mapping[str, TensorMetadata]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if equals and not name.startswith(("@", "[", "{", '"')):
        return name, value
    if len(model) != 1:
        raise ConfigError(
            f"--input {text[:60]}: give its name, as in NAME=VALUE; the model has {', '.join(model)}"
        )
    return next(iter(model)), text


def _from_npy(path: Path, source: str) -> AnyArray:
    try:
        array: AnyArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{source}: {path} is not an array of NumPy: {error}") from None
    if array.dtype.kind == "U":
        return array.astype(np.object_)
    return array


def _from_json(text: str, dtype: DType | None, source: str) -> AnyArray:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{source}: {text[:60]!r} is not JSON ({error}); files are named by @FILE"
        ) from None
    if isinstance(value, dict) and list(value) == ["instances"]:
        value = value["instances"]  # The body of a request of TensorFlow Serving's.
    if dtype is DType.BYTES:
        return _strings(value, source)
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError("numbers are expected, in lists of the same length")
        if dtype is None:
            return array.astype(np.float32) if array.dtype.kind == "f" else array
        if (
            array.dtype.kind == "f"
            and dtype.numpy.kind in "iu"
            and not np.array_equal(array, np.trunc(array))
        ):
            raise ValueError(f"the model takes whole numbers ({dtype.name})")
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(dtype.numpy)
        if dtype.kind is Kind.INTEGER and not np.array_equal(converted, array):
            raise ValueError(f"a value does not fit {dtype.name}")
        if dtype.kind is Kind.FLOAT and not np.array_equal(np.isfinite(converted), np.isfinite(array)):
            raise ValueError(f"a value does not fit {dtype.name}")
        return converted
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{source}: {text[:60]!r}: {error}") from None


def _strings(value: object, source: str) -> AnyArray:
    array = np.asarray(value, np.object_)
    if not all(isinstance(each, str) for each in array.ravel().tolist()):
        raise ConfigError(f"{source}: strings are expected, in lists of the same length")
    return array


def _save(array: AnyArray, file: str) -> None:
    try:
        with open(file, "wb") as out:
            np.save(out, array, allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = "strings cannot be written as .npy" if array.dtype.kind == "O" else error
        raise ConfigError(f"--output {file}: {reason}") from None
