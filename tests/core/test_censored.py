"""Time-outs, objectives that nothing meets, and answers that cannot be held against one: never dropped, never zero, never met unseen."""

from __future__ import annotations

from collections.abc import Callable

import made
import msgspec
import pytest

from client.core.analysis import analyse
from client.core.findings import Estimate, Findings, Word
from client.core.plan import LoadProfile, Slo
from client.core.records import Outcome, RequestRecord
from client.core.verdict import apart
from client.reports import terminal
from client.reports.format import estimate

change = msgspec.structs.replace
LIMIT_NS = 600 * 10**9


def timed_out(r: RequestRecord) -> RequestRecord:
    return made.failed(r.target, r.index, r.intended_ns / made.MS, Outcome.TIMEOUT_TOTAL, block=r.block, image_id=r.image_id, done_ns=r.intended_ns + LIMIT_NS)  # fmt: skip


def some_time_out(every: int, target: str = "fp8", **changes: float) -> Findings:
    records = made.campaign(per_block=100, **changes)  # type: ignore[arg-type]  # names of campaign
    records = [timed_out(r) if r.target == target and r.index % every == every - 1 else r for r in records]
    return analyse(made.evidence(records, plan=made.plan(load=LoadProfile(requests=400))))


def test_a_tail_that_times_out_is_slower_whatever_the_median_says() -> None:
    """It read '600,000 ms; inconclusive', beside 'use fp8: nothing else is shown to be worse'."""
    findings = some_time_out(50, fp8_ttft=0.7)
    assert findings.comparison is not None
    found = findings.comparison.effects
    assert found["e2e_p50"].word is Word.FASTER
    assert found["e2e_p99"].word is Word.SLOWER
    assert "fp8 ≥ 600,000 ms; fp8 is slower than bf16: by +2" in found["e2e_p99"].sentence
    assert (found["e2e_p99"].ratio.value, found["e2e_p99"].ratio.high) == (None, None)
    assert (found["e2e_p99"].ratio.low or 0) > 1000
    assert "worse: 99th percentile of end-to-end latency" in findings.recommendation.sentence
    assert "≥ 600,000 ms" in terminal.render(findings)


def test_the_same_of_the_baseline_is_faster() -> None:
    found = some_time_out(50, "bf16").comparison
    assert found is not None
    assert found.effects["e2e_p99"].word is Word.FASTER
    assert found.effects["e2e_p99"].ratio.low is None


def test_time_outs_pull_the_median_and_the_rate() -> None:
    clean, cut = some_time_out(10_000), some_time_out(25)
    rates = [f.targets["fp8"].metrics["requests_per_s"].value or 0 for f in (clean, cut)]
    assert rates[1] < rates[0] / 20, "each held its place for ten minutes"
    assert (cut.targets["fp8"].metrics["error_rate"].value or 0) == pytest.approx(0.04)
    medians = [f.targets["fp8"].metrics["e2e_ms_p50"].value or 0 for f in (clean, cut)]
    assert medians[1] > medians[0]


def goodput(limit_ms: float, edit: Callable[[RequestRecord], RequestRecord] = lambda r: r, metric: str = "ttft") -> Findings:  # fmt: skip
    plan = made.plan(primary="goodput_per_s", slos=(Slo(metric, limit_ms),))
    return analyse(made.evidence([edit(r) for r in made.campaign(fp8_ttft=0.5)], plan=plan))


def test_an_objective_that_only_one_server_meets_tells_them_apart() -> None:
    findings = goodput(80)
    assert findings.comparison is not None
    found = findings.comparison.effects["goodput_per_s"]
    assert found.word is Word.HIGHER
    assert found.sentence.endswith("bf16 0/s, fp8 5.74/s; fp8 is higher than bf16: by +1,147.6 % or more.")
    bf16 = findings.targets["bf16"].metrics["goodput_per_s"]
    assert (bf16.value, bf16.low) == (0.0, 0.0)
    assert 0.1 < (bf16.high or 0) < 1, "none of 32 is not never"


def test_an_objective_that_nobody_meets_is_not_settled() -> None:
    findings = goodput(1)
    assert findings.comparison is not None
    found = findings.comparison.effects["goodput_per_s"]
    assert found.word is Word.INCONCLUSIVE
    assert "none of it on either side" in found.sentence


@pytest.mark.parametrize(
    ("metric", "edit"),
    [
        ("ttft", lambda r: change(r, first_token_ns=None)),
        ("tpot", lambda r: change(r, completion_tokens=None)),
        ("itl", lambda r: change(r, chunk_ns=r.chunk_ns[:1])),
    ],
)
def test_what_is_not_known_meets_no_objective(metric: str, edit: Callable[[RequestRecord], RequestRecord]) -> None:
    """A server that does not stream tells no first token, and met every --slo ttft."""
    found = goodput(10_000, edit, metric).targets["fp8"].metrics["goodput_per_s"]
    assert found.value is None
    assert found.note == f"the {metric} of some answers is not known"
    assert goodput(10_000, metric=metric).targets["fp8"].metrics["goodput_per_s"].value is not None


def test_a_single_token_has_no_pace_to_miss() -> None:
    one = goodput(0.001, lambda r: change(r, completion_tokens=1, chunk_ns=r.chunk_ns[:1], last_token_ns=r.chunk_ns[0]), "tpot")  # fmt: skip
    assert (one.targets["fp8"].metrics["goodput_per_s"].value or 0) > 1


@pytest.mark.parametrize(
    ("a", "b", "far"),
    [
        ((200, 190, 210), (600, 600, None), True),
        ((600, 600, None), (200, 190, 210), True),
        ((600, 600, None), (600, 600, None), False),
        ((200, 190, 700), (600, 600, None), False),
        ((0, 0, 0.5), (4, 3.9, 4.1), True),
        ((0, 0, 5), (4, 3.9, 4.1), False),
    ],
)
def test_when_intervals_lie_apart(a: tuple[float, ...], b: tuple[float, ...], far: bool) -> None:
    one, other = (Estimate(value=v, low=low, high=high) for v, low, high in (a, b))
    found = apart(one, other)
    assert (found is not None) is far
    if found is not None:
        assert (found > 0) is (b[0] > a[0])


def test_a_limit_is_not_printed_as_a_measurement() -> None:
    assert (
        estimate(Estimate(value=600_000.0, low=600_000.0, n=9, unit="ms", note="≥ 600000 ms: 8 of 9")) == "≥ 600,000 ms"
    )


def test_too_few_says_which_few() -> None:
    none = analyse(made.evidence([r for r in made.campaign() if r.target == "bf16"]))
    assert "No request to fp8 was measured." in none.invalid_reasons
    assert none.targets["fp8"].metrics["output_tokens_per_s"].note == "not measured"
    failed = analyse(made.evidence([timed_out(r) if r.target == "fp8" else r for r in made.campaign()]))
    gate = next(gate for gate in failed.gates if gate.code == "too_few_requests")
    assert gate.fact.startswith("Of 32 measured requests to fp8 none was answered")
    assert "--requests" not in gate.next_step
    short = analyse(made.evidence(made.campaign(per_block=1)))
    assert short.invalid_reasons[0].startswith("Only 4 requests to bf16 were measured")
