"""How two targets' boxes lie on each picture: the points of a scatter, and the pictures on which they differ most."""

from __future__ import annotations

import msgspec
import numpy as np

from client.core import boxscores
from client.core.answers import decide_frame
from client.core.disagreements import Disagreement, worst_disagreements
from client.core.evidence import Evidence
from client.core.measured import answers_of, asked_once
from client.core.pairs import heard


class Overlaps(msgspec.Struct, frozen=True, kw_only=True):
    """IoU with the true boxes, of both targets, picture by picture (every `of`-th of many). `worst` comes worst first."""

    baseline: str
    candidate: str
    image_ids: tuple[str, ...] = ()
    baseline_iou: tuple[float, ...] = ()
    candidate_iou: tuple[float, ...] = ()
    of: int = 0
    worst: tuple[Disagreement, ...] = ()


def overlaps_of(evidence: Evidence, baseline: str, candidate: str, most: int) -> Overlaps:
    """Empty where no true box is known or no answers were kept."""
    first, second = (asked_once(answers_of(evidence, name)) for name in (baseline, candidate))
    if not any(answer.text is not None for answer in (*first, *second)):
        return Overlaps(baseline=baseline, candidate=candidate)
    frame = decide_frame([*first, *second], evidence.plan.workload.box_frame).frame
    known = [pair for pair in heard(first, second) if pair[1].truth]
    shown = [known[k] for k in np.unique(np.linspace(0, len(known) - 1, min(most, len(known))).astype(int))]
    points = []
    for key, a, b in shown:
        truth = a.truth or ()
        ious = (boxscores.best_sum(side.boxes(frame), truth) / len(truth) for side in (a, b))
        points.append((key[0], *(round(float(value), 4) for value in ious)))
    return Overlaps(
        baseline=baseline,
        candidate=candidate,
        image_ids=tuple(point[0] for point in points),
        baseline_iou=tuple(point[1] for point in points),
        candidate_iou=tuple(point[2] for point in points),
        of=len(known),
        worst=worst_disagreements(first, second, frame, count=8),
    )
