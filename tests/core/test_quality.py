"""Scores and the comparison of two targets: known numbers, published figures, words, coverage of the intervals."""

from __future__ import annotations

import csv
import json
import os
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.answers import Answer, decide_frame
from client.core.boxes import Box
from client.core.findings import Quality, Word
from client.core.plan import BoxFrame
from client.core.quality import parity, target_quality
from client.core.resample import Resampling, bootstrap_sums, by_image, images_needed, mcnemar, share_difference, wilson

SHARED = Path(os.environ.get("HALFWEIGHT_SHARED") or Path(__file__).parents[2] / ".." / "shared")
PUBLISHED = SHARED / "data" / "openfoodfacts"
TABLE: Box = (0.2, 0.3, 0.6, 0.7)


def written(box: Box) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in box) + "]"


def answers(texts: list[str | None], truth: tuple[Box, ...] | None = (TABLE,)) -> list[Answer]:
    return [Answer(f"image-{k:04d}", text, truth, 1000, 800) for k, text in enumerate(texts)]


def moved(by: float) -> str:
    return written((TABLE[0] + by, TABLE[1], TABLE[2] + by, TABLE[3]))


def values(quality: Quality) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in quality.scores.items()}


def published(name: str) -> list[Answer]:
    if not PUBLISHED.is_dir():
        pytest.skip(f"needs the third-party files in {PUBLISHED} (set HALFWEIGHT_SHARED)")
    with (PUBLISHED / name).open(newline="") as file:
        return [
            Answer(
                row["image_id"],
                row["prediction"],
                tuple((x1, y1, x2, y2) for y1, x1, y2, x2 in json.loads(row["gt_boxes"])),
                0,
                0,
            )
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(
    ("name", "mean_iou", "precision", "recall", "f1", "coco"),
    [
        ("baseline_predictions.csv", 0.590405, 0.661417, 0.646154, 0.653696, (0.178865, 0.425665, 0.152023)),
        ("finetuned_predictions.csv", 0.766073, 0.926829, 0.876923, 0.901186, (0.493601, 0.807534, 0.451582)),
    ],
)
def test_published_answers_give_the_published_figures(
    name: str, mean_iou: float, precision: float, recall: float, f1: float, coco: tuple[float, float, float]
) -> None:
    """`coco`: AP, AP50 and AP75 of pycocotools 2.0 on the same boxes, each box scored 1 − its IoU: false ones first."""
    quality = target_quality(published(name), BoxFrame.AUTO)
    found = values(quality)
    sweep = tuple(round(found[key] or 0.0, 6) for key in ("ap_50_95", "ap_50", "ap_75"))
    assert sweep == coco
    assert quality.frame == "grid1000"
    assert (quality.answers, quality.truths, quality.unreadable) == (123, 130, 0)
    expected = {"mean_iou": mean_iou, "precision": precision, "recall": recall, "f1": f1}
    assert {key: round(found[key] or 0.0, 6) for key in expected} == expected
    for estimate in quality.scores.values():
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high


def test_scores_by_hand() -> None:
    """Ten images with one table: 6 exact, 2 at IoU 0.6, 1 with a false box beside the true one, 1 without a box."""
    # Shifting a table of width 0.4 by d gives IoU (0.4 - d) / (0.4 + d): 0.1 → 0.6.
    texts = [moved(0.0)] * 6 + [moved(0.1)] * 2 + [moved(0.0) + " [0.8, 0.8, 0.9, 0.9]", "no table here"]
    quality = target_quality(answers(list(texts)), BoxFrame.UNIT)
    found = values(quality)
    assert quality.unreadable == 1
    assert found["mean_iou"] == pytest.approx((7 + 2 * 0.6) / 10)
    assert found["precision"] == pytest.approx(9 / 10)
    assert found["recall"] == pytest.approx(9 / 10)
    assert found["f1"] == pytest.approx(0.9)
    assert found["hit_rate_50"] == pytest.approx(0.9)
    assert found["hit_rate_75"] == pytest.approx(0.7)
    assert found["ap_50"] == pytest.approx(0.9 * 91 / 101)
    # COCO compares 7/10 with 0.7000000000000001, its 71st recall point, and so do we.
    assert found["ap_75"] == pytest.approx(0.7 * 70 / 101)
    assert found["unreadable_rate"] == pytest.approx(0.1)
    assert "1 of 10 answers hold no readable box" in quality.notes[0]


def test_an_image_known_to_hold_no_table_makes_its_boxes_false() -> None:
    judged = [*answers([moved(0.0)] * 12), Answer("empty", moved(0.0), (), 1000, 800)]
    found = values(target_quality(judged, BoxFrame.UNIT))
    assert found["precision"] == pytest.approx(12 / 13)
    assert found["recall"] == 1.0
    assert found["hit_rate_50"] == 1.0


def test_answers_without_known_truth_are_not_scored() -> None:
    quality = target_quality(answers([moved(0.0)] * 12) + answers([moved(0.0)] * 3, None), BoxFrame.UNIT)
    assert quality.answers == 12
    assert any("3 answers belong to images without known true boxes" in note for note in quality.notes)
    alone = target_quality(answers([moved(0.0)] * 12, None), BoxFrame.UNIT)
    assert all(estimate.value is None and estimate.note for estimate in alone.scores.values())


def test_one_image_asked_often_stays_one_image() -> None:
    """The hand-made benchmark asked about one picture again and again: no interval can come from that."""
    same = [Answer("only", moved(0.0), (TABLE,), 1000, 800)] * 50
    quality = target_quality(same, BoxFrame.UNIT)
    assert all(estimate.value is None for estimate in quality.scores.values())
    assert "needs 10 different images or more, has 1" in str(quality.scores["mean_iou"].note)


def test_perfect_scores_keep_an_honest_interval() -> None:
    found = target_quality(answers([moved(0.0)] * 100), BoxFrame.UNIT).scores
    assert found["mean_iou"].value == found["mean_iou"].high == 1.0
    assert found["mean_iou"].low == pytest.approx(0.963, abs=0.001)


def test_missing_and_cut_off_answers_count_as_unreadable() -> None:
    given = [
        *answers([moved(0.0)] * 10 + [None]),
        Answer("cut", "[0.2, 0.3, 0.6, 0.", (TABLE,), 1000, 800, complete=False),
    ]
    quality = target_quality(given, BoxFrame.UNIT)
    assert quality.unreadable == 2
    assert values(quality)["mean_iou"] == pytest.approx(10 / 12)
    assert any("1 of 12 answers were cut off" in note for note in quality.notes)


def test_the_order_of_answers_changes_nothing_but_the_draws() -> None:
    given = answers([moved(0.002 * k) for k in range(60)])
    forwards, backwards = target_quality(given, BoxFrame.UNIT), target_quality(given[::-1], BoxFrame.UNIT)
    assert values(forwards) == pytest.approx(values(backwards))
    assert target_quality(given, BoxFrame.UNIT) == forwards


def test_a_hit_needs_every_true_box_of_the_image() -> None:
    two = (TABLE, (0.7, 0.7, 0.9, 0.9))
    found = values(target_quality(answers([moved(0.0)] * 12, two), BoxFrame.UNIT))
    assert (found["hit_rate_50"], found["recall"], found["precision"]) == (0.0, 0.5, 1.0)


# --- the frame ---


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


# --- parity ---


def jittered(number: int, spread: float, shift: float, seed: int) -> tuple[list[Answer], list[Answer]]:
    """A baseline with box errors, and a candidate that differs by `spread` at random and by `shift` always."""
    draw = random.Random(seed)
    base, other = [], []
    for k in range(number):
        error = abs(draw.gauss(0.03, 0.01))
        base.append(Answer(f"{k}", moved(error), (TABLE,), 0, 0))
        other.append(Answer(f"{k}", moved(max(0.0, error + shift + draw.gauss(0, spread))), (TABLE,), 0, 0))
    return base, other


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


# --- intervals ---


def test_wilson_against_published_values() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert wilson(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148, 0.95) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20, 0.95) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29, 0.95) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_mcnemar_is_the_exact_sign_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(8, 1) == mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)
    assert 0 < mcnemar(60_000, 61_000) < 0.01


def test_share_difference_against_a_published_example() -> None:
    """Newcombe 1998, Statistics in Medicine 17, 2635: method 10 on the table 36, 12, 2, 0 gives 0.0569 to 0.3404 for first − second."""
    assert share_difference(36, 2, 12, 0, 0.95) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_images_needed_by_hand() -> None:
    """(1.959964 + 0.841621)² · 100 = 784.9 when the standard error is as large as the distance."""
    assert images_needed(0.01, 100, 0.01, 0.95) == 785
    assert images_needed(0.01, 100, 0.02, 0.95) == 197


def test_share_difference_contains_it_and_mirrors() -> None:
    low, high = share_difference(40, 10, 5, 45, 0.95)
    assert low < -0.05 < high
    assert share_difference(40, 5, 10, 45, 0.95) == pytest.approx((-high, -low))
    assert share_difference(0, 0, 0, 100, 0.95)[1] > 0.03
    # Shares that rise and fall together differ by less than shares that go their own way.
    together, apart = share_difference(50, 5, 5, 40, 0.95), share_difference(28, 27, 27, 18, 0.95)
    assert together[1] - together[0] < 0.8 * (apart[1] - apart[0])


def test_a_thinned_bootstrap_gives_the_same_interval() -> None:
    rows = np.random.default_rng(5).beta(8, 2, size=(60_000, 1))
    pairs = np.concatenate([rows, np.ones_like(rows)], axis=1)
    found = by_image(pairs, lambda sums: sums[..., :1] / sums[..., 1:], Resampling(resamples=4000))
    half = 1.96 * rows.std() / np.sqrt(len(rows))
    assert found.low[0] == pytest.approx(rows.mean() - half, abs=half * 0.06)
    assert found.high[0] == pytest.approx(rows.mean() + half, abs=half * 0.06)


def test_many_answers_take_seconds_and_little_memory() -> None:
    """10,000 answers, a tenth of a very long run; the limits leave a slow machine ten times what was measured."""
    texts: list[str | None] = [moved(0.001 * (k % 50)) for k in range(10_000)]
    given = answers(texts)
    start = time.process_time()
    target_quality(given, BoxFrame.AUTO)
    parity(given, given, BoxFrame.UNIT)
    assert time.process_time() - start < 15
    rows = np.ones((9_000, 2))
    tracemalloc.start()
    bootstrap_sums(rows, seed=0, resamples=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000, "144 MB would hold all draws at once"


@pytest.mark.parametrize(("number", "least"), [(10, 0.84), (30, 0.87), (100, 0.91)])
def test_intervals_of_a_mean_iou_cover_the_truth(number: int, least: float) -> None:
    """400 experiments with skewed IoUs and 7 % misses. Ten pictures often hold no miss at all, and no interval can know of it."""
    draw = np.random.default_rng(11)

    def ious() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.where(draw.random(number) < 0.07, 0.0, draw.beta(8, 2, number))

    assert least <= coverage(ious, number, 0.93 * 8 / 10) <= 0.985


@pytest.mark.parametrize(("number", "least"), [(10, 0.90), (30, 0.90), (100, 0.91)])
def test_intervals_of_a_paired_difference_cover_the_truth(number: int, least: float) -> None:
    """400 experiments in which 6 of 10 answers are the same and the others move a little."""
    draw = np.random.default_rng(12)

    def changes() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.where(draw.random(number) < 0.4, draw.normal(0, 0.02, number), 0.0)

    assert least <= coverage(changes, number, 0.0) <= 0.985


def coverage(values: Callable[[], np.ndarray[tuple[int], np.dtype[np.float64]]], number: int, truth: float) -> float:
    inside = 0
    for seed in range(400):
        rows = np.stack([values(), np.ones(number)], axis=1)
        found = by_image(rows, lambda sums: sums[..., :1] / sums[..., 1:], Resampling(seed=seed, resamples=500))
        inside += bool(found.low[0] <= truth <= found.high[0])
    return inside / 400


@pytest.mark.parametrize("text", [None, "", "there is no table", "[0.9, 0.9, 0.99, 0.99]"])
def test_two_targets_that_both_find_nothing_are_not_called_as_accurate(text: str | None) -> None:
    """Found on a model with random weights: both answer nothing, and "accuracy holds" would be a lie."""
    found = parity(answers([text] * 60), answers([text] * 60), BoxFrame.UNIT)
    assert found.word is Word.INCONCLUSIVE
    assert "nothing to lose" in found.sentence
    assert found.nothing_to_lose
