"""What is counted on each image, and the scores that follow from sums of these counts.

Definitions, over images with known truths:
  mean_iou        for each true box the best IoU over the boxes of the answer (0 when it has none), averaged over true boxes
  precision, recall, f1   at IoU 0.5, predictions and truths paired one to one, greedily from the highest IoU down
  hit_rate_T      share of images in which every true box is found, one to one, at IoU T/100
  ap_T, ap_50_95  average precision at IoU T, and its mean over 0.50, 0.55 … 0.95 (COCO's sweep, COCO's 101 recall points).
                  These models give boxes without a confidence, so there is one operating point: precision counts up to the recall
                  that was reached, and as 0 beyond. pycocotools gives the same number when false boxes are ranked first (the least
                  kind order), which tests/core/test_quality.py holds against its output.
  unreadable_rate share of answers in which no box can be read
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.core.boxes import Box, iou, match
from client.core.resample import Floats

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_HITS = (0, 5, 8)
"""Positions of 0.50, 0.75 and 0.90 in THRESHOLDS."""

TRUTHS, PREDICTIONS, BEST, IMAGES, ANSWERS, UNREADABLE = range(6)
_FOUND = 6
_HIT = _FOUND + len(THRESHOLDS)
COLUMNS = _HIT + len(_HITS)

NAMES = (
    "mean_iou",
    "precision",
    "recall",
    "f1",
    "ap_50_95",
    "ap_50",
    "ap_75",
    "hit_rate_50",
    "hit_rate_75",
    "hit_rate_90",
    "unreadable_rate",
)


def best_sum(boxes: Sequence[Box], truth: Sequence[Box]) -> float:
    """Sum over true boxes of the best IoU; misses add 0."""
    if not boxes:
        return 0.0
    return sum(max(iou(box, true) for box in boxes) for true in truth)


def matched(boxes: Sequence[Box], truth: Sequence[Box]) -> list[float]:
    """IoUs of the one-to-one pairs, highest first."""
    if len(boxes) == 1 and len(truth) == 1:
        return [value] if (value := iou(boxes[0], truth[0])) > 0 else []
    return [pair.iou for pair in match(boxes, truth)]


def fill(row: Floats, boxes: Sequence[Box], truth: Sequence[Box]) -> None:
    """Add one answer to the counts of its image. `row` has COLUMNS places."""
    row[ANSWERS] += 1
    row[UNREADABLE] += not boxes
    row[TRUTHS] += len(truth)
    row[PREDICTIONS] += len(boxes)
    if not truth:
        return
    row[IMAGES] += 1
    pairs = matched(boxes, truth)
    row[BEST] += pairs[0] if len(truth) == 1 and pairs else best_sum(boxes, truth)
    if not pairs:
        return
    found = np.searchsorted(-np.asarray(pairs), -THRESHOLDS, side="right")
    row[_FOUND:_HIT] += found
    for place, threshold in enumerate(_HITS):
        row[_HIT + place] += found[threshold] == len(truth)


def scores(sums: Floats) -> Floats:
    """Sums over images, shape (…, COLUMNS), to NAMES, shape (…, len(NAMES)); NaN without a denominator."""
    truths, predictions = sums[..., TRUTHS, None], sums[..., PREDICTIONS, None]
    found = sums[..., _FOUND:_HIT]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = found / predictions, found / truths
        f1 = 2 * found[..., :1] / (predictions + truths)
        reached = np.searchsorted(_RECALLS, recall, side="right") / len(_RECALLS)
        ap = np.where(found > 0, precision * reached, np.where(truths > 0, 0.0, np.nan))
        return np.concatenate(
            [
                sums[..., BEST, None] / truths,
                precision[..., :1],
                recall[..., :1],
                f1,
                ap.mean(axis=-1, keepdims=True),
                ap[..., [0]],
                ap[..., [5]],
                sums[..., _HIT:] / sums[..., IMAGES, None],
                sums[..., UNREADABLE, None] / sums[..., ANSWERS, None],
            ],
            axis=-1,
        )
