"""A warm-up that reaches into the measured requests: what lies before its end is in no speed of any arm, and the run says how much it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import made
import numpy as np
import pytest

from client.core.analysis import analyse
from client.core.evidence import Evidence, GpuEvidence
from client.core.findings import Findings
from client.core.measured import measured_in
from client.core.plan import Design, LoadProfile, Sweep
from client.core.records import GpuSample, Outcome, Phase, PhaseWindow, RequestRecord
from client.core.steady import settling_after
from client.core.warmup import steady_of

ABA = (("bf16", 0), ("bf16", 1), ("fp8", 0), ("fp8", 1), ("fp8", 2), ("fp8", 3), ("bf16", 2), ("bf16", 3))


def slowed(which: Callable[[RequestRecord], bool], **campaign: Any) -> list[RequestRecord]:
    """A campaign whose requests take 300 ms longer where `which` says so, each sent when the one before was answered."""
    found, now = [], 1000.0
    for r in made.campaign(per_block=16, **campaign):
        ttft = 120 + r.index * 7 % 5 + 300.0 * which(r)
        found.append(made.record(r.target, r.index, now, ttft_ms=ttft, image=r.image_id, block=r.block))
        now += ttft + 19 * 6.0 + 1
    return found


def first_ten(r: RequestRecord) -> bool:
    return r.target == "bf16" and r.index < 10


def gates_of(findings: Findings) -> list[str]:
    return [gate.code for gate in findings.gates]


def test_both_arms_lose_the_same_pictures() -> None:
    evidence = made.evidence(slowed(first_ten))
    steady = steady_of(evidence)
    pictures = [set(mine.image.tolist()) for mine in steady.arms.values()]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 54
    findings = analyse(evidence)
    for target in findings.targets.values():
        assert target.metrics["e2e_ms_p50"].n == target.metrics["requests_per_s"].n == 54
        assert (target.warm_up_left_out, target.requests_sent, target.metrics["error_rate"].n) == (10, 64, 64)
        assert (target.metrics["e2e_ms_mean"].value or 0) == pytest.approx(236, abs=1)
        assert (target.metrics["requests_per_s"].value or 0) == pytest.approx(1000 / 237, rel=0.002)
    assert findings.comparison is not None
    effect = findings.comparison.effects["e2e_mean"]
    assert (effect.ratio.value, effect.ratio.n) == (pytest.approx(1, abs=0.002), 54)
    assert findings.targets["bf16"].warm_up_end == 10
    assert gates_of(findings) == ["warm_up"]
    assert findings.gates[0].fact.startswith(
        "The first 10 measured requests of each arm belong to the warm-up and are left out"
    )


def test_the_second_stay_of_a_serial_run_takes_its_pictures_from_the_middle_of_the_other_arm() -> None:
    evidence = made.evidence(
        slowed(lambda r: r.target == "bf16" and r.block == 2 and r.index < 42, order=ABA),
        plan=made.plan(design=Design.SERIAL),
    )
    steady = steady_of(evidence)
    assert steady.left_out == {"bf16": 10, "fp8": 10}
    assert not set(range(32, 42)) & set(steady.arms["fp8"].index.tolist())
    assert steady.sides[0].second_a
    findings = analyse(evidence)
    assert (findings.targets["fp8"].metrics["requests_per_s"].value or 0) == pytest.approx(1000 / 237, rel=0.002)
    assert findings.comparison is not None
    assert findings.comparison.effects["e2e_mean"].ratio.value == pytest.approx(1, abs=0.002)


def test_arms_that_are_not_paired_lose_as_many_first_requests() -> None:
    records = [
        made.record(r.target, r.index, r.intended_ns / made.MS, ttft_ms=120 + r.index * 7 % 5 + 300.0 * first_ten(r), image=f"{r.target}-{r.index}", block=r.block)
        for r in made.campaign(per_block=16)
    ]  # fmt: skip
    steady = steady_of(made.evidence(records))
    assert not steady.sides[0].paired
    assert [int(mine.index.min()) for mine in steady.arms.values()] == [10, 10]
    unequal = [
        made.record(r.target, r.index, r.intended_ns / made.MS, ttft_ms=120 + r.index * 7 % 5 + 300.0 * (r.index < (20 if r.target == "bf16" else 10)), image=f"{r.target}-{r.index}", block=r.block)
        for r in records
    ]  # fmt: skip
    assert [int(mine.index.min()) for mine in steady_of(made.evidence(unequal)).arms.values()] == [20, 20]
    one = made.evidence([r for r in records if r.target == "bf16"], plan=made.plan(targets=made.plan().targets[:1], design=Design.SINGLE))  # fmt: skip
    assert steady_of(one).left_out == {"bf16": 10}


def test_a_beginning_of_more_than_half_of_a_stay_is_none() -> None:
    """The first A settles after 10 of its 32, the other arm after 20 of its 64: together most of the first look would be gone."""
    evidence = made.evidence(
        slowed(lambda r: r.index < (10 if r.target == "bf16" else 20), order=ABA), plan=made.plan(design=Design.SERIAL)
    )
    steady = steady_of(evidence)
    assert [one.target for one in steady.found] == ["bf16", "fp8"]
    assert not steady.cut
    findings = analyse(evidence)
    assert gates_of(findings) == ["not_settled", "not_settled"]
    assert findings.targets["bf16"].warm_up_left_out == 0
    assert (findings.targets["bf16"].warm_up_note or "").startswith("never")


def test_failures_in_the_warm_up_stay_failures() -> None:
    records = [
        made.failed(r.target, r.index, r.intended_ns / made.MS, Outcome.HTTP_ERROR, status=503, block=r.block, image_id=r.image_id)
        if r.target == "bf16" and r.index == 3
        else r
        for r in slowed(first_ten)
    ]  # fmt: skip
    findings = analyse(made.evidence(records))
    assert findings.targets["bf16"].metrics["error_rate"].value == pytest.approx(1 / 64)
    assert "some_errors" in gates_of(findings)


def test_a_level_of_a_sweep_leaves_out_its_own_beginning() -> None:
    later = 10**12
    second = [
        made.record(r.target, r.index, r.intended_ns / made.MS + later / made.MS, ttft_ms=120 + r.index * 7 % 5 + 300.0 * first_ten(r),
                    image=f"{r.image_id}-b", block=(r.block or 0) + 4, level=1)
        for r in made.campaign(per_block=16)
    ]  # fmt: skip
    plan = made.plan(load=LoadProfile(requests=64, sweep=Sweep(knob="concurrency", values=(1.0, 2.0))))
    findings = analyse(made.evidence(made.campaign(per_block=16) + second, plan=plan))
    assert [level.metrics["fp8"]["e2e_ms_p50"].n for level in findings.levels] == [64, 54]
    assert findings.targets["fp8"].warm_up_left_out == 0
    assert [gate.fact[:19] for gate in findings.gates] == ["At 2 in flight: The"]


def with_gpu(records: list[RequestRecord], counter: bool) -> Evidence:
    """A GPU of 100 W while the warm-up lasts and 200 W after, and a counter that agrees."""
    begin, warm = records[0].intended_ns, next(r.intended_ns for r in records if r.target == "bf16" and r.index == 10)

    def mj(ns: int) -> int | None:
        return (
            round((0.1 * (min(ns, warm) - begin) + 0.2 * (max(ns, warm) - warm)) / 1e6 * 1000) + 10**6
            if counter
            else None
        )

    windows = []
    for target, block in made.ABBA:
        own = [r for r in records if (r.target, r.block) == (target, block)]
        start, end = own[0].intended_ns, max(r.done_ns or 0 for r in own)
        windows.append(
            PhaseWindow(target=target, phase=Phase.MEASURE, start_ns=start, end_ns=end, block=block, energy_start_mj=mj(start), energy_end_mj=mj(end))
        )  # fmt: skip
    samples = tuple(
        GpuSample(gpu=0, uuid="u", wall_ns=ns, mono_ns=ns, power_mw=100_000 if ns < warm else 200_000, energy_mj=mj(ns))
        for ns in range(begin - made.MS * 200, windows[-1].end_ns + made.MS * 200, made.MS * 50)
    )
    return made.evidence(records, windows=tuple(windows), gpu=(GpuEvidence(samples=samples),))


@pytest.mark.parametrize("counter", [True, False])
def test_energy_is_that_of_the_steady_stretch(counter: bool) -> None:
    found = measured_in(with_gpu(slowed(first_ten), counter)).energy["bf16"]
    assert (found["mean_power_w"].value or 0) == pytest.approx(200, rel=0.01)
    assert (found["joules_per_request"].value or 0) == pytest.approx(200 * 0.237, rel=0.02)
    assert ("integral" in (found["joules_per_request"].note or "")) is not counter


def test_a_warm_up_that_its_own_requests_show_needs_less_proof_of_its_last_ones() -> None:
    rng = np.random.default_rng(5)
    alone, with_it, in_vain = [], [], []
    for _ in range(100):
        noise = np.exp(rng.normal(0, 0.08, 45))
        slow = np.where(np.arange(45) < 20, 1.2, 1.0) * noise
        alone.append(settling_after(np.zeros(0), slow[15:]).end)
        with_it.append(settling_after(slow[:15], slow[15:]).end)
        in_vain.append(settling_after(slow[:15], noise[15:]).end)
    assert sum(bool(end) for end in alone) < 60 < 70 < sum(bool(end) for end in with_it)
    assert sum(end == 0 for end in in_vain) > 97


def test_too_few_requests_may_still_show_that_they_had_not_settled() -> None:
    findings = analyse(
        made.evidence(
            [made.record(r.target, r.index, r.intended_ns / made.MS, ttft_ms=120 + r.index * 7 % 5 + 300.0 * (r.target == "bf16" and r.index < 5), image=r.image_id, block=r.block) for r in made.campaign(per_block=4)]
        )
    )  # fmt: skip
    assert gates_of(findings) == ["not_settled"]
    assert "too few to leave them out" in findings.gates[0].fact
    assert findings.targets["bf16"].warm_up_note == "needs n ≥ 20"


def test_a_warm_up_of_the_first_token_alone_is_found_in_a_long_answer() -> None:
    """100 ms of 5 s are lost in what answers differ by, and double the time to first token."""
    rng = np.random.default_rng(3)
    records = [
        made.record(r.target, r.index, r.intended_ns / made.MS * 30, ttft_ms=120 + r.index * 7 % 5 + 100.0 * first_ten(r), tpot_ms=250 * np.exp(rng.normal(0, 0.1)), image=r.image_id, block=r.block)
        for r in made.campaign(per_block=16)
    ]  # fmt: skip
    steady = steady_of(made.evidence(records))
    assert [(one.metric, one.end) for one in steady.found] == [("ttft", 10)]
    assert steady.left_out == {"bf16": 10, "fp8": 10}


@pytest.mark.parametrize("sizes", [(3000, 1085), (3000, 2000, 1085)])
def test_large_pictures_first_are_no_warm_up(sizes: tuple[int, ...]) -> None:
    """A folder sorted by name: nothing is left out, and no server is said to have been unsettled."""
    found, now = [], 1000.0
    for r in made.campaign(per_block=20):
        tokens = sizes[min(r.index // 12, len(sizes) - 1)]
        ttft = tokens / 6 + r.index * 7 % 5
        found.append(
            made.record(r.target, r.index, now, ttft_ms=ttft, image=r.image_id, block=r.block, prompt_tokens=tokens)
        )
        now += ttft + 19 * 6.0 + 1
    findings = analyse(made.evidence(found))
    assert not {"warm_up", "not_settled"} & set(gates_of(findings))
    assert [target.warm_up_left_out for target in findings.targets.values()] == [0, 0]


def test_a_warm_up_among_pictures_of_many_sizes_is_still_found() -> None:
    found = []
    for r in slowed(first_ten):
        tokens = (700, 1085, 1500)[r.index % 3]
        assert r.first_token_ns is not None
        assert r.sent_ns is not None
        ttft = (r.first_token_ns - r.sent_ns) / made.MS + tokens / 10
        found.append(made.record(r.target, r.index, r.intended_ns / made.MS * 2, ttft_ms=ttft, image=r.image_id, block=r.block, prompt_tokens=tokens))  # fmt: skip
    findings = analyse(made.evidence(found))
    assert "warm_up" in gates_of(findings)
    assert findings.targets["fp8"].warm_up_left_out == 10


def test_stays_too_short_to_tell_are_told_in_a_serial_run() -> None:
    """15 requests after 5 of warm-up are 20 values, and say nothing of where the 15 settle."""
    serial = made.plan(design=Design.SERIAL)
    short = analyse(made.evidence(made.campaign(order=ABA, per_block=8), plan=serial))
    assert gates_of(short).count("settling_unknown") == 1
    assert short.targets["bf16"].warm_up_end is None
    assert short.targets["bf16"].warm_up_note == "needs n ≥ 20"
    enough = analyse(made.evidence(made.campaign(order=ABA, per_block=10), plan=serial))
    assert "settling_unknown" not in gates_of(enough)
