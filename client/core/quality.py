"""How right the boxes of one target are, and whether a candidate's are as right as the baseline's.

The definitions of the scores stand in `client.core.boxscores`, the intervals in `client.core.resample`. Intervals are bootstrap
intervals by image; shares of images, and any score that is 0 or 1 on every image, get Wilson intervals instead, because a bootstrap
sees no spread there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from client.core import boxscores
from client.core.answers import Answer, FrameDecision, decide_frame
from client.core.findings import Estimate, Parity, Quality, Word
from client.core.pairs import FEWEST_IMAGES, PairEstimates, Pairs, places, too_few, unpaired
from client.core.parity_words import selected, told, within
from client.core.plan import BoxFrame
from client.core.resample import Floats, Resampling, by_image, images_needed, mcnemar, wilson

__all__ = ["Answer", "FrameDecision", "decide_frame", "parity", "target_quality"]

FEWEST_FOR_PARITY = 30
"""Fewer images may convict a candidate, but never acquit it."""
WORTH_LOSING = 10
"""A baseline whose mean IoU is less than so many margins has no accuracy that a candidate could be shown to keep."""
MOST_IMAGES = 1_000_000
"""More are no advice."""
_SHARES = {"hit_rate_50", "hit_rate_75", "hit_rate_90", "unreadable_rate"}
_UNITS = {"mean_iou": "iou", "precision": "share", "recall": "share", **dict.fromkeys(_SHARES, "share")}


def target_quality(
    answers: Sequence[Answer],
    frame: BoxFrame,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Quality:
    """Scores of one target over its answers with a known truth. An answer without a readable box scores IoU 0 and stays in; a request that
    failed gave no answer to score.

    With `auto` the frame is decided over these answers alone; decide it over all targets first where there are several.
    """
    decision = decide_frame(answers, frame)
    known = [answer for answer in answers if answer.truth is not None]
    judged = [answer for answer in known if not answer.failed]
    place = places(answer.image_id for answer in judged)
    rows = np.zeros((len(place), boxscores.COLUMNS))
    for answer in judged:
        boxscores.fill(rows[place[answer.image_id]], answer.boxes(decision.frame), answer.truth or ())
    unreadable = int(rows[:, boxscores.UNREADABLE].sum())
    return Quality(
        scores=_estimates(rows, Resampling(confidence, seed, resamples), silent=bool(known) and not judged),
        answers=len(judged),
        truths=int(rows[:, boxscores.TRUTHS].sum()),
        unreadable=unreadable,
        frame=str(decision.frame),
        frame_note=decision.note,
        notes=_notes(judged, unreadable, len(known), len(answers)),
    )


def _estimates(rows: Floats, how: Resampling, silent: bool) -> dict[str, Estimate]:
    n = len(rows)
    if silent:
        return dict.fromkeys(boxscores.NAMES, unpaired("no request was answered"))
    if n < FEWEST_IMAGES:
        return {name: too_few(n) for name in boxscores.NAMES}
    found = by_image(rows, boxscores.scores, how)
    return {
        name: _score(name, n, value, low, high, how.confidence)
        for name, value, low, high in zip(boxscores.NAMES, found.value, found.low, found.high, strict=True)
    }


def _score(name: str, n: int, value: float, low: float, high: float, confidence: float) -> Estimate:
    if not math.isfinite(value):
        what = "no answer holds a box" if name == "precision" else "no true box is known"
        return Estimate(n=n, note=f"not measured: {what}")
    if name in _SHARES or value in (0.0, 1.0):
        low, high = wilson(value * n, n, confidence)
    return Estimate(value=float(value), low=float(low), high=float(high), n=n, unit=_UNITS.get(name, ""))


def _notes(judged: Sequence[Answer], unreadable: int, known: int, given: int) -> tuple[str, ...]:
    notes = []
    if failed := known - len(judged):
        notes.append(
            f"{failed} of {known} requests failed and are not scored: what the model would have said is not known."
        )
    if unreadable:
        notes.append(f"{unreadable} of {len(judged)} answers hold no readable box: they score IoU 0 and stay in.")
    if broken := sum(not answer.complete and answer.text is not None for answer in judged):
        notes.append(f"{broken} of {len(judged)} answers were cut off; a box that was not finished is not read.")
    if unknown := given - known:
        notes.append(f"{unknown} answers belong to images without known true boxes and are not scored.")
    return tuple(notes)


def parity(
    baseline: Sequence[Answer],
    candidate: Sequence[Answer],
    frame: BoxFrame,
    *,
    margin: float = 0.01,
    noise: tuple[Sequence[Answer], Sequence[Answer]] | None = None,
    noise_load: tuple[Sequence[Answer], Sequence[Answer]] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Parity:
    """Is the candidate as right as the baseline? Paired by image, pass and repetition.

    `noise` holds two sets of answers of one server to the same pictures: what greedy decoding alone changes; `noise_load` the same with
    the second set asked at the load. The word follows from the
    interval of IoU(candidate, truth) − IoU(baseline, truth) at `confidence`, two-sided, so that each end alone errs half as often:
    better: above 0; non-inferior: above −margin; worse: not above −margin anywhere; less accurate: below 0, but on both sides of −margin;
    else inconclusive.
    """
    decided = decide_frame([*baseline, *candidate], frame).frame
    how = Resampling(confidence, seed, resamples)
    pairs = Pairs(baseline, candidate, decided)
    difference, between, same, error = pairs.estimates(how)
    floor, between_noise, same_noise, _ = _noise_of(noise, decided, how)
    floor_load, between_load, same_load, _ = _noise_of(noise_load, decided, how)
    own = _mean_iou(baseline, decided)
    poor = own is not None and own < WORTH_LOSING * margin
    if own is not None and poor and pairs.answered:
        return _nothing_to_lose(own, margin, difference, same)
    word, judged = _word(difference, margin, floor, floor_load), bool(pairs.judged and pairs.answered)
    if word is not Word.NOT_MEASURED and selected(pairs.failed, pairs.pairs):
        word = Word.INCONCLUSIVE
    found = Parity(
        word=word,
        iou_difference=difference,
        iou_between=between,
        same_text=same,
        same_text_noise=same_noise,
        iou_difference_noise=floor,
        iou_between_noise=between_noise,
        iou_difference_noise_load=floor_load,
        iou_between_noise_load=between_load,
        same_text_noise_load=same_load,
        mcnemar_p=mcnemar(pairs.lost, pairs.gained) if judged else None,
        hits_lost=pairs.lost if judged else None,
        hits_gained=pairs.gained if judged else None,
        nothing_to_lose=poor,
        unreadable_difference=pairs.unreadable_difference(confidence),
        margin=margin,
        needs_images=None
        if selected(pairs.failed, pairs.pairs)
        else _needs(word, difference, error, margin, confidence),
        pairs=pairs.pairs,
        failed=pairs.failed,
    )
    sentence, notes = told(found, pairs.images, pairs.unpaired, confidence)
    return msgspec.structs.replace(found, sentence=sentence, notes=notes)


def _noise_of(
    sets: tuple[Sequence[Answer], Sequence[Answer]] | None, frame: BoxFrame, how: Resampling
) -> PairEstimates:
    if sets is None:
        none = Estimate(note="not measured")
        return PairEstimates(none, none, none, math.nan)
    return Pairs(*sets, frame).estimates(how)


def _mean_iou(answers: Sequence[Answer], frame: BoxFrame) -> float | None:
    """The baseline's own accuracy; None where no truth is known."""
    judged = [answer for answer in answers if answer.truth and not answer.failed]
    if not judged:
        return None
    sums = np.zeros(boxscores.COLUMNS)
    for answer in judged:
        boxscores.fill(sums, answer.boxes(frame), answer.truth or ())
    return float(boxscores.scores(sums)[boxscores.NAMES.index("mean_iou")])


def _nothing_to_lose(own: float, margin: float, difference: Estimate, same: Estimate) -> Parity:
    """A model that finds nothing in either precision is equally bad in both: that is no parity."""
    return Parity(
        word=Word.INCONCLUSIVE,
        sentence=f"Cannot tell whether accuracy holds: the baseline's own mean IoU is {own:.3f}, so there is nothing to lose. "
        "Look at the answers: is the model trained for this, is the prompt the one of its training, is --box-frame right?",
        iou_difference=difference,
        same_text=same,
        margin=margin,
        nothing_to_lose=True,
    )


def _word(difference: Estimate, margin: float, *floors: Estimate) -> Word:
    value, low, high = difference.value, difference.low, difference.high
    if value is None or low is None or high is None:
        return Word.NOT_MEASURED
    if low > -margin:
        if difference.n < FEWEST_FOR_PARITY:
            return Word.INCONCLUSIVE
        return Word.BETTER if low > 0 and not within(value, floors) else Word.NON_INFERIOR
    if high >= 0 or within(value, floors):
        return Word.INCONCLUSIVE
    return Word.WORSE if high <= -margin else Word.LESS_ACCURATE


def _needs(word: Word, difference: Estimate, error: float, margin: float, confidence: float) -> int | None:
    """Images that would settle an open case if the difference stayed what it is now. None where none would: a loss of just the margin."""
    value = difference.value
    if word not in (Word.INCONCLUSIVE, Word.LESS_ACCURATE) or value is None:
        return None
    away = max(value + margin, -value) if word is Word.INCONCLUSIVE else abs(value + margin)
    if away * math.sqrt(MOST_IMAGES) <= error * math.sqrt(difference.n):  # before it is divided by
        return None
    needed = max(FEWEST_FOR_PARITY, images_needed(error, difference.n, away, confidence))
    return needed if needed <= MOST_IMAGES else None
