"""Findings -> what they say of accuracy, beyond the one number of the main table: the scores, and what was decided and left out."""

from __future__ import annotations

from client.core.findings import Estimate, Findings
from client.reports.format import NOT_MEASURED, estimate, number

SCORES = {
    "mean_iou": "mean IoU per true box",
    "precision": "precision at IoU 0.5",
    "recall": "recall at IoU 0.5",
    "f1": "F1 at IoU 0.5",
    "ap_50_95": "AP 0.50:0.95, no confidences",
    "ap_50": "AP at 0.50",
    "ap_75": "AP at 0.75",
    "hit_rate_50": "images with all found at 0.50",
    "hit_rate_75": "images with all found at 0.75",
    "hit_rate_90": "images with all found at 0.90",
    "unreadable_rate": "unreadable answers",
}
"""Name of each score in findings.json, and what a reader calls it."""


def accuracy_rows(findings: Findings) -> list[list[str]]:
    """A score a row, a target a column. Empty when nothing could be scored."""
    found = [target.quality for target in findings.targets.values()]
    if all(quality is None for quality in found):
        return []
    counts = [
        ["answers scored", *("" if quality is None else f"{quality.answers:,}" for quality in found)],
        ["true boxes", *("" if quality is None else f"{quality.truths:,}" for quality in found)],
    ]
    if not any(item.value is not None for quality in found if quality is not None for item in quality.scores.values()):
        # One row says it: a dozen with the same words would hide that there is only one thing to know.
        first = next(iter(SCORES))
        return [*counts, ["every score", *(NOT_MEASURED if q is None else _score(q.scores.get(first)) for q in found)]]
    scores = [
        [label, *(NOT_MEASURED if quality is None else _score(quality.scores.get(name)) for quality in found)]
        for name, label in SCORES.items()
    ]
    return counts + scores


def _score(item: Estimate | None) -> str:
    """Without the unit: a share of 1.00 is no amount of anything."""
    if item is None or item.value is None or item.low is None or item.high is None:
        return estimate(item)
    return f"{number(item.value, places=3)} [{number(item.low, places=3)}, {number(item.high, places=3)}]"


def accuracy_notes(findings: Findings) -> list[str]:
    """In which frame the boxes were read, what could not be read, and how the targets compare beside the noise of one."""
    qualities = {name: target.quality for name, target in findings.targets.items() if target.quality is not None}
    frames = {f"Boxes are read as {quality.frame}." for quality in qualities.values() if quality.frame_note is None}
    frames |= {f"Box frame, {quality.frame_note}" for quality in qualities.values() if quality.frame_note is not None}
    notes = sorted(frames)
    notes += [f"{name}: {note}" for name, quality in qualities.items() for note in quality.notes]
    for pair in findings.comparisons:
        told = [pair.parity.sentence, *pair.parity.notes]
        notes += [f"{pair.candidate} against {pair.baseline}: {note}" for note in told if note]
    return notes


def frame_warnings(findings: Findings) -> list[str]:
    """What a reader of the terminal must not miss: the frame that `auto` chose, warnings of it, and unreadable answers."""
    notes = {
        f"Box frame, {target.quality.frame_note}"
        for target in findings.targets.values()
        if target.quality is not None and target.quality.frame_note is not None
    }
    unread = [
        f"{name}: {target.quality.unreadable} of {target.quality.answers} answers hold no readable box (IoU 0)"
        for name, target in findings.targets.items()
        if target.quality is not None and target.quality.unreadable
    ]
    return [*sorted(notes), *unread]
