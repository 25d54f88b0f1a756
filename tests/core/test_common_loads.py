"""Two saved sweeps: their levels are matched by the load that they sent, not by their place."""

from __future__ import annotations

import re

import made
import msgspec
import pytest

from client.core.across import joined
from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.findings import Findings
from client.core.plan import LoadProfile, Sweep
from client.core.records import RequestRecord
from client.errors import UsageError
from client.reports import terminal

LATENCY = {1: 100.0, 2: 200.0, 4: 400.0, 8: 800.0}


def swept(run_id: str, *loads: int, cut: bool = False, fp8: float = 1.0, knob: str = "concurrency") -> Evidence:
    """TTFT tells the load: 100 ms for each one in flight. One load is a run without a sweep; `cut`: ended in its last one."""
    load = LoadProfile(requests=32, concurrency=loads[0])
    if len(loads) > 1 or knob == "rate":
        load = LoadProfile(requests=32, sweep=Sweep(knob=knob, values=tuple(map(float, loads))))
    records: list[RequestRecord] = []
    for level, value in enumerate(loads):
        for r in made.campaign(level):
            ttft = LATENCY[value] * (1 + r.index % 5 / 100) * (fp8 if r.target == "fp8" else 1)
            sent = r.intended_ns / made.MS + level * 60_000
            if not (cut and level == len(loads) - 1 and r.index > 3):
                records.append(made.record(r.target, r.index, sent, ttft_ms=ttft, image=f"{level}-{r.image_id}", block=r.block, level=level))  # fmt: skip
    found = made.evidence(records, plan=made.plan(load=load), run_id=run_id)
    health = tuple(msgspec.structs.replace(h, level=n) for h in found.health for n in range(len(loads)))
    return msgspec.structs.replace(found, health=health, interrupted=cut)


def compared(a: Evidence, b: Evidence) -> Findings:
    return analyse(joined(a, b, targets=("bf16", "fp8")))


def ttft(findings: Findings, name: str) -> float:
    value = findings.targets[name].metrics["ttft_ms_p50"].value
    assert value is not None
    return value


def test_a_level_is_compared_with_the_same_load() -> None:
    """b's 4 in flight stood beside a's 1, under the name of 1, and an end within its 2 was told of its 4."""
    found = compared(swept("first", 1, 4), swept("later", 4, 2, cut=True))
    assert found.levels == ()
    assert (ttft(found, "a"), ttft(found, "b")) == (pytest.approx(408, abs=8), pytest.approx(408, abs=8))
    assert found.load.startswith("4 requests in flight")
    assert found.valid, "what is shown was asked the same"
    note = next(gate.fact for gate in found.gates if gate.code == "two_runs")
    assert note.endswith(
        "One run was sent 1 and 4 in flight, the other 4 and 2 in flight: only what both had is shown, 4 in flight."
    )
    told = " ".join(terminal.render(found).split())
    assert re.search(r"Sweep\(|None|knob", told) is None
    assert "interrupted at" not in told
    assert "after its load, which was measured as planned" in told


def test_levels_in_common_come_in_the_order_of_the_first_run() -> None:
    found = compared(swept("first", 1, 2, 8), swept("later", 8, 4, 1, cut=True))
    assert [level.label for level in found.levels] == ["1 in flight", "8 in flight"]
    for level, value in zip(found.levels, (1, 8), strict=True):
        for name in ("a", "b"):
            assert level.metrics[name]["ttft_ms_p50"].value == pytest.approx(LATENCY[value] * 1.02, rel=0.02)
    assert found.levels[0].cut_short == {"a": 32, "b": 4}
    assert found.levels[1].cut_short == {}
    gate = next(gate for gate in found.gates if gate.code == "cut_short")
    assert "at 1 in flight (measured: 32 of 32 requests for a, 4 of 32 for b)" in gate.fact


def test_one_load_is_found_in_a_sweep() -> None:
    found = compared(swept("first", 2), swept("later", 1, 2, 4))
    assert (ttft(found, "a"), ttft(found, "b")) == (pytest.approx(204, abs=4), pytest.approx(204, abs=4))
    assert found.valid
    assert any(
        "the other 1, 2 and 4 in flight: only what both had is shown, 2 in flight." in g.fact for g in found.gates
    )


def test_the_same_sweep_is_the_same_question() -> None:
    found = compared(swept("first", 1, 4), swept("later", 1, 4, fp8=0.5))
    assert found.valid
    assert [level.label for level in found.levels] == ["1 in flight", "4 in flight"]


def test_sweeps_without_a_load_in_common_are_refused() -> None:
    for later, words in ((swept("later", 2, 8), "2 and 8 in flight"), (swept("later", 1, 4, knob="rate"), "1 and 4 requests/s")):  # fmt: skip
        with pytest.raises(UsageError, match=f"no load in common: 1 and 4 in flight against {words}"):
            joined(swept("first", 1, 4), later)
