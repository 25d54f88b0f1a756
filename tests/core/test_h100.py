"""The verdict on a real pair: our own recordings must lead to the words that are true of them."""

from __future__ import annotations

import h100
import pytest

from client.core.analysis import Measured, analyse
from client.core.findings import Effect, Findings, Word
from client.core.table import RecordTable

ALIKE = (Word.NO_DIFFERENCE, Word.EQUIVALENT)


def verdict(*phases: str, concurrency: int = 1) -> Findings:
    return analyse(h100.evidence(*phases, concurrency=concurrency), Measured(memory=h100.memory()))


def effects(findings: Findings) -> dict[str, Effect]:
    assert findings.comparison is not None
    return findings.comparison.effects


@pytest.mark.parametrize("phases", [("unique_a",), ("unique_a", "unique_a2")])
def test_different_images_one_at_a_time(phases: tuple[str, ...]) -> None:
    found = effects(verdict(*phases))
    assert found["e2e_p50"].word in ALIKE
    assert found["ttft_p50"].word is Word.SLOWER
    assert found["ttft_p50"].ratio.value == pytest.approx(1.30, abs=0.03)
    assert found["tpot_p50"].word is Word.FASTER
    assert found["tpot_p50"].ratio.value == pytest.approx(0.667, abs=0.01)
    assert found["kv_cache_tokens"].word is Word.HIGHER
    assert found["kv_cache_tokens"].ratio.value == pytest.approx(1.40, abs=0.001)


def test_the_numbers_are_those_that_were_read_off_by_hand() -> None:
    targets = verdict("unique_a").targets
    by_hand = {"bf16": (243.1, 122.4, 6.20), "fp8": (239.5, 159.5, 4.13)}
    for name, (e2e, ttft, tpot) in by_hand.items():
        metrics = targets[name].metrics
        assert metrics["e2e_ms_p50"].value == pytest.approx(e2e, rel=0.015)
        assert metrics["ttft_ms_p50"].value == pytest.approx(ttft, rel=0.015)
        assert metrics["tpot_ms_p50"].value == pytest.approx(tpot, rel=0.01)
        assert metrics["e2e_ms_p95"].note == "needs n ≥ 59"
    assert targets["bf16"].cold_start["e2e_ms"].value == pytest.approx(1725, rel=0.01)
    assert targets["fp8"].cold_start["e2e_ms"].value == pytest.approx(1302, rel=0.01)


def test_one_image_again_and_again_says_nothing_of_latency() -> None:
    findings = verdict("same_image")
    assert not findings.valid
    assert "repeated_images" in [gate.code for gate in findings.gates]
    found = effects(findings)
    assert found["e2e_p50"].word is Word.INVALID
    assert found["e2e_p50"].ratio.value == pytest.approx(0.76, abs=0.02)  # what a plain benchmark would have printed
    assert found["tpot_p50"].word is Word.FASTER
    assert findings.headline.startswith("INVALID")
    assert findings.recommendation.action == "none"


def test_sixteen_in_flight_tells_another_story() -> None:
    found = effects(verdict("unique_c16", concurrency=16))
    assert found["e2e_p50"].word is Word.SLOWER
    assert found["e2e_p50"].ratio.value == pytest.approx(1.08, abs=0.02)
    assert (
        found["requests_per_s"].ratio.high or 9.0
    ) < 1  # a secondary metric: 96 requests in waves of 16 need not survive the correction
    assert found["requests_per_s"].word in (Word.LOWER, Word.INCONCLUSIVE)
    assert found["requests_per_s"].baseline.value == pytest.approx(16.1, abs=0.1)
    assert found["requests_per_s"].candidate.value == pytest.approx(14.7, abs=0.1)


def test_the_same_server_twice_shows_no_difference() -> None:
    """unique_a against unique_a2 of one server, as if they were two."""
    for arm in h100.ARMS:
        twice = h100.same_server_twice(arm)
        assert effects(analyse(twice))["e2e_p50"].word in ALIKE


def test_a_file_that_was_cut_off_is_read_up_to_the_cut() -> None:
    whole = h100.convert("bf16", ("unique_c64",))
    cut = [*whole[:-1], whole[-1][: len(whole[-1]) // 3]]
    table, torn = RecordTable.from_lines(cut)
    assert (len(table), torn) == (len(whole) - 1, 1)
    assert len(h100.convert("fp8", ("unique_c64",))) == 0


def test_an_arm_of_which_lines_are_missing_is_still_compared() -> None:
    evidence = h100.evidence("unique_a", lost=7)
    findings = analyse(evidence)
    assert findings.targets["bf16"].requests_sent == 43
    assert "torn_lines" in [gate.code for gate in findings.gates]
    assert effects(findings)["tpot_p50"].word is Word.FASTER
