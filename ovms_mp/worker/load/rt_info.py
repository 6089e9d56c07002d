# SPDX-License-Identifier: Apache-2.0
"""What a model's file says of the model: the ``model_info`` in the runtime information of an IR.

Training tools and openvino-model-api leave it there, e.g. the labels of classes. Clients read it as metadata.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from openvino import OVAny

if TYPE_CHECKING:
    import openvino as ov

_log = logging.getLogger(__name__)

MOST_BYTES = 64 << 10
"""As JSON; of a thousand labels some 20 KB. It is a part of each routing snapshot."""
_DEEPEST = 16
_KEY = "model_info"

RtInfo: TypeAlias = "dict[str, str | RtInfo]"


def rt_info_text(model: ov.Model, title: str) -> str:
    """The information as JSON, ``{"model_info": {...}}`` with texts and further objects; empty where there is none.

    Args:
        model: As it was read; what adapts it may lose this.
        title: For the log, where it is left out.
    """
    try:
        info = dict(model.get_rt_info().items())
        value = info.get(_KEY)
        entries = value.value if isinstance(value, OVAny) else value
        if not isinstance(entries, dict) or not entries:
            return ""
        text = msgspec.json.encode({_KEY: _texts(entries, 1)})
    except (RuntimeError, ValueError, TypeError) as error:
        _log.warning("event=rt_info_left_out model=%s it cannot be read: %s", title, error)
        return ""
    if len(text) > MOST_BYTES:
        _log.warning(
            "event=rt_info_left_out model=%s its model_info takes %d bytes, at most %d are sent to clients",
            title,
            len(text),
            MOST_BYTES,
        )
        return ""
    return text.decode()


def _texts(entries: dict[str, object], depth: int) -> RtInfo:
    """The entries with texts for whatever is no object; what lies too deep is a text, too."""
    found: RtInfo = {}
    for key, value in entries.items():
        plain = value.value if isinstance(value, OVAny) else value
        if isinstance(plain, dict) and depth < _DEEPEST:
            found[str(key)] = _texts(plain, depth + 1)
        elif isinstance(plain, list | tuple):
            found[str(key)] = " ".join(str(item) for item in plain)  # As a file has lists.
        else:
            found[str(key)] = str(plain)
    return found
