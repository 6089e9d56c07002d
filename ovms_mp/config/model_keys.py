# SPDX-License-Identifier: Apache-2.0
"""The keys of a model in the configuration file, declared once; the flags of a single model have the same names.

``--help``, the second table of SETTINGS.md, the text of errors and the hints for misspelt keys derive from here, and
so does the handling of keys that OVMS has and this server does not support.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ovms_mp.model.batching import MAX_BATCHING
from ovms_mp.model.devices import OPENVINO_DEVICES
from ovms_mp.model.preprocessing import COLOR_FORMATS, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NIREQ = 100_000
MAX_WEIGHT = 1000
MAX_NAME_BYTES = 1024
"""Limit of a model's name in UTF-8, as it is in every snapshot and status, and a part of URLs."""


@dataclass(frozen=True, slots=True)
class ModelKey:
    """The declaration of one key.

    Attributes:
        accepted: Accepted forms of its value.
        default: What its absence means; empty if it is required.
        meaning: One sentence for people.
        flag: Name of the command-line flag if that differs.
    """

    accepted: str
    default: str
    meaning: str
    flag: str = ""


MODEL_KEYS: Mapping[str, ModelKey] = MappingProxyType(
    {
        "name": ModelKey(
            f"a non-empty string of at most {MAX_NAME_BYTES} bytes in UTF-8",
            "",
            "Name that clients use.",
            flag="model_name",
        ),
        "base_path": ModelKey(
            "a path on this machine, or a URL such as s3://bucket/path, gs://bucket/path or az://container/path",
            "",
            "Directory of the version directories 1/, 2/, ..., or a model file, which is version 1, on this machine or "
            "in an object store; in a configuration file, a relative path starts at the file's directory and must not "
            "contain `..`.",
            flag="model_path",
        ),
        "batch_size": ModelKey(
            'a number, "auto", "-1" for any, or a range "1:8"',
            "as stored",
            "Size of dimension N of every input; 0 keeps the stored size. Ignored if shape is given.",
        ),
        "shape": ModelKey(
            '"auto", sizes as in "(1,3,-1,200:500)", or an object {"INPUT": "(1,3)"}; '
            "a size is a number from 1, -1 for any, or a range",
            "as stored",
            "Shape of the only input, or of the named ones; with auto, any shape that the model accepts.",
        ),
        "layout": ModelKey(
            'letters of N, C, H, W, D, ? and ... as in "NHWC" or "NHWC:NCHW", or an object {"TENSOR": "NHWC:NCHW"}',
            "the model's own",
            "Order of the dimensions; with a colon, clients send the first layout, and data is transposed to the "
            "model's, the second.",
        ),
        "mean": ModelKey(
            'a number, one for each channel as in "[123.7,116.3,103.5]", or an object {"INPUT": 127.5}',
            "none",
            "Subtracted from the input, inside the compiled model; several numbers need a layout with C.",
        ),
        "scale": ModelKey(
            'a number that is not 0, one for each channel as in "[58.4,57.1,57.4]", or an object {"INPUT": 255}',
            "none",
            "Divides the input after mean, inside the compiled model; several numbers need a layout with C.",
        ),
        "color_format": ModelKey(
            f'"CLIENT:MODEL" of {", ".join(COLOR_FORMATS)}, as in "BGR:RGB", or an object {{"INPUT": "BGR:RGB"}}',
            "none",
            "Color format that clients send and the one that the model takes; needs a layout with C.",
        ),
        "precision": ModelKey(
            f'"CLIENT:MODEL" of {", ".join(PRECISIONS)}, as in "uint8:fp32", or an object {{"INPUT": "uint8:fp32"}}',
            "the model's own",
            "Element type that clients send and the one that the model takes; needs a layout.",
        ),
        "nireq": ModelKey(
            f"0 (automatic) to {MAX_NIREQ}",
            "0",
            "Number of infer requests for each version; 0 uses the device's optimal number.",
        ),
        "weight": ModelKey(
            f"1 to {MAX_WEIGHT}",
            "1",
            "Share of the device's time in proportion to the weights of other models, while requests for several wait.",
        ),
        "batching": ModelKey(
            f'"auto", "off", or {{"max": N}}, N from 2 to {MAX_BATCHING}',
            "auto",
            "Run requests that wait anyway together; auto does so where a trial at load shows that it pays and changes "
            "no bit of an answer, max wherever it changes no more than rounding; never where requests would look at "
            "each other.",
        ),
        "target_device": ModelKey(
            f"{', '.join(OPENVINO_DEVICES)}, GPU.1, AUTO, AUTO:GPU,CPU, MULTI:a,b, HETERO:a,b, BATCH:d(n) or a "
            "plugin's name",
            "CPU",
            "OpenVINO device; an empty string means AUTO. See `ovms_mp devices`.",
        ),
        "plugin_config": ModelKey(
            'an object of strings, numbers and booleans, as in {"NUM_STREAMS": "2"}',
            "{}",
            "OpenVINO properties for compiling; names of older OVMS versions are translated.",
        ),
        "model_version_policy": ModelKey(
            '{"latest": {"num_versions": N}}, {"all": {}} or {"specific": {"versions": [N]}}, N from 1',
            '{"latest": {"num_versions": 1}}',
            "Which versions on disk to serve.",
        ),
        "allow_cache": ModelKey(
            "true or false",
            "false",
            "Keep compiled models in `--cache_dir` even if batch_size or shape is auto.",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class UnsupportedKey:
    """A key of OVMS that has no counterpart here.

    Attributes:
        remedy: What to do instead of giving it.
        harmless: Values that ask for nothing, besides null, false, 0 and what is empty.
    """

    remedy: str
    harmless: tuple[object, ...] = ()


_STATEFUL = "stateful models are not supported; keep the state in the client, or serve a stateless model"
_GRAPH = "MediaPipe graphs are not supported; serve the graph's models one by one"
_PIPELINE = "pipelines are not supported; serve their models one by one and chain them in the client"
_LOADER = "custom loaders are not supported; store the model in a form that OpenVINO reads"

UNSUPPORTED_MODEL_KEYS: Mapping[str, UnsupportedKey] = MappingProxyType(
    {
        "stateful": UnsupportedKey(_STATEFUL),
        "low_latency_transformation": UnsupportedKey(_STATEFUL),
        # Without stateful these two mean nothing, and files that say their defaults exist.
        "idle_sequence_cleanup": UnsupportedKey(_STATEFUL, (True,)),
        "max_sequence_number": UnsupportedKey(_STATEFUL, (500,)),
        "custom_loader_options": UnsupportedKey(_LOADER),
        "graph_path": UnsupportedKey(_GRAPH),
        "subconfig": UnsupportedKey(_GRAPH),
    }
)
UNSUPPORTED_ROOT_KEYS: Mapping[str, UnsupportedKey] = MappingProxyType(
    {
        "mediapipe_config_list": UnsupportedKey(_GRAPH),
        "pipeline_config_list": UnsupportedKey(_PIPELINE),
        "custom_node_library_config_list": UnsupportedKey(_PIPELINE),
        "custom_loader_config_list": UnsupportedKey(_LOADER),
    }
)
_HARMLESS: tuple[object, ...] = (None, False, 0, "", [], {})


def asks_for_nothing(key: UnsupportedKey, value: object) -> bool:
    """Whether a value of an unsupported key may be ignored."""
    return any(
        value == harmless and isinstance(value, bool) is isinstance(harmless, bool)
        for harmless in (*_HARMLESS, *key.harmless)
    )


def model_settings_table() -> str:
    """All keys of a model as a Markdown table, which SETTINGS.md has between its markers."""
    lines = ["| key and flag | default | accepted | meaning |", "|---|---|---|---|"]
    for name, key in MODEL_KEYS.items():
        flag = f", `--{key.flag}`" if key.flag else ""
        default = key.default or "required"
        lines.append(f"| `{name}`{flag} | {default} | {key.accepted} | {key.meaning} |")
    return "\n".join(lines)
