# SPDX-License-Identifier: Apache-2.0
"""Operations of tokenizers: OpenVINO's package ``openvino-tokenizers``, an extension library of its core.

The package itself is not imported, which would change openvino's classes in this process. Its library is loaded when
the first model needs it. PERF: 5 ms and 8 MB.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_mp.errors import ModelLoadFailed
from ovms_mp.worker.engine.engine import engine_text

if TYPE_CHECKING:
    import openvino as ov

_PACKAGE = "openvino_tokenizers"
_LIBRARY = Path("lib", f"lib{_PACKAGE}.so")
_OPERATION_SET = "unsupported opset: extension"
"""What OpenVINO says of a model with operations of an extension that it has not."""


def needs_tokenizers(refusal: str) -> bool:
    """Whether OpenVINO's reason for not reading a model is that operations of an extension are missing."""
    return _OPERATION_SET in refusal


def add_tokenizers(core: ov.Core, refusal: str) -> None:
    """Add the operations of tokenizers to a core.

    Args:
        core: The process's.
        refusal: What it said of a model without them; for the message.

    Raises:
        ModelLoadFailed: They are not installed, or for another release of OpenVINO.
    """
    package = importlib.util.find_spec(_PACKAGE)
    for directory in (package.submodule_search_locations or ()) if package is not None else ():
        library = Path(directory, _LIBRARY)
        if library.is_file():
            try:
                core.add_extension(str(library))
            except RuntimeError as error:
                raise ModelLoadFailed(
                    f"it has operations of an extension, and openvino-tokenizers, whose version must be OpenVINO's, "
                    f"cannot be loaded: {engine_text(error)}"
                ) from None
            return
    raise ModelLoadFailed(
        f"it has operations that OpenVINO itself lacks ({refusal}); if they are those of a tokenizer: "
        f"pip install 'ovms_mp[tokenizers]', else give their library by --cpu_extension"
    )
