"""Gates that were silent or said what was not so: the generator's own records, single waves, two runs of which few pictures are shared."""

from __future__ import annotations

import made
import msgspec
import pytest
import report_runs

from client.core.across import joined
from client.core.analysis import analyse
from client.core.effect_size import read_min_effect
from client.core.evidence import Evidence
from client.core.findings import Estimate, Findings, Gate, Quality, Severity
from client.core.measured import measured_in
from client.core.parts import Measured
from client.core.plan import LoadProfile
from client.core.records import Outcome, WorkerHealth
from client.errors import UsageError
from client.reports import markdown, terminal

change = msgspec.structs.replace


def of(findings: Findings, code: str) -> list[Gate]:
    return [gate for gate in findings.gates if gate.code == code]


def watched(*health: WorkerHealth) -> list[Gate]:
    return of(analyse(made.evidence(made.campaign(), health=health)), "generator_unknown")


def test_a_generator_without_records_of_its_own_is_told() -> None:
    """health.jsonl was gone, and nothing said that the generator's lateness was unknown."""
    gone = watched()
    assert [(gate.severity, gate.targets) for gate in gone] == [(Severity.FLAG, ("bf16", "fp8"))]
    assert "unknown for all requests to bf16 and all requests to fp8" in gone[0].fact
    one = watched(made.health("bf16"), *(change(made.health("fp8"), block=k) for k in (0, 1, 3)))
    assert [gate.targets for gate in one] == [("fp8",)]
    assert "unknown for 1 of 4 blocks of fp8" in one[0].fact
    mute = change(made.health("fp8"), send_lag_p99_ns=None)
    assert "all requests to fp8" in watched(made.health("bf16"), mute)[0].fact
    assert watched(made.health("bf16"), *(change(made.health("fp8"), block=k) for k in range(4))) == []


def test_where_nothing_was_answered_there_is_no_lateness_to_doubt() -> None:
    records = [
        made.failed(r.target, r.index, r.intended_ns / made.MS, Outcome.REFUSED, block=r.block, image_id=r.image_id)
        for r in made.campaign()
    ]
    assert of(analyse(made.evidence(records, health=())), "generator_unknown") == []


@pytest.mark.parametrize(("requests", "fires"), [(64, True), (192, True), (256, False)])
def test_single_waves_are_told_of_one_block_too(requests: int, fires: bool) -> None:
    """It looked at runs of several blocks only."""
    load = LoadProfile(concurrency=64, requests=requests, blocks_per_arm=1)
    records = made.campaign(order=(("bf16", 0), ("fp8", 0)), per_block=requests)
    found = of(analyse(made.evidence(records, plan=made.plan(load=load))), "few_waves")
    assert [gate.targets for gate in found] == [("bf16",), ("fp8",)] * fires
    for gate in found:
        assert f"holds {requests} measured requests at 64 in flight: {requests / 64:.1f} for each lane" in gate.fact
        assert gate.next_step == "Ask for at least --requests 256."


def runs_of(first: range, second: range, **other: object) -> Findings:
    here, there = (
        made.evidence([r for r in made.campaign(seed) if r.index in kept], run_id=run_id)
        for seed, kept, run_id in ((1, first, "first"), (2, second, "later"))
    )
    return analyse(joined(here, change(there, **other) if other else there))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (range(32), range(16), "the two shared too few pictures, 16 of 32"),
        (range(16), range(16, 32), "the two saw different pictures"),
        (range(32), range(32), None),
    ],
)
def test_why_two_runs_are_not_paired_is_said_as_it_is(first: range, second: range, words: str | None) -> None:
    """'Different or repeated ones' stood beside an accuracy that was paired over 16 pictures."""
    found = runs_of(first, second)
    assert found.comparison is not None
    told = of(found, "two_runs")[0].fact
    notes = found.comparison.notes[1]
    assert (f"Nor are requests paired by image: {words}." in told) == (words is not None)
    assert (f"Requests are not paired: {words}." in notes) == (words is not None)


def test_pictures_that_come_again_are_not_paired() -> None:
    again = made.evidence(made.campaign(2, repeat=True), run_id="later")
    told = of(analyse(joined(made.evidence(made.campaign(1)), again)), "two_runs")[0].fact
    assert "Nor are requests paired by image: pictures came more than once." in told


def test_the_run_that_was_cut_short_is_named() -> None:
    assert of(runs_of(range(32), range(16), interrupted=True), "cut_short")[0].fact.startswith("The run of b was interrupted")  # fmt: skip
    both = joined(made.evidence(made.campaign(1), complete=False), made.evidence(made.campaign(2), complete=False, run_id="later"))  # fmt: skip
    assert of(analyse(both), "cut_short")[0].fact.startswith("Both runs ended before")


def test_one_line_is_one_line() -> None:
    for count, words in ((1, "1 line of the run directory could not be read and was"), (1200, "1,200 lines of the run directory could not be read and were")):  # fmt: skip
        found = analyse(made.evidence(made.campaign(), torn_lines=count))
        assert of(found, "torn_lines")[0].fact.startswith(words)
        short = f"{count:,} torn {'line was' if count == 1 else 'lines were'} set aside"
        assert short in markdown.render(found)


def test_what_no_arm_could_measure_is_said() -> None:
    """One picture again and again has no accuracy: the row went, and nothing stood in its place."""
    few = {name: Quality(scores={"mean_iou": Estimate(n=1, note="needs 10 different images or more")}) for name in ("bf16", "fp8")}  # fmt: skip
    found = analyse(made.evidence(made.campaign(repeat=True)), Measured(quality=few))
    assert "accuracy (mean IoU)" in found.not_measured
    assert "accuracy (mean IoU)" in " ".join(terminal.render(found).split())
    known = analyse(report_runs.normal(), measured_in(report_runs.normal()))
    assert not {"accuracy (mean IoU)", "prefix-cache hits", "image-cache hits"} & set(known.not_measured)


def test_a_cache_that_no_server_counts_is_not_measured() -> None:
    page = made.page(prefix_queries=35_000, prefix_hits=1_000, image_queries=32)
    lines = [line for line in page.splitlines(keepends=True) if "mm_cache" not in line]
    servers = {name: made.server(name, after="".join(lines)) for name in ("bf16", "fp8")}
    found: Evidence = made.evidence(made.campaign(), servers=servers)
    assert "image-cache hits" in analyse(found).not_measured
    assert "prefix-cache hits" not in analyse(found).not_measured


def test_the_smallest_effect_is_read_alike_everywhere() -> None:
    for text in ("3%", "3 %", " 3.0% ", "0.03", ".03"):
        assert read_min_effect(text) == pytest.approx(0.03)
        assert joined(made.evidence(made.campaign(1)), made.evidence(made.campaign(2), run_id="later"), min_effect=text).plan.min_effect == pytest.approx(0.03)  # fmt: skip
    for text, words in (("0", "above 0%"), ("0%", "above 0%"), ("100%", "below 100%"), ("3", "below 100%"), ("lots", "cannot be read"), ("-3%", "cannot be read"), ("nan", "cannot be read"), ("", "cannot be read")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            read_min_effect(text)
