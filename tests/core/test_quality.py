"""The scores of one target: known numbers, and the published figures from the published answers."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from marked import TABLE, answers, moved, values

from client.core.answers import Answer
from client.core.plan import BoxFrame
from client.core.quality import target_quality

SHARED = Path(os.environ.get("HALFWEIGHT_SHARED") or Path(__file__).parents[2] / ".." / "shared")


PUBLISHED = SHARED / "data" / "openfoodfacts"


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
