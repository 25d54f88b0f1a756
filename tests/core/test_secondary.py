"""What was not named before the run: corrected, labelled, and held against what the same server differs from itself by."""

from __future__ import annotations

import re

import made
import msgspec
import pytest

from client.core.analysis import analyse
from client.core.block_noise import EnergyBlock, energy_floor
from client.core.findings import Estimate, Findings, TargetFindings, Word
from client.core.gates import invalid
from client.core.parts import Measured
from client.core.plain_effects import plain_effects, plain_p
from client.core.plan import LoadProfile, Sweep
from client.core.series import Series
from client.core.verdict import DIRECTIONS
from client.reports import markdown
from client.reports.charts import charts
from client.reports.tables import floorless, main_rows, secondary_note
from client.reports.terminal import render, spoiled

LATER = 10**12


def energy(joules: float, half: float) -> dict[str, Estimate]:
    value = Estimate(value=joules, low=joules * (1 - half), high=joules * (1 + half), n=4, unit="J")
    return {"joules_per_request": value, "kj_per_1000_images": msgspec.structs.replace(value, unit="kJ")}


def blocks(*joules: float, start: int = 0) -> tuple[EnergyBlock, ...]:
    return tuple(EnergyBlock(number=k, start_ns=start + k * 10, joules=j, requests=10, seconds=2) for k, j in enumerate(joules))  # fmt: skip


def run(candidate: float, half: float = 0.01, baseline_blocks: tuple[float, ...] = (), **campaign: float) -> Findings:
    spent = {"bf16": blocks(*baseline_blocks), "fp8": blocks(*baseline_blocks, start=5)}
    measured = Measured(energy={"bf16": energy(100, half), "fp8": energy(candidate, half)}, energy_blocks=spent)
    return analyse(made.evidence(made.campaign(**campaign)), measured)


def effect(findings: Findings, name: str = "joules_per_request") -> tuple[Word, float | None, str | None]:
    assert findings.comparison is not None
    found = findings.comparison.effects[name]
    return found.word, found.noise_floor, found.noise_note


def test_energy_is_corrected_with_the_other_secondary_metrics() -> None:
    """6 % of energy told apart at 95 % on its own, but not among some twenty metrics that show nothing."""
    findings = run(94, 0.035)
    assert findings.comparison is not None
    found = findings.comparison.effects
    alone = plain_effects(findings.targets["bf16"], findings.targets["fp8"], 0.03)["joules_per_request"]
    assert alone.word is Word.LOWER
    assert found["joules_per_request"].word is Word.INCONCLUSIVE
    assert found["kj_per_1000_images"].word is Word.INCONCLUSIVE
    assert (found["joules_per_request"].adjusted_p or 0) > 0.05
    assert found["joules_per_request"].adjusted_p == found["kj_per_1000_images"].adjusted_p
    compared = run(80).comparison
    assert compared is not None
    assert compared.effects["joules_per_request"].word is Word.LOWER


def test_the_family_counts_each_sample_once() -> None:
    arms = (run(94).targets["bf16"], run(94).targets["fp8"])
    assert plain_p(*arms, 0.95).keys() == {"joules_per_request"}
    bare = TargetFindings(name="bf16", precision="bf16")
    assert plain_p(bare, arms[1], 0.95) == {}


@pytest.mark.parametrize("name", ["ttft_p50", "tpot_mean", "requests_per_s", "joules_per_request"])
def test_every_word_but_the_primary_one_is_labelled(name: str) -> None:
    findings = run(80, fp8_ttft=1.3, fp8_tpot=0.67)
    assert findings.comparison is not None
    found = findings.comparison.effects
    assert "(secondary)" in found[name].sentence
    assert not found[name].primary
    assert found[name].adjusted_p is not None
    assert (found["e2e_p50"].primary, found["e2e_p50"].adjusted_p) == (True, None)


def test_a_report_marks_them_once_and_says_what_the_mark_means() -> None:
    findings = run(80, fp8_ttft=1.3, fp8_tpot=0.67)
    text = render(findings)
    rows = {line.partition("  ")[0]: line for line in text.splitlines()}
    assert "slower° +" in rows["Time to first token, median"]
    assert "lower° −" in rows["Energy per request"]
    assert "°" not in rows["Latency (E2E), median"]
    assert text.count("° secondary: ") == 1
    assert secondary_note(analyse(made.evidence(made.campaign()))).endswith("among 9 metrics")


def test_energy_inside_what_the_server_differs_from_itself_by_is_no_difference() -> None:
    word, floor, note = effect(run(94, 0.005, baseline_blocks=(90, 110, 110, 90)))
    assert (word, note) == (Word.NO_DIFFERENCE, None)
    assert floor == pytest.approx((110 / 90) ** 0.5**0.5 - 1)
    findings = run(94, 0.005, baseline_blocks=(100, 100, 100, 100))
    assert effect(findings)[:2] == (Word.LOWER, 0.0)
    assert floorless(findings) == ""


def test_a_floor_that_cannot_be_made_is_told() -> None:
    findings = run(80, baseline_blocks=(100, 101))
    assert effect(findings) == (Word.LOWER, None, "no noise floor: 2 blocks of an arm, needs 4")
    assert floorless(findings) == "No noise floor for energy per request: 2 blocks of an arm, needs 4"
    assert "needs 4" in render(findings)


def test_drift_is_no_noise_and_each_unit_has_its_own_floor() -> None:
    drift = blocks(100, 102, 104, 106)
    assert energy_floor(drift, drift, "requests")[0] == pytest.approx(0)
    uneven = tuple(msgspec.structs.replace(b, seconds=s) for b, s in zip(drift, (1, 2, 2, 1), strict=True))
    assert energy_floor(drift, uneven, "seconds")[0] == pytest.approx(2**0.5**0.5 - 1, rel=1e-6)
    assert energy_floor(drift, uneven, "requests")[0] == pytest.approx(0)
    assert energy_floor((), drift, "requests") == (None, "no noise floor: energy is not known block by block")


def test_a_serial_run_sets_its_second_a_against_its_first_over_the_same_blocks() -> None:
    """Blocks 2 and 3 have dearer pictures: B pays for them too, so that they are no noise."""
    a = (
        *blocks(100, 100),
        *(EnergyBlock(number=k, start_ns=1000 + k, joules=150, requests=10, seconds=2) for k in (2, 3)),
    )
    b = blocks(80, 80, 120, 120, start=100)
    assert energy_floor(a, b, "requests") == (pytest.approx(0), None)
    dearer = tuple(msgspec.structs.replace(block, joules=block.joules * (1.1 if block.start_ns >= 1000 else 1)) for block in a)  # fmt: skip
    assert energy_floor(dearer, b, "requests")[0] == pytest.approx(1.1**0.5 - 1)


def test_a_cost_has_the_floor_of_its_throughput() -> None:
    evidence = made.evidence(made.campaign(fp8_ttft=0.8))
    priced = [msgspec.structs.replace(t, price_usd_per_hour=2.0) for t in evidence.plan.targets]
    plan = msgspec.structs.replace(evidence.plan, targets=tuple(priced))
    found = analyse(msgspec.structs.replace(evidence, plan=plan)).comparison
    assert found is not None
    cost, rate = found.effects["usd_per_1000_images"], found.effects["requests_per_s"]
    assert (cost.noise_floor, cost.adjusted_p) == (rate.noise_floor, rate.adjusted_p)
    assert cost.noise_floor is not None
    assert found.corrected_among == 9
    dear = msgspec.structs.replace(
        plan, targets=(priced[0], msgspec.structs.replace(priced[1], price_usd_per_hour=2.4))
    )
    unequal = analyse(msgspec.structs.replace(evidence, plan=dear)).comparison
    assert unequal is not None
    assert unequal.corrected_among == 10
    assert unequal.effects["usd_per_1000_images"].adjusted_p != rate.adjusted_p


def swept(*effects: float) -> Findings:
    """A sweep whose candidate takes so many times the baseline's time at each level; a thin effect at one may come by chance."""
    records = [
        made.record(r.target, r.index, r.intended_ns / made.MS + number * LATER / made.MS, ttft_ms=(r.first_token_ns or 0) / made.MS - r.intended_ns / made.MS,
                    tpot_ms=(r.chunk_ns[1] - r.chunk_ns[0]) / made.MS, image=f"{r.image_id}-{number}", block=(r.block or 0) + 4 * number, level=number)
        for number, effect in enumerate(effects)
        for r in made.campaign(10 + number, fp8_ttft=effect, fp8_tpot=effect, sigma=0.12)
    ]  # fmt: skip
    values = tuple(float(k + 1) for k in range(len(effects)))
    return analyse(made.evidence(records, plan=made.plan(load=LoadProfile(requests=32, sweep=Sweep(knob="concurrency", values=values)))))  # fmt: skip


def test_only_the_first_load_is_primary() -> None:
    findings = swept(0.7, 0.7, 0.7)
    first, *others = (level.effects["fp8"]["e2e_p50"] for level in findings.levels)
    assert findings.comparison is not None
    assert first == findings.comparison.effects["e2e_p50"]
    assert (first.primary, first.adjusted_p) == (True, None)
    for other in others:
        assert not other.primary
        assert other.word is Word.FASTER
        assert other.adjusted_p is not None
        assert "(secondary, another load)" in other.sentence
    for told in (render(findings), markdown.render(findings), charts_of(findings)):
        meanings = re.findall(r"° ([a-z][a-z ]*)", told)
        assert meanings
        assert {meaning.split(" ")[0] for meaning in meanings} == {"secondary"}, "one word for one mark"
    assert "Decided at 1 in flight. ° secondary: a direction only if" in render(findings)


def charts_of(findings: Findings) -> str:
    found = [chart for chart in charts(findings, Series()) if any("°" in cell for row in chart.rows for cell in row)]
    assert found
    assert all("° secondary" in chart.sentence for chart in found)
    return "\n".join(chart.sentence for chart in found)


def test_the_mark_is_explained_where_it_is_shown_and_nowhere_else() -> None:
    """Four answers of each arm are too few for any word."""
    for per_block, expected in ((1, False), (8, True)):
        findings = analyse(made.evidence(made.campaign(per_block=per_block)))
        assert any("°" in cell for row in main_rows(findings) for cell in row) == expected
        assert ("° secondary" in render(findings)) == expected
    hit = made.page(prefix_queries=35_000, prefix_hits=33_000, image_queries=32, image_hits=31)
    spoiled = {name: made.server(name, version=name, after=hit) for name in ("bf16", "fp8")}
    assert "°" not in render(analyse(made.evidence(made.campaign(), servers=spoiled)))


def test_other_loads_are_corrected_among_themselves() -> None:
    """Told apart at 95 % alone, and not among six loads of which none of the others shows anything."""
    thin = swept(1.0, 1.082, 1.0, 1.0, 1.0, 1.0, 1.0)
    alone = swept(1.0, 1.082)
    one, among = (found.levels[1].effects["fp8"]["e2e_p50"] for found in (alone, thin))
    assert one.ratio == among.ratio
    assert one.ratio.low is not None
    assert one.ratio.low > 1
    assert one.word is Word.SLOWER
    assert among.word is Word.INCONCLUSIVE
    assert "among 6 loads it does not survive Holm's correction" in among.sentence
    assert (among.adjusted_p or 0) == pytest.approx(6 * (one.adjusted_p or 0))
    secondary = [e for level in thin.levels[1:] for name, e in level.effects["fp8"].items() if name != "e2e_p50"]
    assert not [e for e in secondary if e.word in DIRECTIONS]
    means = [found.levels[1].effects["fp8"]["e2e_mean"].adjusted_p or 0 for found in (alone, thin)]
    assert means[1] > min(2 * means[0], 0.999), "among six times as many"


def test_a_gate_that_spoils_tails_alone_says_so() -> None:
    """Medians stand beside it with confident words."""
    assert spoiled(invalid("x", "f", "s", (), ("ttft_p99", "itl_p99"))) == "p99 of ttft, itl"
    assert spoiled(invalid("x", "f", "s", (), ("ttft_p50", "ttft_p99", "e2e_mean"))) == "ttft, e2e"
