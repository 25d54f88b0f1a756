"""What the small model is asked, and at which size it sees a picture: without torch."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core.plan import DEFAULT_PROMPT
from server.tiny.task import MODEL_FILES, PROMPT, answer, iou, pixel_budget, read_answer, seen_size

unit = st.floats(0, 1)


def test_the_model_is_trained_on_the_prompt_that_the_client_sends() -> None:
    assert PROMPT == DEFAULT_PROMPT


@given(st.tuples(unit, unit, unit, unit))
def test_an_answer_has_one_length_and_reads_back(box: tuple[float, float, float, float]) -> None:
    assert len(answer(box)) == 28
    assert read_answer(answer(box)) == pytest.approx(box, abs=0.000501)


def test_what_is_no_answer() -> None:
    assert read_answer("no table") is None
    assert read_answer("[0.1, 0.2, 0.3]") is None


@pytest.mark.parametrize(
    ("size", "budget", "seen"),
    [((1024, 759), 12_845_056, (1036, 756)), ((1024, 759), 470_400, (784, 588)), ((1024, 759), 200_704, (504, 364)), ((56, 56), 200_704, (56, 56))],
)  # fmt: skip
def test_sizes_are_those_of_the_image_processor(size: tuple[int, int], budget: int, seen: tuple[int, int]) -> None:
    assert seen_size(*size, budget) == seen


@given(st.integers(28, 4000), st.integers(28, 4000))
def test_no_picture_is_seen_larger_than_the_budget(width: int, height: int) -> None:
    wide, high = seen_size(width, height, pixel_budget())
    assert wide % 28 == high % 28 == 0
    # Halves of a cell may round up on a very long and narrow picture only.
    assert wide * high <= pixel_budget() or min(wide, high) == 28


def test_iou() -> None:
    assert iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert iou((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0
    assert iou((0, 0, 0.5, 1), (0, 0, 1, 1)) == 0.5


def test_the_model_files_agree() -> None:
    config = json.loads((MODEL_FILES / "config.json").read_text())
    tokens = {t["content"]: t["id"] for t in json.loads((MODEL_FILES / "tokenizer.json").read_text())["added_tokens"]}
    assert config["image_token_id"] == tokens["<|image_pad|>"]
    assert json.loads((MODEL_FILES / "generation_config.json").read_text())["eos_token_id"] == [tokens["<|im_end|>"]]
    assert config["vision_config"]["hidden_size"] == config["text_config"]["hidden_size"]
