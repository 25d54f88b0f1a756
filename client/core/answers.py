"""Saved answers, and the one coordinate frame in which a whole run of them is read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from client.core.boxes import SLACK, Box, frame_size, iou, read_boxes, to_unit, written_boxes
from client.core.plan import BoxFrame

_ORDER = (BoxFrame.UNIT, BoxFrame.GRID1000, BoxFrame.PIXELS, BoxFrame.RESIZED_PIXELS)
_JUDGED = 2000
"""Answers compared with their truths to decide a frame: enough to tell frames apart, whatever the size of the run."""
_CLOSE = 0.02
_FAR = 0.2


class Answer(msgspec.Struct, frozen=True):
    """What one target said of one picture. `width` and `height` are the sent picture's, in pixels; 0: not known."""

    image_id: str
    text: str | None
    """None: there is no answer. It counts as unreadable, unless its request failed."""
    truth: tuple[Box, ...] | None
    """None: not known. (): known to hold no box."""
    width: int
    height: int
    pass_: str = "measure"
    """Tells answers to the same picture apart (`concurrency 1`, `load`); pairs are only made within one."""
    complete: bool = True
    """False when the server stopped at the token limit, or the answer broke off."""
    failed: bool = False
    """The request failed (HTTP error, connection, time-out): what the model would have said is not known, and counts for nothing."""

    def boxes(self, frame: BoxFrame) -> tuple[Box, ...]:
        return read_boxes(self.text, frame, self.width, self.height, complete=self.complete)


class FrameDecision(msgspec.Struct, frozen=True):
    """`disagreeing` answers write a box that does not fit `frame`. `note` says what was decided and warns; None: nothing to say."""

    frame: BoxFrame
    note: str | None
    disagreeing: int


class _Votes:
    """How many answers fit each frame, and which answers can be compared with a truth."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = 0
        self.fits = dict.fromkeys(_ORDER, 0)
        self.judged: list[tuple[Answer, tuple[Box, ...]]] = []
        for answer in answers:
            written = [b for b in written_boxes(answer.text, complete=answer.complete) if b[2] > b[0] and b[3] > b[1]]
            if not written:
                continue
            self.answers += 1
            for frame in _fitting(answer, written):
                self.fits[frame] += 1
            if answer.truth and len(self.judged) < _JUDGED:
                self.judged.append((answer, answer.truth))

    def mean_iou(self, frame: BoxFrame) -> float | None:
        """Over the judged truths, best box each; None without truths or when the frame needs sizes that are not known."""
        total, truths = 0.0, 0
        for answer, truth in self.judged:
            if not _sized(answer, frame):
                return None
            boxes = answer.boxes(frame)
            total += sum(max((iou(box, true) for box in boxes), default=0.0) for true in truth)
            truths += len(truth)
        return total / truths if truths else None


def _sized(answer: Answer, frame: BoxFrame) -> bool:
    return frame in (BoxFrame.UNIT, BoxFrame.GRID1000) or (answer.width > 0 and answer.height > 0)


def _fitting(answer: Answer, written: Sequence[Box]) -> list[BoxFrame]:
    """Frames that hold all boxes of the answer. Numbers up to 1 speak for `unit` alone: every frame holds them, none would write them."""
    if max(max(box) for box in written) <= 1 + SLACK:
        return [BoxFrame.UNIT] if all(to_unit(box, (1.0, 1.0)) for box in written) else []
    found = []
    for frame in _ORDER[1:]:
        size = frame_size(frame, answer.width, answer.height) if _sized(answer, frame) else None
        if size is not None and all(to_unit(box, size) for box in written):
            found.append(frame)
    return found


def decide_frame(answers: Sequence[Answer], declared: BoxFrame) -> FrameDecision:
    """The frame for a whole run: give it the answers of all targets together.

    A declared frame stands, and the note warns when answers do not fit it. `auto` takes the frames that fit nearly as many answers as the
    best one does; among these, the one that agrees best with the true boxes, and without truths the first of unit, grid1000, pixels,
    resized-pixels. One choice among four for all answers of all targets favours none of them.
    """
    votes = _Votes(answers)
    if declared is not BoxFrame.AUTO:
        return _declared(votes, declared)
    if votes.answers == 0:
        return FrameDecision(BoxFrame.UNIT, "auto: no answer writes a box, so there is no frame to decide.", 0)
    most = max(votes.fits.values())
    likely = [frame for frame in _ORDER if votes.fits[frame] >= 0.9 * most and votes.fits[frame] > 0] or [BoxFrame.UNIT]
    scores = (
        {frame: score for frame in likely if (score := votes.mean_iou(frame)) is not None} if len(likely) > 1 else {}
    )
    frame = max(scores, key=lambda key: scores[key]) if scores else likely[0]
    fits = votes.fits[frame]
    note = f"auto: read as {frame}, which fits {fits} of the {votes.answers} answers that write a box"
    rivals = [other for other in likely if other is not frame]
    if rivals and scores:
        told = ", ".join(f"{score:.3f} as {key}" for key, score in scores.items())
        close = any(scores[frame] - scores.get(other, 0.0) < _CLOSE for other in rivals)
        note += f", by agreement with the true boxes (mean IoU {told})"
        note += "; these are close: declare --box-frame if you know it" if close else ""
    elif rivals:
        note += f"; {' and '.join(rivals)} would fit as well, and no true boxes are known: declare --box-frame if you know it"
    return FrameDecision(frame, note + "." + _misfits(votes, frame), votes.answers - fits)


def _misfits(votes: _Votes, frame: BoxFrame) -> str:
    count = votes.answers - votes.fits[frame]
    if count == 0:
        return ""
    other = max((key for key in _ORDER if key is not frame), key=lambda key: votes.fits[key])
    elsewhere = f"; {votes.fits[other]} answers fit {other}" if votes.fits[other] > votes.fits[frame] else ""
    return f" WARNING: {count} of {votes.answers} answers do not fit {frame}{elsewhere}."


def _declared(votes: _Votes, frame: BoxFrame) -> FrameDecision:
    note = _misfits(votes, frame).strip()
    scores = {key: score for key in _ORDER if votes.fits[key] and (score := votes.mean_iou(key)) is not None}
    own = votes.mean_iou(frame)
    best = max(scores, key=lambda key: scores[key], default=frame)
    if own is not None and best is not frame and scores[best] > own + _FAR:
        note += (
            f" WARNING: read as {best}, the same answers would score a mean IoU of {scores[best]:.3f} instead of {own:.3f}:"
            f" is --box-frame {frame} right?"
        )
    return FrameDecision(frame, note.strip() or None, votes.answers - votes.fits[frame])
