"""A request that failed says nothing of the model's answer: accuracy is over what both said, and what is left out is told."""

from __future__ import annotations

import made
import msgspec
import pytest
from marked import TABLE, answers, moved

from client.core.analysis import analyse
from client.core.answers import Answer
from client.core.disagreements import worst_disagreements
from client.core.evidence import Evidence
from client.core.findings import Word
from client.core.measured import answers_of, measured_in
from client.core.overlaps import overlaps_of
from client.core.plan import BoxFrame
from client.core.quality import parity, target_quality
from client.core.records import ImageFact, Outcome
from client.reports.tables import main_rows

FAILED = [o for o in Outcome if o not in (Outcome.OK, Outcome.EMPTY, Outcome.CANCELLED, Outcome.LOST)]
GONE = {0, 7}


def run(outcome: Outcome, gone: set[int] = GONE, requests: int = 64) -> Evidence:
    """The same right box for every picture; of these indexes the candidate's request ended otherwise."""
    records = []
    for index in range(requests):
        text = moved(0.001 * (index % 5))
        for target in ("bf16", "fp8"):
            name, sent = f"p{index}", index * 1000.0 + 500 * (target == "fp8")
            if target == "fp8" and index in gone:
                records.append(made.failed(target, index, sent, outcome, image_id=name))
            else:
                records.append(made.record(target, index, sent, image_id=name, text=text))
    images = {
        f"p{k}": ImageFact(image_id=f"p{k}", width=64, height=64, sent_bytes=1, sha256="", boxes=(TABLE,))
        for k in range(requests)
    }
    return made.evidence(records, images=images)


@pytest.mark.parametrize("outcome", FAILED)
def test_a_failed_request_is_no_wrong_answer(outcome: Outcome) -> None:
    """One 503 of 30 gave "less accurate, the loss is real" and "keep bf16"; the numbers were said to be over answered requests."""
    found = measured_in(run(outcome))
    pair = found.parity["fp8"]
    assert pair.word is Word.NON_INFERIOR
    assert (pair.iou_difference.value, pair.iou_difference.n) == (0.0, 62)
    assert (pair.pairs, pair.failed) == (62, 2)
    assert "over 62 images (2 answers are left out, as their request failed)" in pair.sentence
    assert (pair.hits_lost, pair.unreadable_difference.value) == (0, 0.0)
    quality = found.quality["fp8"]
    assert (quality.answers, quality.unreadable) == (62, 0)
    assert any("2 of 64 requests failed and are not scored" in note for note in quality.notes)


def test_an_answer_without_a_token_stays_wrong() -> None:
    pair = measured_in(run(Outcome.EMPTY)).parity["fp8"]
    assert (pair.pairs, pair.failed, pair.iou_difference.n) == (64, 0, 64)
    assert (pair.iou_difference.value or 0.0) < -0.02


def test_what_broke_off_in_its_middle_is_no_answer_either() -> None:
    whole = answers([moved(0.0)] * 40)
    broken = [Answer(a.image_id, "[0.2, 0.3", a.truth, 0, 0, complete=False, failed=k == 0) for k, a in enumerate(whole)]  # fmt: skip
    found = parity(whole, broken, BoxFrame.UNIT)
    assert (found.pairs, found.failed) == (39, 1)
    assert found.word is Word.WORSE, "the others did answer, and were cut off"


def test_an_arm_that_answered_nothing_has_no_accuracy() -> None:
    """Not a mean IoU of 0.000."""
    evidence = run(Outcome.HTTP_ERROR, set(range(64)))
    findings = analyse(evidence, measured_in(evidence))
    row = next(row for row in main_rows(findings) if row[0] == "Accuracy, mean IoU")
    assert row[2:] == ["not measured", "not measured"]
    assert row[1].startswith("0.9")
    silent = msgspec.structs.replace(evidence, records=evidence.records.only(evidence.records.where("fp8")))
    assert "accuracy (mean IoU)" in analyse(silent, measured_in(silent)).not_measured, (
        "a row that is missing is not noticed"
    )
    pair = findings.comparison
    assert pair is not None
    assert pair.parity.word is Word.NOT_MEASURED
    assert "there is no picture that both answered" in pair.parity.sentence


def test_what_a_selection_shows_is_no_proof() -> None:
    """Of quality passes no gate counts the failures: a server that fails on the hard pictures would look right."""
    base = answers([moved(0.0)] * 100)
    for gone, word in ((5, Word.NON_INFERIOR), (6, Word.INCONCLUSIVE)):
        other = [Answer(a.image_id, a.text, a.truth, 0, 0, failed=k < gone) for k, a in enumerate(base)]
        found = parity(base, other, BoxFrame.UNIT)
        assert found.word is word
    assert "a selection" in found.sentence
    assert "None" not in found.sentence


def test_repetitions_stay_paired_in_order_around_a_failure() -> None:
    names = [f"{k % 20}" for k in range(60)]
    base = [Answer(n, moved(0.001 * (k // 20)), (TABLE,), 0, 0) for k, n in enumerate(names)]
    other = [Answer(a.image_id, None if k == 3 else a.text, a.truth, 0, 0, failed=k == 3) for k, a in enumerate(base)]
    found = parity(base, other, BoxFrame.UNIT)
    assert (found.pairs, found.failed, found.same_text.value) == (59, 1, 1.0)


def test_pictures_of_failed_requests_are_not_what_to_look_at() -> None:
    evidence = run(Outcome.RESET)
    first, second = (answers_of(evidence, name) for name in ("bf16", "fp8"))
    assert worst_disagreements(first, second, BoxFrame.UNIT) == ()
    found = overlaps_of(evidence, "bf16", "fp8", 100)
    assert found.of == len(found.image_ids) == 62
    assert min(found.candidate_iou) > 0.9


def test_a_file_of_answers_keeps_its_empty_ones() -> None:
    """Nobody can tell there why an answer is missing."""
    quality = target_quality(answers([moved(0.0)] * 30 + [None]), BoxFrame.UNIT)
    assert (quality.answers, quality.unreadable) == (31, 1)
