"""A sweep, level by level: what spoils one load spoils the words of that load, and is told of the run."""

from __future__ import annotations

from collections.abc import Callable

import made
import msgspec
import pytest

from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.findings import Estimate, Findings, Level, Severity, Word
from client.core.gates import LOAD_LOOKS, OF_A_LOAD
from client.core.levels import knee
from client.core.plan import LoadProfile, Sweep
from client.core.records import Outcome, RequestRecord

change = msgspec.structs.replace
LATER = 10**12
SWEEP = LoadProfile(requests=32, sweep=Sweep(knob="concurrency", values=(1.0, 4.0)))


def moved(r: RequestRecord) -> RequestRecord:
    """The same request at the second level."""
    stamps = {
        name: value + LATER for name in r.__struct_fields__ if name.endswith("_ns") and isinstance(value := getattr(r, name), int)
    }  # fmt: skip
    chunks = tuple(t + LATER for t in r.chunk_ns)
    return change(r, **stamps, chunk_ns=chunks, level=1, block=(r.block or 0) + 10, image_id=f"{r.image_id}-b")


def swept(edit: Callable[[RequestRecord], RequestRecord]) -> Evidence:
    second = [edit(moved(r)) for r in made.campaign(2, fp8_ttft=0.8)]
    return made.evidence(made.campaign(fp8_ttft=0.8) + second, plan=made.plan(load=SWEEP))


def failing(r: RequestRecord) -> RequestRecord:
    if r.target != "fp8" or r.index % 3 == 0:
        return r
    return made.failed(r.target, r.index, r.intended_ns / made.MS, Outcome.HTTP_ERROR, status=503, level=1, block=r.block, image_id=r.image_id)  # fmt: skip


def other_prompt(r: RequestRecord) -> RequestRecord:
    return change(r, prompt_tokens=700) if r.target == "fp8" else r


def word(findings: Findings, level: int, metric: str = "e2e_p50") -> Word:
    return findings.levels[level].effects["fp8"][metric].word


def test_clean_levels_keep_their_words() -> None:
    findings = analyse(swept(lambda r: r))
    assert [word(findings, level) for level in (0, 1)] == [Word.FASTER, Word.FASTER]
    assert findings.gates == ()


@pytest.mark.parametrize(("edit", "code"), [(failing, "errors_unequal"), (other_prompt, "prompt_tokens")])
def test_a_spoiled_level_has_no_words_and_the_run_says_so(
    edit: Callable[[RequestRecord], RequestRecord], code: str
) -> None:
    """Two thirds of one server's requests failed at the second load, and it was still called faster there."""
    findings = analyse(swept(edit))
    assert findings.valid, "the verdict is that of the first level"
    assert word(findings, 0) is Word.FASTER
    assert word(findings, 1) is Word.INVALID
    assert code in [gate.code for gate in findings.levels[1].gates]
    told = {gate.code: gate for gate in findings.gates}
    assert told[code].severity is Severity.FLAG
    assert told[code].fact.startswith("At 4 in flight: ")
    assert any(
        reason.startswith("At 4 in flight") and "INVALID" in reason for reason in findings.recommendation.reasons
    )


def test_a_spoiled_first_level_leaves_the_next_one_standing() -> None:
    records = [failing(r) for r in made.campaign(fp8_ttft=0.8)]
    records = [change(r, level=0) for r in records] + [moved(r) for r in made.campaign(2, fp8_ttft=0.8)]
    findings = analyse(made.evidence(records, plan=made.plan(load=SWEEP)))
    assert not findings.valid
    assert word(findings, 0) is Word.INVALID
    assert word(findings, 1) is Word.FASTER


def test_the_codes_of_one_load_are_all_named() -> None:
    import inspect

    source = "".join(inspect.getsource(look) for look in LOAD_LOOKS)
    assert all(f'"{code}"' in source for code in OF_A_LOAD)
    assert source.count("yield") == len(OF_A_LOAD)


def test_the_knee_does_not_depend_on_the_order_in_which_the_loads_ran() -> None:
    """`--sweep concurrency=4,1,16,64` decides at 4; its throughput grows up to 16."""
    rates = {4.0: 6.0, 1.0: 2.0, 16.0: 10.0, 64.0: 10.2}
    found = tuple(
        Level(number=k, knob="concurrency", value=at, label=f"{at:g}", metrics={"fp8": {"requests_per_s": Estimate(value=rate)}})
        for k, (at, rate) in enumerate(rates.items())
    )  # fmt: skip
    last = knee(found, "fp8")
    assert last is not None
    assert last.label == "16"
