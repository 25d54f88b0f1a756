"""Spoiled campaigns: each is caught by the gate that is meant for it; clean ones pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import msgspec
import numpy as np
import pytest

from client.core import gates
from client.core.analysis import Measured, analyse
from client.core.conditions import parse
from client.core.evidence import Evidence
from client.core.findings import Estimate, Findings, Memory, Severity, Word
from client.core.gates import GpuArm
from client.core.gpu import GpuSummary, gpu_gates
from client.core.names import NAMES
from client.core.plan import Arrival, Design, LoadProfile
from client.core.records import Outcome, RequestRecord
from client.core.thresholds import judge

change = msgspec.structs.replace


def of(
    records: list[RequestRecord], target: str, edit: Callable[[RequestRecord], RequestRecord]
) -> list[RequestRecord]:
    return [edit(r) if r.target == target else r for r in records]


def some_fail(share: float, outcome: Outcome, **fields: Any) -> list[RequestRecord]:
    records = made.campaign(per_block=16)
    step = round(1 / share)
    return [
        made.failed(r.target, r.index, r.intended_ns / made.MS, outcome, block=r.block, image_id=r.image_id, **fields)
        if r.target == "fp8" and r.index % step == 0
        else r
        for r in records
    ]


def with_servers(**servers: Any) -> Evidence:
    found = {name: made.server(name) for name in ("bf16", "fp8")} | servers
    return made.evidence(made.campaign(), servers=found)


def shorter(r: RequestRecord) -> RequestRecord:
    stop = 14 + r.index % 3
    return change(r, completion_tokens=stop, chunk_ns=r.chunk_ns[:stop], last_token_ns=r.chunk_ns[stop - 1])


def merged(r: RequestRecord) -> RequestRecord:
    second = r.chunk_ns[1]
    return change(r, first_token_ns=second, chunk_ns=(second, *r.chunk_ns[1:])) if r.index % 10 == 0 else r


def merged_late(r: RequestRecord) -> RequestRecord:
    """One gap of an answer is gone, and the one before it is twice as long."""
    chunks = list(r.chunk_ns)
    chunks[4] = chunks[5]
    return change(r, chunk_ns=tuple(chunks)) if r.index % 2 == 0 else r


def counting(before: float, after: float) -> Evidence:
    """32 requests were answered in between, so the server's count of finished ones should grow by 32."""
    text = 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} '
    pages = [
        made.page() + text + f"{before}\n",
        made.page(prefix_queries=35_000, image_queries=32) + text + f"{after}\n",
    ]
    server = made.server("fp8", before=pages[0], after=pages[1])
    stamped = [
        change(page, mono_ns=at) for page, at in ((server.before, 0), (server.after, 10**12)) if page is not None
    ]
    return with_servers(fp8=change(server, before=stamped[0], after=stamped[1]))


def overloaded() -> Evidence:
    """Arrivals each 200 ms at a server that needs 234 ms: every request waits longer than the one before."""
    records = [
        change(r, intended_ns=int((1000 + 200 * (r.index % 8)) * made.MS))
        for r in made.campaign(order=(("bf16", 0), ("fp8", 0)), per_block=60)
    ]
    late = [change(r, intended_ns=records[k].intended_ns if k < 60 else r.intended_ns) for k, r in enumerate(records)]
    for k, r in enumerate(late[:60]):
        late[k] = change(r, intended_ns=late[0].sent_ns + k * 100 * made.MS)  # type: ignore[operator]  # sent_ns is set in a made record
    return made.evidence(late, plan=made.plan(load=LoadProfile(arrival=Arrival.CONSTANT, rate_per_s=10.0, requests=60)))


def slow_start() -> list[RequestRecord]:
    return [
        made.record(
            r.target,
            r.index,
            r.intended_ns / made.MS,
            ttft_ms=120 + r.index % 7 + 200 * (r.block == 0 and r.index < 12),
            image=r.image_id,
            block=r.block,
        )
        for r in made.campaign(per_block=16)
    ]


def of_many_lengths(r: RequestRecord) -> RequestRecord:
    """10 to 59 tokens, as the picture has it; fp8 gives 15 % fewer."""
    tokens = 10 + 7 * int(r.image_id[-6:]) % 50
    return made.record(r.target, r.index, r.intended_ns / made.MS, tokens=round(tokens * 0.85) if r.target == "fp8" else tokens, image=r.image_id, block=r.block)  # fmt: skip


CASES: dict[str, tuple[str, Severity, Callable[[], Evidence], Measured]] = {
    "image cache unequal": ("image_cache_unequal", Severity.INVALID, lambda: with_servers(fp8=made.server("fp8", after=made.page(prefix_queries=35_000, prefix_hits=1_000, image_queries=32, image_hits=16))), Measured()),
    "prefix cache answers both": ("prefix_cache", Severity.INVALID, lambda: with_servers(**{t: made.server(t, after=made.page(prefix_queries=35_000, prefix_hits=33_000, image_queries=32, image_hits=31)) for t in ("bf16", "fp8")}), Measured()),
    "prefix cache unequal": ("prefix_cache_unequal", Severity.INVALID, lambda: with_servers(fp8=made.server("fp8", after=made.page(prefix_queries=35_000, prefix_hits=6_000, image_queries=32))), Measured()),
    "one image, no counters": ("repeated_images", Severity.INVALID, lambda: made.evidence(made.campaign(repeat=True), servers={}), Measured()),
    "counters missing": ("counters_missing", Severity.FLAG, lambda: made.evidence(made.campaign(), servers={}), Measured()),
    "throttled arm": ("gpu_throttled", Severity.INVALID, lambda: made.evidence(made.campaign()), Measured(gpu={"bf16": GpuArm(sm_mhz=1980, slowed_share=0.0), "fp8": GpuArm(sm_mhz=1975, slowed_share=0.4)})),
    "clocks differ": ("gpu_clocks", Severity.INVALID, lambda: made.evidence(made.campaign()), Measured(gpu={"bf16": GpuArm(sm_mhz=1980), "fp8": GpuArm(sm_mhz=1600)})),
    "clocks differ at the power cap": ("gpu_clocks", Severity.FLAG, lambda: made.evidence(made.campaign()), Measured(gpu={"bf16": GpuArm(sm_mhz=1300, power_capped_share=0.9), "fp8": GpuArm(sm_mhz=1500)})),
    "stranger on the GPU": ("other_process", Severity.INVALID, lambda: made.evidence(made.campaign()), Measured(gpu={"bf16": GpuArm(strangers=("python train.py (pid 77)",))})),
    "late generator": ("generator_late", Severity.INVALID, lambda: made.evidence(made.campaign(), health=(made.health("bf16"), made.health("fp8", send_lag_p50_ns=40 * made.MS, send_lag_p99_ns=40 * made.MS))), Measured()),
    "two tokens in one late read": ("stamps_merged", Severity.INVALID, lambda: made.evidence(of(made.campaign(), "fp8", merged), health=(made.health("bf16"), made.health("fp8", loop_lag_p99_ns=9 * made.MS))), Measured()),
    "gaps merged by a late read": ("gaps_merged", Severity.INVALID, lambda: made.evidence(of(made.campaign(), "fp8", merged_late), health=(made.health("bf16"), made.health("fp8", loop_lag_p99_ns=2 * made.MS))), Measured()),
    "a late event loop under kernel stamps": ("loop_late", Severity.INVALID, lambda: made.evidence(made.campaign(), health=(made.health("bf16"), made.health("fp8", recv_lag_p99_ns=200 * made.MS))), Measured()),
    "single waves": ("few_waves", Severity.FLAG, lambda: made.evidence(made.campaign(), plan=made.plan(load=LoadProfile(concurrency=8, requests=32))), Measured()),
    "a third of the time in the collector": ("gc_pauses", Severity.INVALID, lambda: made.evidence(made.campaign(), health=(made.health("bf16", gc_pause_ns=300 * made.MS),)), Measured()),
    "late event loop stamps": ("stamps_late", Severity.INVALID, lambda: made.evidence([change(r, stamps="loop") for r in made.campaign()], health=(made.health("bf16", recv_lag_p99_ns=9 * made.MS), made.health("fp8"))), Measured()),
    "saturated generator": ("generator_saturated", Severity.INVALID, lambda: made.evidence(made.campaign(), health=(made.health("bf16", cpu_ns=980 * made.MS),)), Measured()),
    "busy generator": ("generator_busy", Severity.FLAG, lambda: made.evidence(made.campaign(), health=(made.health("bf16", cpu_ns=600 * made.MS),)), Measured()),
    "garbage collection": ("gc_pauses", Severity.FLAG, lambda: made.evidence(made.campaign(), health=(made.health("bf16", gc_pause_ns=20 * made.MS),)), Measured()),
    "worker died": ("worker_lost", Severity.INVALID, lambda: made.evidence([*made.campaign(), made.failed("fp8", 99, 9e5, Outcome.LOST, block=3)]), Measured()),
    "client cap": ("held_back", Severity.FLAG, lambda: made.evidence(made.campaign(), health=(made.health("bf16", held_back=7),)), Measured()),
    "arm restarted": ("server_restarted", Severity.INVALID, lambda: with_servers(fp8=made.server("fp8", after=made.page(start=2000.0, prefix_queries=9.0))), Measured()),
    "counter fell": ("server_restarted", Severity.INVALID, lambda: with_servers(fp8=made.server("fp8", before=made.page(prefix_queries=9e6), after=made.page(prefix_queries=9.0))), Measured()),
    "restarted early, counters grew since": ("server_restarted", Severity.INVALID, lambda: counting(40.0, 52.0), Measured()),
    "another client": ("other_client", Severity.INVALID, lambda: counting(6.0, 75.0), Measured()),
    "truncated answers": ("errors", Severity.INVALID, lambda: made.evidence(some_fail(0.25, Outcome.TRUNCATED, status=200)), Measured()),
    "errors in one arm": ("errors_unequal", Severity.INVALID, lambda: made.evidence(some_fail(0.25, Outcome.HTTP_ERROR, status=503)), Measured()),
    "a single error": ("some_errors", Severity.FLAG, lambda: made.evidence(some_fail(1 / 64, Outcome.HTTP_ERROR, status=500)), Measured()),
    "time-outs": ("timeouts", Severity.FLAG, lambda: made.evidence(some_fail(1 / 32, Outcome.TIMEOUT_TOTAL)), Measured()),
    "shorter answers": ("output_lengths", Severity.INVALID, lambda: made.evidence(of(made.campaign(), "fp8", shorter)), Measured()),
    "shorter answers among many lengths": ("output_lengths", Severity.INVALID, lambda: made.evidence([of_many_lengths(r) for r in made.campaign()]), Measured()),
    "no token counts": ("output_lengths_unknown", Severity.FLAG, lambda: made.evidence(of(made.campaign(), "fp8", lambda r: change(r, completion_tokens=None))), Measured()),
    "other prompt": ("prompt_tokens", Severity.INVALID, lambda: made.evidence(of(made.campaign(), "fp8", lambda r: change(r, prompt_tokens=700))), Measured()),
    "version mismatch": ("version_mismatch", Severity.INVALID, lambda: with_servers(fp8=made.server("fp8", version="0.33.0")), Measured()),
    "other model": ("other_model", Severity.FLAG, lambda: made.evidence(made.campaign(), plan=change(made.plan(), targets=tuple(change(t, model=f"qwen-{t.name}") for t in made.plan().targets))), Measured()),
    "other engine arguments": ("engine_arguments", Severity.INVALID, lambda: made.evidence(made.campaign(), plan=change(made.plan(), targets=(made.plan().targets[0], change(made.plan().targets[1], engine_args=("--max-model-len=8192", "--quantization", "fp8"))))), Measured()),
    "other memory settings": ("memory_settings", Severity.INVALID, lambda: made.evidence(made.campaign(), plan=change(made.plan(), targets=(made.plan().targets[0], change(made.plan().targets[1], engine_args=("--max-model-len", "4096", "--kv-cache-memory-bytes=23G", "--quantization", "fp8"))))), Measured()),
    "memory settings and more": ("engine_arguments", Severity.INVALID, lambda: made.evidence(made.campaign(), plan=change(made.plan(), targets=(made.plan().targets[0], change(made.plan().targets[1], engine_args=("--max-model-len", "8192", "--kv-cache-memory-bytes=23G"))))), Measured()),
    "preemptions": ("preemptions", Severity.FLAG, lambda: with_servers(fp8=made.server("fp8", after=made.page(prefix_queries=35_000, preemptions=3, image_queries=32))), Measured()),
    "too few": ("too_few_requests", Severity.INVALID, lambda: made.evidence(made.campaign(per_block=1)), Measured()),
    "not warmed up": ("warm_up", Severity.FLAG, lambda: made.evidence(slow_start()), Measured()),
    "overload": ("overload", Severity.INVALID, overloaded, Measured()),
    "interrupted": ("cut_short", Severity.FLAG, lambda: made.evidence(made.campaign(), interrupted=True), Measured()),
    "torn lines": ("torn_lines", Severity.FLAG, lambda: made.evidence(made.campaign(), torn_lines=1), Measured()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_right_gate_fires(name: str) -> None:
    code, severity, make, measured = CASES[name]
    findings = analyse(make(), measured)
    fired = {gate.code: gate for gate in findings.gates}
    assert code in fired, sorted(fired)
    gate = fired[code]
    assert gate.severity is severity
    assert gate.fact.endswith(".")
    assert gate.next_step.endswith(".")
    if severity is Severity.INVALID and (not gate.metrics or findings.primary in gate.metrics):
        assert not findings.valid
        assert gate.fact in findings.invalid_reasons
        assert findings.comparison is not None
        assert findings.comparison.effects["e2e_p50"].word is Word.INVALID
        assert findings.recommendation.action == "none"


def clean(seed: int) -> Findings:
    rng = np.random.default_rng([77, seed])
    kind = {
        "fp8_ttft": float(rng.uniform(0.7, 1.3)),
        "fp8_tpot": float(rng.uniform(0.6, 1.0)),
        "sigma": float(rng.uniform(0.01, 0.15)),
    }
    health = tuple(
        made.health(t, send_lag_p99_ns=int(rng.uniform(0, 2) * made.MS), cpu_ns=int(rng.uniform(10, 400) * made.MS))
        for t in ("bf16", "fp8")
    )
    return analyse(made.evidence(made.campaign(seed, **kind), health=health, plan=made.plan(seed=seed)))  # type: ignore[arg-type]  # three floats


def test_on_clean_runs_no_gate_fires() -> None:
    runs = 100
    loud = [(seed, [gate.code for gate in clean(seed).gates]) for seed in range(runs)]
    fired = [entry for entry in loud if entry[1]]
    assert len(fired) <= 0.02 * runs, fired


def test_gates_of_one_metric_leave_the_others_standing() -> None:
    findings = analyse(CASES["shorter answers"][2]())
    assert findings.comparison is not None
    effects = findings.comparison.effects
    assert effects["e2e_p50"].word is Word.INVALID
    assert effects["tpot_p50"].word is Word.EQUIVALENT


def test_no_gate_vouches_for_what_another_may_spoil() -> None:
    """'TPOT still is' like for like stood beside a TPOT that was INVALID, and 'latencies stand' beside latencies that did not: a gate
    may say what it does not spoil itself, and no more."""
    both = of(of(made.campaign(), "fp8", shorter), "fp8", lambda r: change(r, prompt_tokens=2000))
    other = {"bf16": made.server("bf16"), "fp8": made.server("fp8", version="9")}
    findings = analyse(made.evidence(both, servers=other))
    assert findings.comparison is not None
    assert findings.comparison.effects["tpot_p50"].word is Word.INVALID
    runs = [findings, *(analyse(evidence(), measured) for _, _, evidence, measured in CASES.values())]
    facts = {gate.fact for found in runs for gate in found.gates}
    assert any("not spoiled by this" in fact for fact in facts)
    assert [fact for fact in facts if re.search(r"\bstands?\b|\bstill (is|are|holds?)\b|\bare right\b", fact)] == []


def test_a_serial_design_expects_new_start_times() -> None:
    serial = made.plan(design=Design.SERIAL)
    order = [("bf16", 0), ("bf16", 1), *(("fp8", k) for k in range(4)), ("bf16", 2), ("bf16", 3)]
    again = made.server(
        "bf16", after=made.page(start=2000.0, prefix_queries=35_000, prefix_hits=1_000, image_queries=32)
    )
    servers = {"bf16": again, "fp8": made.server("fp8")}
    findings = analyse(made.evidence(made.campaign(order=order, per_block=10), plan=serial, servers=servers))
    assert findings.gates == ()
    assert findings.comparison is not None
    assert "before and after" in findings.comparison.notes[1]


def test_tokens_that_a_server_sends_together_are_no_fault_of_a_loop_in_time() -> None:
    found = analyse(made.evidence(of(made.campaign(), "fp8", merged)), Measured())
    assert "stamps_merged" not in {gate.code for gate in found.gates}


def test_requests_that_got_no_answer_have_no_stamps_to_doubt() -> None:
    """Refused connections never had a socket that could stamp."""
    records = [
        made.failed(r.target, r.index, r.intended_ns / made.MS, Outcome.REFUSED, stamps="loop", block=r.block, image_id=r.image_id)
        if r.index == 5
        else r
        for r in made.campaign()
    ]  # fmt: skip
    found = analyse(made.evidence(records), Measured())
    assert "some_errors" in {gate.code for gate in found.gates}
    assert not {"stamps_by_loop", "stamps_late"} & {gate.code for gate in found.gates}


def test_a_serial_design_does_not_excuse_a_crash_of_the_candidate() -> None:
    """It is measured in one stay: a new start within that is no part of the design."""
    order = [("bf16", 0), ("bf16", 1), *(("fp8", k) for k in range(4)), ("bf16", 2), ("bf16", 3)]
    crashed = made.server("fp8", after=made.page(start=2000.0, prefix_queries=35_000, image_queries=32))
    servers = {"bf16": made.server("bf16"), "fp8": crashed}
    findings = analyse(made.evidence(made.campaign(order=order), plan=made.plan(design=Design.SERIAL), servers=servers))
    assert "fp8 was restarted" in findings.invalid_reasons[0]


def test_the_table_of_the_docs_names_every_gate() -> None:
    core, told = Path(gates.__file__).parent, (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    found = {
        one or other
        for path in core.glob("*.py")
        for one, other in re.findall(r'\b(?:invalid|flag|_flag)\(\s*f?"([a-z_{}]+)"|code="([a-z_]+)"', path.read_text())
    }
    codes = {code.replace("{kind}", kind) for code in found for kind in ("prefix", "image")} - NOT_TOLD
    assert len(codes) > 38
    assert [code for code in sorted(codes) if f"`{code}`" not in told] == []


NOT_TOLD = {"gpu_clocks_differ"}
"""Judged as `gpu_clocks` (client.core.server_gates) instead."""


def test_a_replayed_gpu_spoils_its_energy() -> None:
    """The gate named metrics that nothing is called, and an energy from a recording counted as a gain."""
    energy = {
        n: {"joules_per_request": Estimate(value=v, low=v * 0.9, high=v * 1.1, n=30)}
        for n, v in (("bf16", 9.0), ("fp8", 5.0))
    }
    replayed = gpu_gates([GpuSummary(target="fp8", fake=True)])
    findings = analyse(made.evidence(made.campaign()), Measured(energy=energy, gates=replayed))
    assert all(metric in NAMES for gate in replayed for metric in gate.metrics)
    assert findings.comparison is not None
    assert findings.comparison.effects["joules_per_request"].word is Word.INVALID
    assert findings.valid
    told = judge(parse("fp8.joules_per_request > 1", ("bf16", "fp8")), findings)
    assert told.result == "cannot tell"


def test_conditions_on_cost_see_what_spoils_throughput() -> None:
    plan = made.plan(targets=tuple(change(t, price_usd_per_hour=2.0) for t in made.plan().targets))
    findings = analyse(made.evidence(of(made.campaign(), "fp8", shorter), plan=plan))
    told = judge(parse("fp8.usd_per_1000_images > 0.0001", ("bf16", "fp8")), findings)
    assert (told.result, "output_lengths" in told.sentence) == ("cannot tell", True)


def test_a_server_that_counts_what_was_asked_of_it_raises_no_doubt() -> None:
    for grown in (32, 33):
        assert analyse(counting(6.0, 6.0 + grown)).gates == ()


def test_a_difference_that_may_be_chance_is_no_difference_of_lengths() -> None:
    """Lengths that vary by half differ by a few percent between any two halves of a run."""
    rng = np.random.default_rng(4)
    lengths = {r.index: int(rng.integers(8, 24)) for r in made.campaign() if r.target == "fp8"}

    def varied(r: RequestRecord) -> RequestRecord:
        stop = 16 if r.target == "bf16" else lengths[r.index]
        return change(
            r, completion_tokens=stop, chunk_ns=r.chunk_ns[:stop], last_token_ns=r.chunk_ns[min(stop, 20) - 1]
        )

    findings = analyse(made.evidence([varied(r) for r in made.campaign()]))
    tokens = [lengths[k] for k in lengths]
    assert abs(float(np.mean(tokens)) / 16 - 1) > 0.02, "far enough apart to be looked at"
    assert "output_lengths" not in [gate.code for gate in findings.gates]


def test_drift_cancels_only_where_both_arms_have_it() -> None:
    """The sentence stood beside a drift of one arm alone."""
    drifts = [change_ttft(r, 1 + 0.9 * r.index / 64) for r in made.campaign(per_block=16)]
    alone = analyse(made.evidence([r if r.target == "bf16" else s for r, s in zip(drifts, made.campaign(per_block=16), strict=True)]))  # fmt: skip
    both = analyse(made.evidence(drifts))
    for findings, count, cancels in ((alone, 1, False), (both, 2, True)):
        facts = [gate.fact for gate in findings.gates if gate.code == "not_settled"]
        assert (len(facts), ["cancel" in fact for fact in facts]) == (count, [cancels] * count), facts


def change_ttft(r: RequestRecord, factor: float) -> RequestRecord:
    ttft = 120.0 * factor
    return made.record(r.target, r.index, r.intended_ns / made.MS, ttft_ms=ttft, image=r.image_id, block=r.block)


def test_what_one_arm_says_of_itself_leaves_the_other_unknown() -> None:
    targets = made.plan().targets
    half = (targets[0], change(targets[1], engine_args=()))
    silent = analyse(made.evidence(made.campaign(), plan=made.plan(targets=half)))
    assert [(g.code, g.severity, g.targets) for g in silent.gates] == [("engine_arguments_unknown", Severity.FLAG, ("fp8",))]  # fmt: skip
    assert silent.valid
    one = analyse(with_servers(fp8=change(made.server("fp8"), version=None)))
    assert [(g.code, g.severity, g.targets) for g in one.gates] == [("version_unknown", Severity.FLAG, ("fp8",))]


def test_the_gates_that_spoil_come_first() -> None:
    records = some_fail(0.25, Outcome.TIMEOUT_TOTAL)
    severities = [gate.severity for gate in analyse(made.evidence(records, interrupted=True)).gates]
    assert Severity.FLAG in severities
    assert severities == sorted(severities, key=lambda s: s is not Severity.INVALID)


def test_waiting_in_the_servers_queue_is_told() -> None:
    text = 'vllm:request_queue_time_seconds_{part}{{engine="0",model_name="m"}} {value}\n'
    waits = "".join(text.format(part=part, value=value) for part, value in (("sum", 3.2), ("count", 32.0)))
    none = "".join(text.format(part=part, value=0.0) for part in ("sum", "count"))
    after = "# TYPE vllm:request_queue_time_seconds histogram\n"
    queued = made.server(
        "fp8",
        before=made.page() + after + none,
        after=made.page(prefix_queries=35_000, image_queries=32) + after + waits,
    )
    findings = analyse(with_servers(fp8=queued))
    gate = next(gate for gate in findings.gates if gate.code == "queueing")
    assert gate.severity is Severity.FLAG
    assert "100 ms on average in the queue of fp8" in gate.fact


def test_capacity_that_was_set_is_no_gain_of_the_precision() -> None:
    """With 0.5 of the GPU for one server and 0.9 for the other the larger KV cache was a reason to use fp8."""
    memory = {"bf16": Memory(kv_cache_tokens=1000), "fp8": Memory(kv_cache_tokens=3000)}
    findings = analyse(CASES["other memory settings"][2](), Measured(memory=memory))
    assert findings.valid
    assert findings.comparison is not None
    assert findings.comparison.effects["kv_cache_tokens"].word is Word.INVALID
    assert findings.comparison.effects["e2e_p50"].word is Word.EQUIVALENT
    said, _, open_ = findings.recommendation.sentence.partition("; not settled: ")
    assert "KV cache" not in said
    assert open_ == "KV cache."
