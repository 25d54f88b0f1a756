"""The comparison of two targets: what is paired with what, and which word is said."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marked import TABLE, answers, jittered, moved

from client.core.answers import Answer
from client.core.boxes import Box
from client.core.findings import Estimate, Word
from client.core.plan import BoxFrame
from client.core.quality import parity, target_quality


def test_repeated_answers_are_paired_in_order_and_count_as_one_image() -> None:
    names = [f"{k}" for k in range(20)] * 2
    base = [Answer(name, moved(0.0), (TABLE,), 0, 0) for name in names]
    other = [Answer(name, moved(0.0 if k < 20 else 0.1), (TABLE,), 0, 0) for k, name in enumerate(names)]
    found = parity(base, other, BoxFrame.UNIT)
    assert found.same_text.value == pytest.approx(0.5)
    assert found.iou_difference.n == found.same_text.n == 20
    assert found.iou_difference.value == pytest.approx(-0.2)


def test_a_box_without_a_partner_lowers_the_overlap_and_two_silences_are_no_same_text() -> None:
    base = answers([moved(0.0)] * 20 + [None] * 20)
    other = answers([moved(0.0) + " [0.8, 0.8, 0.9, 0.9]"] * 20 + [None] * 20)
    for found in (parity(base, other, BoxFrame.UNIT), parity(other, base, BoxFrame.UNIT)):
        assert found.iou_between.value == pytest.approx(0.5)
        assert found.iou_between.n == 20
        assert found.same_text.value == 0.0


def test_the_margin_decides() -> None:
    base, other = jittered(100, 0.02, 0.002, seed=5)
    low = parity(base, other, BoxFrame.UNIT).iou_difference.low
    assert low is not None
    assert low < 0
    assert parity(base, other, BoxFrame.UNIT, margin=-low * 1.01).word is Word.NON_INFERIOR
    assert parity(base, other, BoxFrame.UNIT, margin=-low * 0.99).word is not Word.NON_INFERIOR


def test_many_changed_words_with_the_same_accuracy_are_non_inferior() -> None:
    draw = random.Random(3)
    base, other = [], []
    for k in range(100):
        error = 0.02 + 0.001 * draw.randrange(10)
        change = 0.0 if k < 58 else draw.choice((-0.005, 0.005))
        base.append(Answer(f"{k}", moved(error), (TABLE,), 0, 0))
        other.append(Answer(f"{k}", moved(error + change), (TABLE,), 0, 0))
    found = parity(base, other, BoxFrame.UNIT, noise=(base, base))
    assert found.word is Word.NON_INFERIOR
    assert found.same_text.value == pytest.approx(0.58)
    assert "58 of 100 answers are the same text" in found.sentence
    assert "other words, but not less accuracy" in found.sentence
    assert "there is a loss" not in found.sentence
    assert found.hits_lost == found.hits_gained == 0
    assert found.mcnemar_p == 1.0


@pytest.mark.parametrize(
    ("number", "spread", "shift", "word"),
    [
        (200, 0.002, 0.0, Word.NON_INFERIOR),
        (200, 0.002, 0.02, Word.WORSE),
        (200, 0.002, -0.01, Word.BETTER),
        (40, 0.05, 0.0, Word.INCONCLUSIVE),
        (12, 0.0, 0.0, Word.INCONCLUSIVE),
        (12, 0.001, 0.05, Word.WORSE),
        (5, 0.0, 0.0, Word.NOT_MEASURED),
    ],
)
def test_words(number: int, spread: float, shift: float, word: Word) -> None:
    found = parity(*jittered(number, spread, shift, seed=1), BoxFrame.UNIT)
    assert found.word is word, found.sentence
    assert (found.needs_images is not None) == (word is Word.INCONCLUSIVE)
    if found.needs_images:
        assert found.needs_images > number
        assert str(found.needs_images) in found.sentence


@pytest.mark.parametrize("seed", range(6))
def test_a_loss_across_the_margin_is_shown_but_not_its_size(seed: int) -> None:
    """-0.0067 [-0.0143, -0.0006] was called worse by more than the margin of 0.01."""
    base, other = jittered(60, 0.006, 0.008, seed)
    change = parity(base, other, BoxFrame.UNIT).iou_difference
    assert change.low is not None
    assert change.high is not None
    assert change.high < 0
    margin = (change.low + change.high) / -2.1
    found = parity(base, other, BoxFrame.UNIT, margin=margin)
    assert found.word is Word.LESS_ACCURATE
    assert f"one of {margin:g} or more is not excluded" in found.sentence
    assert found.needs_images is None or f"About {found.needs_images} images" in found.sentence
    sure = parity(base, other, BoxFrame.UNIT, margin=-change.high * 0.9)
    assert sure.word is Word.WORSE
    assert "at least" in sure.sentence
    assert sure.needs_images is None
    assert parity(base, other, BoxFrame.UNIT, margin=margin, noise=(base, other)).word is Word.INCONCLUSIVE


def test_a_loss_of_just_the_margin_names_no_number_of_images() -> None:
    base, other = jittered(60, 0.01, 0.005, 1)
    change = parity(base, other, BoxFrame.UNIT).iou_difference
    found = parity(base, other, BoxFrame.UNIT, margin=-(change.value or 0.0))
    assert (found.word, found.needs_images) == (Word.LESS_ACCURATE, None)
    assert "None" not in found.sentence


def test_a_small_loss_inside_the_noise_of_one_server_is_not_named() -> None:
    base, other = jittered(400, 0.0003, 0.0008, seed=2)
    assert "there is a loss" in parity(base, other, BoxFrame.UNIT).sentence
    assert "there is a loss" not in parity(base, other, BoxFrame.UNIT, noise=(base, other)).sentence


def test_an_open_case_asks_for_enough_images() -> None:
    """Whatever was seen between no loss and the margin, settling it takes about twice the images or more."""
    open_cases = [parity(*jittered(60, 0.006, 0.001, seed), BoxFrame.UNIT, resamples=400) for seed in range(12)]
    needs = [case.needs_images for case in open_cases if case.word is Word.INCONCLUSIVE]
    assert len(needs) > 2
    assert min(need or 0 for need in needs) > 1.7 * 60


def test_a_small_sure_loss_inside_the_margin_is_named() -> None:
    found = parity(*jittered(400, 0.0003, 0.0008, seed=2), BoxFrame.UNIT)
    assert found.word is Word.NON_INFERIOR
    assert "a loss, but one that matters less than the margin" in found.sentence
    assert "not less accuracy" not in found.sentence


def test_a_difference_no_larger_than_the_noise_is_not_called_worse() -> None:
    base, other = jittered(200, 0.002, 0.02, seed=1)
    assert parity(base, other, BoxFrame.UNIT).word is Word.WORSE
    found = parity(base, other, BoxFrame.UNIT, noise=(base, other))
    assert found.word is Word.INCONCLUSIVE
    assert "no more than the same server may differ from itself" in found.sentence


def test_noise_at_the_load_counts_as_noise_and_is_told() -> None:
    base, other = jittered(200, 0.002, 0.02, seed=1)
    found = parity(base, other, BoxFrame.UNIT, noise=(base, base), noise_load=(base, other))
    assert found.word is Word.INCONCLUSIVE
    assert found.same_text_noise.value == 1.0
    assert found.same_text_noise_load.value == found.same_text.value
    assert found.iou_difference_noise_load.value == found.iou_difference.value
    assert any("Asked at the load instead" in note and "differs from itself" in note for note in found.notes)


def test_unreadable_answers_of_the_candidate_cost_iou_and_are_named() -> None:
    base = answers([moved(0.0)] * 60)
    other = answers([moved(0.0)] * 50 + ["I cannot see a table."] * 10)
    found = parity(base, other, BoxFrame.UNIT)
    assert found.word is Word.WORSE
    assert found.iou_difference.value == pytest.approx(-1 / 6)
    assert found.unreadable_difference.value == pytest.approx(1 / 6)
    assert (found.hits_lost, found.hits_gained) == (10, 0)
    assert found.mcnemar_p == pytest.approx(2 / 2**10)
    assert any("16.7 % of the answers more are unreadable" in note for note in found.notes)


def test_only_pairs_of_one_pass_are_compared() -> None:
    base = answers([moved(0.0)] * 40)
    other = [Answer(a.image_id, a.text, a.truth, a.width, a.height, pass_="load") for a in base]
    found = parity(base, other, BoxFrame.UNIT)
    assert found.word is Word.NOT_MEASURED
    assert any("80 answers have no partner" in note for note in found.notes)
    assert "not compared (no picture was put to both in the same pass)" in found.sentence


@pytest.mark.parametrize(("mine", "yours"), [(None, None), (moved(0.0), None), (None, moved(0.0)), ("half", "half")])
def test_where_no_picture_was_answered_by_both_there_is_no_number(mine: str | None, yours: str | None) -> None:
    """Two silences read as a difference of +0.0000 [+0.0000, +0.0000], and as the same images found."""
    half = [moved(0.0)] * 30 + [None] * 30
    base = answers(half if mine == "half" else [mine] * 60)
    other = answers(half[::-1] if yours == "half" else [yours] * 60)
    found = parity(base, other, BoxFrame.UNIT, noise=(base, other), noise_load=(base, other))
    assert found.word is Word.NOT_MEASURED
    assert found.sentence == "Accuracy was not compared (there is no picture that both answered)."
    every = [getattr(found, field) for field in found.__struct_fields__]
    numbers = [item for item in every if isinstance(item, Estimate)]
    assert [item.value for item in numbers] == [None] * len(numbers)
    assert (found.mcnemar_p, found.hits_lost, found.hits_gained) == (None, None, None)
    assert found.nothing_to_lose == (mine is None)
    assert found.notes == ()


def test_answers_without_any_box_are_no_difference_of_nought() -> None:
    found = parity(answers(["none here"] * 60), answers(["nor here"] * 60), BoxFrame.UNIT)
    assert found.word is Word.INCONCLUSIVE
    assert found.iou_difference == Estimate(note="not measured: no answer holds a box")


def test_without_truths_only_agreement_is_told() -> None:
    base = answers([moved(0.0)] * 40, None)
    found = parity(base, base, BoxFrame.UNIT)
    assert found.word is Word.NOT_MEASURED
    assert "no true box is known" in found.sentence
    assert found.same_text.value == 1.0
    assert found.iou_between.value == 1.0
    assert found.mcnemar_p is None


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_swapping_the_targets_mirrors_the_difference(seed: int) -> None:
    base, other = jittered(40, 0.01, 0.005, seed)
    there, back = parity(base, other, BoxFrame.UNIT), parity(other, base, BoxFrame.UNIT)
    assert there.iou_difference.value == pytest.approx(-(back.iou_difference.value or 0.0))
    assert there.iou_difference.low == pytest.approx(-(back.iou_difference.high or 0.0), abs=2e-3)
    assert (there.hits_lost, there.mcnemar_p) == (back.hits_gained, back.mcnemar_p)


some_text = st.one_of(
    st.none(),
    st.text(max_size=30),
    st.text(alphabet="[](),.0123456789 ", max_size=60),
    st.sampled_from(["[0.1, 0.2, 0.5, 0.6]", "t(100,200),(500,600)(0,0),(9,9)", "[5, 5, 90, 90]", "[0, 0, 0, 0]"]),
)


some_truth = st.sampled_from([None, (), (TABLE,), (TABLE, (0.1, 0.1, 0.9, 0.9), TABLE)])


@given(
    given=st.lists(st.tuples(st.integers(0, 15), some_text, some_text, some_truth), max_size=40),
    frame=st.sampled_from(list(BoxFrame)),
    size=st.sampled_from([(640, 480), (3, 700), (1, 1)]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_answered_gives_sound_figures(
    given: list[tuple[int, str | None, str | None, tuple[Box, ...] | None]], frame: BoxFrame, size: tuple[int, int]
) -> None:
    base = [Answer(f"{image}", mine, truth, *size) for image, mine, _, truth in given]
    other = [Answer(f"{image}", yours, truth, *size, complete=image % 2 == 0) for image, _, yours, truth in given]
    found = parity(base, other, frame, noise=(base, base), resamples=200)
    scores = target_quality(base, frame, resamples=200).scores
    for estimate in (*scores.values(), found.iou_between, found.same_text):
        if estimate.value is None:
            assert estimate.note
            continue
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value - 1e-12 <= estimate.high <= 1
    assert found.sentence
    assert "nan" not in found.sentence


@pytest.mark.parametrize("text", ["", "there is no table", "[0.9, 0.9, 0.99, 0.99]"])
def test_two_targets_that_both_find_nothing_are_not_called_as_accurate(text: str) -> None:
    """Found on a model with random weights: both answer nothing, and "accuracy holds" would be a lie."""
    found = parity(answers([text] * 60), answers([text] * 60), BoxFrame.UNIT)
    assert found.word is Word.INCONCLUSIVE
    assert "nothing to lose" in found.sentence
    assert found.nothing_to_lose
