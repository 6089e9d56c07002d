# SPDX-License-Identifier: Apache-2.0
"""Makes the model `mood`: text in, a mood out. Its tokenizer is a part of it, so clients need none.

The tokenizer is WordPiece, as of BERT, with a vocabulary of a few words. What follows adds up a weight for each token,
where a trained model would have its layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from openvino_tokenizers.tokenizer_pipeline import (
    CaseFoldStep,
    PaddingStep,
    SpecialTokensSplit,
    TokenizerPipeline,
    WhitespaceSplitStep,
    WordPieceTokenizationStep,
)

WEIGHTS = {
    "[PAD]": 0.0,
    "[UNK]": 0.0,
    "love": 2.0,
    "like": 1.0,
    "great": 2.0,
    "happy": 2.0,
    "hate": -2.0,
    "boring": -2.0,
    "wait": -1.0,
    "un": -4.0,
    "##happy": 2.0,
    "##ing": 0.0,
    "##ly": 0.0,
    "##s": 0.0,
    "!": 0.5,
}
"""By token, whose number is its place here. ``##`` begins what goes on with a word."""


def tokenizer() -> ov.Model:
    """A string each [-1] -> ``input_ids`` [-1,-1], the numbers of its tokens, with zeros at the end of short ones."""
    pipeline = TokenizerPipeline()
    pipeline.add_steps(
        [
            SpecialTokensSplit.from_string_iter(["[PAD]", "[UNK]"]),
            CaseFoldStep(),
            WhitespaceSplitStep(),
            WordPieceTokenizationStep(list(WEIGHTS)),
            PaddingStep(token="[PAD]", _token_id=0),  # noqa: S106  # no password
        ]
    )
    return pipeline.get_tokenizer_ov_subgraph()


def mood(first: ov.Model) -> ov.Model:
    """``text`` [-1] -> ``positive`` [-1], from 0 to 1, and the ``tokens`` [-1,-1]."""
    first.input().set_names({"text"})
    ids = first.output("input_ids").get_node().input_value(0)
    weights = ops.gather(ops.constant(np.array(list(WEIGHTS.values()), np.float32)), ids, np.int32(0))
    positive = ops.result(ops.sigmoid(ops.reduce_sum(weights, np.array([1]))))
    positive.output(0).set_names({"positive"})
    tokens = ops.result(ids)
    tokens.output(0).set_names({"tokens"})
    return ov.Model([positive, tokens], first.get_parameters(), "mood")


def main() -> None:
    """Write the model, and the tokens by number."""
    version = Path("models/mood/1")
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(mood(tokenizer()), version / "model.xml", compress_to_fp16=False)
    Path("vocabulary.txt").write_text("\n".join(WEIGHTS) + "\n")


if __name__ == "__main__":
    main()
