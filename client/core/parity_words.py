"""The comparison of two targets' boxes in words: what the numbers allow a sceptic to say, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from client.core import limits
from client.core.findings import Estimate, Parity, Word


def within(value: float, floors: Sequence[Estimate]) -> bool:
    """Is a difference no larger than the same server may differ from itself?"""
    return any(f.low is not None and f.high is not None and f.low <= value <= f.high for f in floors)


def selected(failed: int, pairs: int) -> bool:
    """Are so many pairs left out that the others are a selection?"""
    return failed > limits.ERROR_SHARE * (failed + pairs)


def small_loss(parity: Parity) -> bool:
    """Is a loss shown, though none of the margin? A difference inside the noise of one server shows nothing."""
    value, high = parity.iou_difference.value, parity.iou_difference.high
    if parity.word is not Word.NON_INFERIOR or value is None or high is None or high >= 0:
        return False
    return not within(value, (parity.iou_difference_noise, parity.iou_difference_noise_load))


def told(parity: Parity, images: int, unpaired: int, confidence: float) -> tuple[str, tuple[str, ...]]:
    """One or two sentences for the verdict, and further notes. `unpaired` answers have no partner in the other target."""
    sentence = " ".join(part for part in (_verdict(parity, confidence), _texts(parity)) if part)
    notes = (_noise(parity), _hits(parity), _unreadable(parity), _rare(parity), _left_out(images, unpaired))
    return sentence, tuple(note for note in notes if note)


def spoiled(parity: Parity, code: str) -> Parity:
    """The numbers stay, so that one can see what would have been said; the word and what was made of them do not."""
    if parity.word is Word.NOT_MEASURED:
        return parity
    sentence = f"Accuracy: INVALID (see {code})."
    return msgspec.structs.replace(parity, word=Word.INVALID, sentence=sentence, notes=(), needs_images=None)


def _signed(value: float, figures: int = 4) -> str:
    return f"{value:+.{figures}f}".replace("-", "−")


def _verdict(parity: Parity, confidence: float) -> str:
    difference, margin = parity.iou_difference, f"{parity.margin:g}"
    value, low, high = difference.value, difference.low, difference.high
    if value is None or low is None or high is None:
        return f"Accuracy was not compared ({(difference.note or 'no numbers').removeprefix('not measured: ')})."
    if not parity.failed and parity.same_text.value == 1.0 and value == low == high == 0.0:
        return _all_the_same(parity)
    seen = (
        f"over {difference.n} images{_failed(parity)} the candidate's mean IoU with the true boxes differs by {_signed(value)} "
        f"({confidence * 100:g} % interval {_signed(low)} to {_signed(high)})"
    )
    if parity.word is Word.BETTER:
        return f"More accurate: {seen}; the interval lies above zero."
    if parity.word is Word.NON_INFERIOR:
        loss = "; there is a loss, but one that matters less than the margin" if small_loss(parity) else ""
        return f"Accuracy holds: {seen}, which excludes a loss of {margin}{loss}."
    if parity.word is Word.WORSE:
        return f"Less accurate: {seen}; the loss is real, at least {margin}."
    if parity.word is Word.LESS_ACCURATE:
        return f"Less accurate: {seen}; the loss is real, and one of {margin} or more is not excluded. {_settled_by(parity)}".strip()
    return f"Cannot tell: {seen}. {_why_not(parity, low, high)}"


def _all_the_same(parity: Parity) -> str:
    n = parity.iou_difference.n
    if parity.word is Word.NON_INFERIOR:
        return f"Accuracy holds: on all {n} images the candidate gives the same boxes as the baseline."
    return f"Cannot tell: the boxes are the same on all {n} images, but so few cannot acquit a candidate: ask about {parity.needs_images} or more."


def _failed(parity: Parity) -> str:
    one = parity.failed == 1
    return (
        f" ({parity.failed} answer{' is' if one else 's are'} left out, as {'its' if one else 'their'} request failed)"
        if parity.failed
        else ""
    )


def _why_not(parity: Parity, low: float, high: float) -> str:
    if selected(parity.failed, parity.pairs):
        return "With so many left out the others are a selection: look at the errors first."
    need = _settled_by(parity)
    if low > -parity.margin:
        return f"So few images cannot acquit a candidate, whatever they show: ask about {parity.needs_images} or more."
    if high < 0:
        return f"That is no more than the same server may differ from itself. {need}".strip()
    return f"Both no loss at all and a loss of {parity.margin:g} or more fit what was seen. {need}".strip()


def _settled_by(parity: Parity) -> str:
    return f"About {parity.needs_images} images would probably settle it." if parity.needs_images else ""


def _of(estimate: Estimate) -> str:
    assert estimate.value is not None
    return f"{round(estimate.value * estimate.n)} of {estimate.n}"


def _texts(parity: Parity) -> str:
    same, between = parity.same_text, parity.iou_between
    if same.value is None:
        return ""
    if same.value == 1.0:
        return f"All {same.n} answers are the same text."
    overlap = (
        f"; the boxes of the two overlap with a mean IoU of {between.value:.3f}" if between.value is not None else ""
    )
    high = parity.iou_difference.high
    held = parity.word is Word.NON_INFERIOR and high is not None and high >= 0
    meaning = ": other words, but not less accuracy" if held else ""
    return f"{_of(same)} answers are the same text{overlap}{meaning}."


def _noise(parity: Parity) -> str:
    same, change = parity.same_text_noise, parity.iou_difference_noise
    if parity.same_text.value is None:
        return ""  # nothing was compared that noise could have changed
    if same.value is None:
        return "The noise of one server asked twice was not measured: some of the changed answers may be chance."
    text = (
        f"The baseline asked twice, one request at a time, gives the same text for {_of(same)} images{_moved(change)}."
    )
    load, change = parity.same_text_noise_load, parity.iou_difference_noise_load
    if load.value is None:
        return text
    return f"{text} Asked at the load instead, {_of(load)} are the same{_moved(change)}."


def _moved(change: Estimate) -> str:
    if change.value is None or change.low is None or change.high is None:
        return ""
    if change.value == change.low == change.high == 0:
        return ""  # the same texts: nothing that could differ
    return f", and its mean IoU differs from itself by {_signed(change.value)} ({_signed(change.low)} to {_signed(change.high)})"


def tokens_told(parity: Parity) -> str:
    """The token-level evidence in a sentence; empty where it was not measured."""
    top1, kl = parity.top1_agreement, parity.mean_kl_nats
    if top1.value is None or top1.low is None or top1.high is None or kl.value is None:
        return ""
    own, own_kl = parity.top1_agreement_noise, parity.mean_kl_nats_noise
    noise = (
        f"; the baseline asked twice: {own.value * 100:.1f} % and {own_kl.value:.2g} nats"
        if own.value is not None and own_kl.value is not None
        else ""
    )
    return (
        f"After the same text both like the same next token best at {top1.value * 100:.1f} % of {parity.token_positions:,} positions "
        f"({top1.low * 100:.1f} to {top1.high * 100:.1f} %); their weights for it lie at least {kl.value:.2g} nats apart on average "
        f"(Kullback-Leibler){noise}."
    )


def _hits(parity: Parity) -> str:
    lost, gained = parity.hits_lost, parity.hits_gained
    if lost is None or gained is None or parity.mcnemar_p is None:
        return ""
    if lost == gained == 0:
        return "At IoU 0.5 the candidate finds the table on exactly the same images."
    return f"At IoU 0.5 the candidate loses {_images(lost)} and gains {_images(gained)} (McNemar, exact: p = {parity.mcnemar_p:.2g})."


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _unreadable(parity: Parity) -> str:
    found = parity.unreadable_difference
    if found.value is None or found.low is None or found.high is None or found.value == 0.0:
        return ""
    more = "more" if found.value > 0 else "fewer"
    return (
        f"{abs(found.value) * 100:.1f} % of the answers {more} are unreadable with the candidate "
        f"(difference {_signed(found.low * 100, 1)} to {_signed(found.high * 100, 1)} points)."
    )


def _rare(parity: Parity) -> str:
    """Rule of three: an event that n images did not show may still have a rate of 3/n."""
    n = parity.iou_difference.n
    if parity.word not in (Word.NON_INFERIOR, Word.BETTER) or n < 4:
        return ""
    return f"A failure on fewer than about 1 image in {n // 3} may well not show in {n} images."


def _left_out(images: int, unpaired: int) -> str:
    return (
        f"{unpaired} answers have no partner in the other target and are left out; {_images(images)} are paired."
        if unpaired
        else ""
    )
