"""The images on which two targets' boxes differ most: what a person should look at."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from client.core import boxscores
from client.core.answers import Answer, decide_frame
from client.core.boxes import Box, match
from client.core.pairs import heard
from client.core.plan import BoxFrame


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """Boxes of two targets on one picture. IoUs with the truth are means over the true boxes; None without a known one."""

    image_id: str
    pass_: str
    truth: tuple[Box, ...] | None
    baseline: tuple[Box, ...]
    candidate: tuple[Box, ...]
    baseline_iou: float | None
    candidate_iou: float | None
    between: float
    """IoU of the two targets' boxes with one another; boxes without a partner count as 0."""


def worst_disagreements(
    baseline: Sequence[Answer], candidate: Sequence[Answer], frame: BoxFrame, *, count: int = 12
) -> tuple[Disagreement, ...]:
    """At most `count` images, one entry each: the least overlap between the targets first, then the largest change against the truth.

    Images on which both give the same boxes, or neither gives one, are left out, and those of which a request failed.
    """
    if frame is BoxFrame.AUTO:  # a declared frame stands, and looking at every answer takes time
        frame = decide_frame([*baseline, *candidate], frame).frame
    found = (_disagreement(a, b, frame) for _, a, b in heard(baseline, candidate))
    ranked = sorted((item for item in found if item is not None and item.between < 1.0), key=_rank)
    first: dict[str, Disagreement] = {}
    for item in ranked:
        if len(first) == count:
            break
        first.setdefault(item.image_id, item)
    return tuple(first.values())


def _disagreement(a: Answer, b: Answer, frame: BoxFrame) -> Disagreement | None:
    mine, yours = a.boxes(frame), b.boxes(frame)
    if not mine and not yours:
        return None
    truth = a.truth
    return Disagreement(
        image_id=a.image_id,
        pass_=a.pass_,
        truth=truth,
        baseline=mine,
        candidate=yours,
        baseline_iou=boxscores.best_sum(mine, truth) / len(truth) if truth else None,
        candidate_iou=boxscores.best_sum(yours, truth) / len(truth) if truth else None,
        between=sum(pair.iou for pair in match(mine, yours)) / max(len(mine), len(yours)),
    )


def _rank(item: Disagreement) -> tuple[float, float, str]:
    change = abs((item.candidate_iou or 0.0) - (item.baseline_iou or 0.0))
    return item.between, -change, item.image_id
