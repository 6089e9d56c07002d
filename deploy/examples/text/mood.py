# SPDX-License-Identifier: Apache-2.0
"""Says in which mood texts were written. Strings are sent as they are: the model has its tokenizer in it.

Usage: ``python mood.py grpc://127.0.0.1:9000 "I love it" "How boring"``
"""

from __future__ import annotations

import sys
from pathlib import Path

from ovms_mp.client import Client, ClientError

MODEL = "mood"
SURE = 0.7
PADDING = 0


def word(positive: float) -> str:
    """What people call it."""
    if positive >= SURE:
        return "positive"
    return "negative" if positive <= 1 - SURE else "neutral"


def pieces(tokens: list[int], vocabulary: list[str]) -> str:
    """What the tokenizer has made of a text."""
    return " ".join(vocabulary[token] for token in tokens if token != PADDING)


def main() -> None:
    """Ask about all texts in one request."""
    if len(sys.argv) < 3:
        sys.exit("usage: python mood.py URL TEXT...")
    url, *texts = sys.argv[1:]
    vocabulary = Path("vocabulary.txt").read_text().split()
    try:
        with Client(url, timeout=10) as client:
            outputs = client.predict(MODEL, {"text": texts})
    except ClientError as error:
        sys.exit(f"{url}: {error}")
    for text, positive, tokens in zip(texts, outputs["positive"], outputs["tokens"], strict=True):
        print(f"{word(positive):8}  {positive:.2f}  {text}  ({pieces(tokens.tolist(), vocabulary)})")


if __name__ == "__main__":
    main()
