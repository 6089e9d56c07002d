# SPDX-License-Identifier: Apache-2.0
"""The demo's shipped files, its drawing and its curl line."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest

from ovms_mp.demo.check import Place, curl_line
from ovms_mp.demo.command import SURE_DIGIT
from ovms_mp.demo.digits import draw, load_held_out, model_directory

_MODEL_LIMIT_BYTES = 1_000_000


def test_held_out_digits_are_images_with_labels() -> None:
    images, labels = load_held_out()

    assert images.shape == (len(labels), 8, 8)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert images.min() == 0
    assert images.max() == 16
    assert np.array_equal(images, np.rint(images))


def test_held_out_digits_are_as_stratified_as_the_whole_set() -> None:
    _, labels = load_held_out()

    counts = np.bincount(labels)
    assert len(counts) == 10
    # A quarter of the 174 to 183 digits of each class.
    assert counts.min() >= 43
    assert counts.max() <= 46


def test_the_digit_of_once_exists() -> None:
    images, _ = load_held_out()
    assert 0 <= SURE_DIGIT < len(images)


def test_model_directory_holds_one_small_version() -> None:
    files = sorted(
        path.relative_to(model_directory()) for path in model_directory().rglob("*") if path.is_file()
    )

    assert [str(path) for path in files] == ["1/model.bin", "1/model.xml"]
    assert sum((model_directory() / path).stat().st_size for path in files) < _MODEL_LIMIT_BYTES


def test_drawing_shades_each_pixel_in_its_place() -> None:
    image = np.zeros((8, 8), dtype=np.float32)
    image[0, 1] = 16
    image[7, 7] = 4

    lines = draw(image).split("\n")

    assert lines[0] == "  ██" + " " * 12
    assert lines[1:7] == [" " * 16] * 6
    assert lines[7] == " " * 14 + "░░"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding"])
def test_drawing_is_ascii_where_the_terminal_has_no_blocks(encoding: str) -> None:
    images, _ = load_held_out()

    drawing = draw(images[0], encoding)

    assert drawing.isascii()
    assert "@@" in drawing
    assert {len(line) for line in drawing.split("\n")} == {16}


def test_drawing_uses_blocks_where_an_old_code_page_has_them() -> None:
    images, _ = load_held_out()
    assert draw(images[0], "cp437") == draw(images[0], "utf-8")


def test_drawing_refuses_what_is_no_digit() -> None:
    with pytest.raises(ValueError, match=re.escape("(8, 8), not (1, 8, 8)")):
        draw(np.zeros((1, 8, 8), dtype=np.float32))


def test_curl_line_carries_the_image_through_the_shell() -> None:
    images, _ = load_held_out()

    line = curl_line(Place(8000, 8001), images[3])
    words = shlex.split(line)

    assert "\n" not in line
    assert words[0] == "curl"
    assert words[-1] == "http://127.0.0.1:8001/v1/models/digits:predict"
    body = words[words.index("-d") + 1]
    assert json.loads(body) == {"instances": [images[3].astype(int).tolist()]}
    # Whole numbers: the line has to fit a reader's screen.
    assert "." not in body
