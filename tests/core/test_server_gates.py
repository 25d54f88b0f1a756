"""Gates over servers and GPU: three targets, counters that are partly missing, engine arguments in two spellings, clocks."""

from __future__ import annotations

import re

import made
import msgspec
import pytest

from client.core.analysis import Measured, analyse
from client.core.evidence import Evidence, GpuEvidence
from client.core.findings import Gate, Severity
from client.core.gates import GpuArm
from client.core.gpu import gpu_summary
from client.core.measured import measured_in
from client.core.plan import Design, Target
from client.core.records import GpuSample, Phase, PhaseWindow
from client.core.secrets import mask_args
from client.core.serve_args import beyond_precision, caches_off

change = msgspec.structs.replace
THREE = ("bf16", "fp8", "int4")
ARGS = ("--max-model-len", "4096")


def three(args: tuple[tuple[str, ...], ...] = (ARGS, ARGS, ARGS), hits: tuple[float, ...] = (1000, 1000, 1000)) -> Evidence:  # fmt: skip
    records = made.campaign(per_block=16)
    third = [change(r, target="int4") for r in made.campaign(3, per_block=16) if r.target == "fp8"]
    targets = tuple(Target(name=n, base_url=f"http://{n}", precision=n, engine_args=a) for n, a in zip(THREE, args, strict=True))  # fmt: skip
    servers = {
        n: made.server(n, after=made.page(prefix_queries=35_000, prefix_hits=h, image_queries=32))
        for n, h in zip(THREE, hits, strict=True)
    }
    health = tuple(made.health(name) for name in THREE)
    return made.evidence(records + third, plan=made.plan(targets=targets), servers=servers, health=health)


def of(found: tuple[Gate, ...], code: str) -> list[Gate]:
    return [gate for gate in found if gate.code == code]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_every_candidate_is_held_against_the_baseline(order: tuple[int, ...]) -> None:
    """Only neighbours were: what two steps below a limit add up to, and what stood beyond an unknown, was not seen."""
    other = ("--max-model-len", "8192", "--enforce-eager")
    args = tuple((ARGS, (), other)[k] for k in order)
    evidence = three(args, tuple((0.0, 1600.0, 3200.0)[k] for k in order))
    mhz = {name: GpuArm(sm_mhz=(1980.0, 1930.0, 1880.0)[k]) for name, k in zip(THREE, order, strict=True)}
    gates = analyse(evidence, Measured(gpu=mhz)).gates
    far = THREE[order.index(2)]
    for code in ("engine_arguments", "gpu_clocks", "prefix_cache_unequal"):
        assert [gate.targets for gate in of(gates, code)] == [("bf16", far)], code
    facts = [gate.fact for gate in gates]
    assert len(facts) == len(set(facts))
    assert [gate.targets for gate in of(gates, "engine_arguments_unknown")] == [(THREE[order.index(1)],)]


def test_two_candidates_that_lie_on_both_sides_of_the_baseline_are_unlike() -> None:
    evidence = three(hits=(1600.0, 100.0, 3200.0))
    mhz = {name: GpuArm(sm_mhz=value) for name, value in zip(THREE, (1930.0, 1980.0, 1880.0), strict=True)}
    gates = analyse(evidence, Measured(gpu=mhz)).gates
    assert [gate.targets for gate in of(gates, "gpu_clocks")] == [("fp8", "int4")]
    assert [gate.targets for gate in of(gates, "prefix_cache_unequal")] == [("fp8", "int4")]


def test_arguments_are_compared_though_the_baseline_does_not_tell_its_own() -> None:
    gates = analyse(three(((), ARGS, (*ARGS, "--enforce-eager")))).gates
    assert [gate.targets for gate in of(gates, "engine_arguments")] == [("fp8", "int4")]
    assert [gate.targets for gate in of(gates, "engine_arguments_unknown")] == [("bf16",)]


# ---------------------------------------------------------------- counters


def counting(lost: str, pages: tuple[str, ...] = ("before", "after"), targets: tuple[str, ...] = ("fp8",)) -> Evidence:
    """A clean run whose pages lack the series that `lost` matches."""
    servers = {name: made.server(name) for name in ("bf16", "fp8")}
    for name in targets:
        for page in pages:
            snapshot = getattr(servers[name], page)
            text = re.sub(rf"(?m)^vllm:({lost}).*\n", "", snapshot.text)
            assert text != snapshot.text
            servers[name] = change(servers[name], **{page: change(snapshot, text=text)})
    return made.evidence(made.campaign(), servers=servers)


def test_a_counter_that_is_not_there_is_told() -> None:
    """Its rate read 'unknown' in a table, and no gate said so."""
    for lost, kind in (("mm_cache", "image-cache hits"), ("prefix_cache", "prefix-cache hits"), ("num_preemptions", "preemptions")):  # fmt: skip
        gates = of(analyse(counting(lost)).gates, "counters_missing")
        assert [(gate.severity, gate.targets) for gate in gates] == [(Severity.FLAG, ("fp8",))]
        assert f"Unknown of fp8, not 0: {kind}; the /metrics pages lack vllm:{lost}" in gates[0].fact
    found = analyse(counting("mm_cache|prefix_cache", targets=("bf16", "fp8")))
    assert [gate.targets for gate in of(found.gates, "counters_missing")] == [("bf16", "fp8")]
    assert found.targets["fp8"].caches["image_hit_rate"].note == "unknown: no such counter"


def test_a_page_that_was_cut_is_told_with_its_name() -> None:
    gates = of(analyse(counting("mm_cache|num_pre", pages=("after",))).gates, "counters_missing")
    assert [gate.targets for gate in gates] == [("fp8",)]
    assert (
        "image-cache hits and preemptions; the /metrics page from after the measurement lacks vllm:mm" in gates[0].fact
    )
    assert "proxy" in gates[0].next_step
    gone = of(analyse(counting(".*", pages=("after",))).gates, "counters_missing")
    assert "fp8 are unknown: the /metrics page from after the measurement has no vLLM counters" in gone[0].fact


def test_counters_of_a_cache_that_is_off_are_not_missed() -> None:
    targets = made.plan().targets
    off = tuple(change(t, engine_args=(*t.engine_args, "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0")) for t in targets)  # fmt: skip
    silent = counting("mm_cache|prefix_cache", targets=("bf16", "fp8"))
    assert analyse(change(silent, plan=made.plan(targets=off))).gates == ()
    log = {"enable_prefix_caching": False, "disable_mm_preprocessor_cache": True}
    both = caches_off((), {}, log)
    assert both == {"prefix-cache hits", "image-cache hits"}
    assert caches_off((), {"enable_prefix_caching": "False"}, {}) == {"prefix-cache hits"}
    assert caches_off(("--mm-processor-cache-gb=4",), {"enable_prefix_caching": "True"}, {}) == frozenset()


# ---------------------------------------------------------------- engine arguments


def test_arguments_are_read_as_vllm_reads_them() -> None:
    hyphens = ("--max-model-len", "4096", "--served-model-name", "a", "-tp", "2", "-q", "fp8")
    underscores = ("--max_model_len=4096", "--served_model_name", "b", "--tensor_parallel_size=2")
    assert beyond_precision(hyphens) == beyond_precision(underscores) == {"--max-model-len": "4096", "--tensor-parallel-size": "2"}  # fmt: skip
    targets = tuple(change(t, engine_args=args) for t, args in zip(made.plan().targets, (hyphens, underscores), strict=True))  # fmt: skip
    assert analyse(made.evidence(made.campaign(), plan=made.plan(targets=targets))).gates == ()


def test_a_flag_without_a_value_is_told_as_set() -> None:
    targets = made.plan().targets
    eager = (targets[0], change(targets[1], engine_args=(*ARGS, "--enforce_eager")))
    gates = analyse(made.evidence(made.campaign(), plan=made.plan(targets=eager))).gates
    assert "--enforce-eager not set / set." in of(gates, "engine_arguments")[0].fact


def test_keys_are_masked_in_either_spelling() -> None:
    """The manifest keeps the arguments, and vLLM takes --api_key as well."""
    assert mask_args(("--api_key=sk-abcdefgh", "--hf_token", "hf_abcdefgh")) == ("--api_key=***", "--hf_token", "***")


# ---------------------------------------------------------------- clocks and slowdowns


def clocks(design: Design = Design.INTERLEAVED, **arms: GpuArm) -> list[Gate]:
    evidence = made.evidence(made.campaign(), plan=made.plan(design=design))
    return of(analyse(evidence, Measured(gpu=arms)).gates, "gpu_clocks")


def test_a_cap_explains_the_clock_of_the_arm_that_it_holds_down() -> None:
    fast, slow = 2505.0, 1753.0
    for mhz, caps, severity in (
        ((fast, slow), (0.9, 0.0), Severity.INVALID),
        ((fast, slow), (0.0, 0.9), Severity.FLAG),
        ((slow, fast), (0.9, 0.0), Severity.FLAG),
        ((fast, slow), (0.0, 0.09), Severity.INVALID),
        ((fast, slow), (0.9, None), Severity.INVALID),
    ):
        arms = {n: GpuArm(sm_mhz=m, power_capped_share=c) for n, m, c in zip(("bf16", "fp8"), mhz, caps, strict=True)}
        found = clocks(**arms)
        assert [gate.severity for gate in found] == [severity], (mhz, caps)
        told = f"{'fp8' if mhz[0] > mhz[1] else 'bf16'} was at the power cap in 90% of its samples"
        assert (told in found[0].fact) == (severity is Severity.FLAG)


def test_who_alternates_already_is_not_told_to() -> None:
    arms = {"bf16": GpuArm(sm_mhz=1980), "fp8": GpuArm(sm_mhz=1600)}
    steps = [clocks(design, **arms)[0].next_step for design in (Design.INTERLEAVED, Design.SERIAL)]
    assert ["interleaved" in step for step in steps] == [False, True]


def test_a_sample_with_any_slowdown_counts_once() -> None:
    """One of 23 by heat and another one by hardware were 4 % each, and no gate; both at once count once."""
    masks = [0x20, 0x40 | 0x20 | 0x4, *[0x4] * 21]
    found = slowed(masks)
    assert found.slowed_share == pytest.approx(2 / 23)
    assert found.power_capped_share == pytest.approx(22 / 23)
    silent = slowed([None] * 23)
    assert (silent.slowed_share, silent.power_capped_share) == (None, None), "unknown is not 0"


def slowed(masks: list[int | None]) -> GpuArm:
    samples = tuple(GpuSample(gpu=0, mono_ns=k * 10**8, wall_ns=0, sm_mhz=1980, reasons=m) for k, m in enumerate(masks))
    window = PhaseWindow(target="fp8", phase=Phase.MEASURE, start_ns=0, end_ns=10**10)
    gpu = GpuEvidence(samples=samples, target="fp8")
    assert gpu_summary("fp8", gpu, [window]).why is None
    return measured_in(made.evidence(made.campaign(), windows=(window,), gpu=(gpu,))).gpu["fp8"]


def test_a_value_in_another_spelling_is_the_same() -> None:
    base = ("--enable-prefix-caching", "--gpu-memory-utilization", "0.9", "--limit-mm-per-prompt", '{"image": 1}')
    same = (
        "--enable-prefix-caching=true",
        "--gpu-memory-utilization",
        "0.90",
        "--limit-mm-per-prompt",
        '{"image":1}',
        "-tp",
        "1",
    )
    assert beyond_precision(base) == beyond_precision(same)
    assert beyond_precision(base) != beyond_precision((*base, "-tp", "2"))
    assert beyond_precision(("--no-x=false",)) != beyond_precision(("--no-x",))
