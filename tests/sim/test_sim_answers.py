"""The simulated model looks at the picture: it finds our tables, says the same again, and fp8 differs as real fp8 does."""

from __future__ import annotations

import re
import statistics

import numpy as np
import pytest

from client.core.pictures.photo import synthetic
from server.simulator.answer import Box, as_tokens, cut_at_stop, noisy, write_boxes
from server.simulator.eye import SIDE, find_table
from server.simulator.tokens import image_tokens, smart_resize, split_text
from server.simulator.vision import look


def iou(a: Box, b: Box) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (area - both)


def test_tables_of_the_synthetic_photographs_are_found() -> None:
    """Series 31 was not in the training set, which is series 777."""
    found = []
    for number in range(24):
        case = synthetic(31, number, 512, 380)
        assert case.boxes is not None
        box = look(case.jpeg)
        found.append(iou(box, case.boxes[0]) if box else 0.0)
    assert statistics.mean(found) > 0.85
    assert min(found) > 0.4


def test_the_answer_is_about_the_picture_and_not_a_constant() -> None:
    boxes = [look(synthetic(32, number, 512, 380).jpeg) for number in range(2)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert iou(boxes[0], boxes[1]) < 0.9


def test_an_empty_picture_shows_no_table() -> None:
    assert find_table(np.full((SIDE, SIDE), 90, np.uint8)) is None


def texts(precision: str, seed: int = 0) -> list[tuple[float, ...]]:
    boxes = [(0.1 + i / 1000, 0.2 + i / 1500, 0.6 + i / 1200, 0.8 - i / 1700) for i in range(300)]
    told = [write_boxes([noisy(box, f"p{i}", precision, seed, 0, None)], "unit") for i, box in enumerate(boxes)]
    return [tuple(float(v) for v in re.findall(r"[\d.]+", text)) for text in told]


def test_fp8_changes_many_texts_by_a_hundredth_and_few_by_more() -> None:
    pairs = list(zip(texts("bf16"), texts("fp8"), strict=True))
    changed = sum(a != b for a, b in pairs) / len(pairs)
    assert 0.3 < changed < 0.6
    steps = [max(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in pairs]
    assert sum(step < 0.021 for step in steps) / len(steps) > 0.95
    assert max(steps) < 0.08


def test_answers_belong_to_the_seed() -> None:
    assert texts("fp8", 3) == texts("fp8", 3)
    assert texts("fp8", 3) != texts("fp8", 4)


def test_a_temperature_brings_chance_and_a_seed_takes_it_back() -> None:
    box = (0.123, 0.234, 0.567, 0.678)
    free = {noisy(box, "p", "bf16", 0, 1.0, None) for _ in range(5)}
    fixed = {noisy(box, "p", "bf16", 0, 1.0, 9) for _ in range(5)}
    assert (len(free), len(fixed)) == (5, 1)
    assert noisy(box, "p", "bf16", 0, 0.01, None) == noisy(box, "p", "bf16", 0, 0.0, None)


def test_the_grid_form_is_the_fine_tuned_models() -> None:
    assert write_boxes([(0.278, 0.495, 0.726, 0.625)], "grid") == "nutrition-table(278,495),(726,625)"


def test_the_seeds_answer_is_24_tokens_and_its_prompt_24_more() -> None:
    pieces, reason = as_tokens("[0.05, 0.38, 0.55, 0.6]", 64, 0, False)
    assert (len(pieces), pieces[-1], reason) == (24, "", "stop")
    prompt = "Detect the nutrition table. Provide bounding box in [x_min, y_min, x_max, y_max] format."
    assert len(split_text(prompt)) == 24


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((1024, 759), 999), ((640, 480), 391), ((256, 190), 63), ((2048, 1518), 3942), ((4208, 3120), 16280)],
)
def test_image_tokens_are_qwens(size: tuple[int, int], tokens: int) -> None:
    assert image_tokens(*size) == tokens


def test_resizing_keeps_its_bounds() -> None:
    assert smart_resize(10, 10) == (56, 56)
    wide, high = smart_resize(20_000, 10_000)
    assert wide * high <= 12_845_056
    with pytest.raises(ValueError, match="aspect"):
        smart_resize(3000, 10)


def test_lengths_are_obeyed() -> None:
    text = "[0.1, 0.2, 0.3, 0.4]"
    assert as_tokens(text, 5, 0, False) == (["[", "0", ".", "1", ","], "length")
    assert [len(as_tokens(text, 200, 0, True)[0]), as_tokens(text, 200, 0, True)[1]] == [200, "length"]
    pieces, reason = as_tokens(text, 64, 40, False)
    assert (len(pieces), reason) == (40, "stop")


def test_a_stop_text_ends_the_answer_before_itself() -> None:
    pieces, _ = as_tokens("[0.1, 0.2]", 64, 0, False)
    kept, stop = cut_at_stop(pieces, ("2]", ", 0"))
    assert ("".join(kept), stop) == ("[0.1", ", 0")
    assert cut_at_stop(pieces, ("xyz",)) == (pieces, None)
