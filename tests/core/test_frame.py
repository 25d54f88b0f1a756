"""In which frame a run's boxes are written: found from the whole run, never from one answer."""

from __future__ import annotations

import random

import msgspec
import pytest
from marked import TABLE, answers

from client.core.answers import Answer, decide_frame
from client.core.plan import BoxFrame


def in_frame(frame: BoxFrame, size: tuple[int, int], number: int = 40) -> list[Answer]:
    draw = random.Random(7)
    sides = {BoxFrame.UNIT: (1, 1), BoxFrame.GRID1000: (1000, 1000), BoxFrame.PIXELS: size}[frame]
    given = []
    for k in range(number):
        x, y = draw.uniform(0, 0.7), draw.uniform(0, 0.7)
        truth = (x, y, x + 0.25, y + 0.25)
        figures = 3 if frame is BoxFrame.UNIT else 0
        text = "[" + ", ".join(f"{v * side:.{figures}f}" for v, side in zip(truth, sides * 2, strict=True)) + "]"
        given.append(Answer(f"{k}", text, (truth,), *size))
    return given


@pytest.mark.parametrize("frame", [BoxFrame.UNIT, BoxFrame.GRID1000, BoxFrame.PIXELS])
@pytest.mark.parametrize("size", [(640, 480), (1024, 759), (3000, 2000)])
def test_auto_finds_the_frame_from_the_whole_run(frame: BoxFrame, size: tuple[int, int]) -> None:
    decision = decide_frame(in_frame(frame, size), BoxFrame.AUTO)
    assert decision.frame is frame
    assert decision.note is not None
    assert f"read as {frame}" in decision.note
    assert decision.disagreeing == 0


def test_auto_never_reads_a_single_answer_its_own_way() -> None:
    run = in_frame(BoxFrame.GRID1000, (640, 480), 40) + in_frame(BoxFrame.UNIT, (640, 480), 4)
    decision = decide_frame(run, BoxFrame.AUTO)
    assert decision.frame is BoxFrame.GRID1000
    assert decision.disagreeing == 4
    assert "WARNING: 4 of 44 answers do not fit grid1000" in (decision.note or "")


def test_a_frame_that_fits_few_answers_is_not_chosen_for_its_agreement() -> None:
    """Forty wrong answers on the grid and four right ones in 0..1."""
    wrong = [
        Answer(a.image_id, "[980, 980, 1000, 1000]", a.truth, *(640, 480)) for a in in_frame(BoxFrame.UNIT, (640, 480))
    ]
    right = [msgspec.structs.replace(a, image_id=f"r{a.image_id}") for a in in_frame(BoxFrame.UNIT, (640, 480), 4)]
    assert decide_frame(wrong + right, BoxFrame.AUTO).frame is BoxFrame.GRID1000


def test_a_cut_off_number_of_an_answer_is_not_read() -> None:
    text = "x_min: 0.1, y_min: 0.2, x_max: 0.5, y_max: 0.6"
    whole = Answer("a", text, (TABLE,), 0, 0)
    assert whole.boxes(BoxFrame.UNIT) == ((0.1, 0.2, 0.5, 0.6),)
    assert msgspec.structs.replace(whole, complete=False).boxes(BoxFrame.UNIT) == ()


def test_auto_without_truths_says_what_it_cannot_tell() -> None:
    run = [Answer(a.image_id, a.text, None, a.width, a.height) for a in in_frame(BoxFrame.PIXELS, (640, 480))]
    assert "declare --box-frame" in (decide_frame(run, BoxFrame.AUTO).note or "")


def test_a_declared_frame_stands_and_warns() -> None:
    run = in_frame(BoxFrame.GRID1000, (640, 480))
    wrong = decide_frame(run, BoxFrame.UNIT)
    assert wrong.frame is BoxFrame.UNIT
    assert wrong.disagreeing == 40
    assert "is --box-frame unit right?" in (wrong.note or "")
    assert decide_frame(run, BoxFrame.GRID1000).note is None


def test_no_box_at_all_leaves_nothing_to_decide() -> None:
    decision = decide_frame(answers(["sorry", None]), BoxFrame.AUTO)
    assert decision.disagreeing == 0
    assert "no answer writes a box" in (decision.note or "")
