"""Energy, cost and GPU state: known answers on made-up physics, the real H100 recording, and no figure that is negative or silently zero."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.evidence import GpuEvidence
from client.core.findings import Estimate, Severity
from client.core.gpu import GpuSummary, by_target, clock_reasons, gpu_gates, gpu_summary
from client.core.records import GpuProcess, GpuSample, Outcome, Phase, PhaseWindow, RequestRecord
from client.core.resources import cost, energy, energy_gate, ok_in_windows
from client.core.sidecar import read_lines

GOLDEN = Path(__file__).parent.parent / "golden" / "gpu"
S = 1_000_000_000
GIB = 1024**3


def window(start: float, end: float, target: str = "fp8", phase: Phase = Phase.MEASURE, **more: Any) -> PhaseWindow:
    return PhaseWindow(target=target, phase=phase, start_ns=round(start * S), end_ns=round(end * S), **more)


def sample(t: float, **fields: Any) -> GpuSample:
    return GpuSample(mono_ns=round(t * S), wall_ns=round(t * S), **fields)


def powered(watts: Any, start: float = 0.0, end: float = 20.0, hz: float = 10, **fields: Any) -> tuple[GpuSample, ...]:
    """10 Hz samples of a power in W that may be a function of time."""
    times = [start + n / hz for n in range(round((end - start) * hz) + 1)]
    return tuple(sample(t, power_mw=round(1000 * (watts(t) if callable(watts) else watts)), **fields) for t in times)


def evidence(*samples: GpuSample) -> GpuEvidence:
    return GpuEvidence(samples=samples)


def test_a_constant_power_is_that_power_times_time() -> None:
    found = energy("fp8", evidence(*powered(400)), [window(2, 12)], 100)
    assert found["energy_integral_j"].value == pytest.approx(4000)
    assert found["mean_power_w"].value == pytest.approx(400)
    assert found["joules_per_request"].value == pytest.approx(40)
    assert found["kj_per_1000_images"].value == pytest.approx(40)
    assert (found["joules_per_request"].unit, found["kj_per_1000_images"].unit) == ("J", "kJ")
    assert "the energy counter was not read" in (found["joules_per_request"].note or "")


def test_a_ramp_is_integrated_from_border_to_border() -> None:
    found = energy("fp8", evidence(*powered(lambda t: 100 + 20 * t)), [window(2.03, 12.07)], 1)
    exact = 100 * 10.04 + 10 * (12.07**2 - 2.03**2)
    assert found["energy_integral_j"].value == pytest.approx(exact, rel=1e-5)


def test_only_measured_windows_of_this_target_count() -> None:
    windows = [
        window(0, 2, phase=Phase.WARMUP),
        window(2, 6),
        window(6, 10, target="bf16"),
        window(10, 14),
    ]
    found = energy("fp8", evidence(*powered(lambda t: 300 if t < 6 or t > 10 else 700)), windows, 8)
    assert found["energy_integral_j"].value == pytest.approx(2400, rel=0.03)
    assert found["energy_integral_j"].n == 2


def test_the_counter_is_preferred_and_the_integral_stands_beside_it() -> None:
    windows = [window(2, 12, energy_start_mj=1_000_000, energy_end_mj=5_100_000)]
    found = energy("fp8", evidence(*powered(400)), windows, 100)
    assert found["energy_counter_j"].value == 4100
    assert found["joules_per_request"].value == 41
    assert found["counter_against_integral"].value == pytest.approx(0.025)
    assert found["counter_against_integral"].note is None
    assert energy_gate("fp8", found) is None


def test_a_disagreement_over_ten_per_cent_is_flagged() -> None:
    windows = [window(2, 12, energy_start_mj=0, energy_end_mj=4_600_000)]
    found = energy("fp8", evidence(*powered(400)), windows, 100)
    assert "disagree by +15%" in (found["counter_against_integral"].note or "")
    gate = energy_gate("fp8", found)
    assert gate is not None
    assert (gate.code, gate.severity) == ("gpu_energy_disagrees", Severity.FLAG)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [(5_000, 4_000, "stepped back"), (5_000, 5_000, "did not move"), (None, 5, "not read"), (5, None, "not read")],
)
def test_a_counter_that_cannot_be_right_is_unavailable(start: int | None, end: int | None, says: str) -> None:
    windows = [
        window(2, 6, energy_start_mj=0, energy_end_mj=1_600_000),
        window(6, 10, energy_start_mj=start, energy_end_mj=end),
    ]
    found = energy("fp8", evidence(), windows, 100)
    assert found["energy_counter_j"].value is None
    assert says in (found["energy_counter_j"].note or "")
    assert found["joules_per_request"].value is None
    assert found["joules_per_request"].note


def test_short_windows_give_no_figure_and_say_the_minimum() -> None:
    for windows in ([window(2, 3.5)], [window(2, 12), window(12, 12.5)]):
        found = energy("fp8", evidence(*powered(400)), windows, 100)
        assert all(e.value is None for e in found.values())
        assert "at least 1 s each and 2 s in all" in (found["joules_per_request"].note or "")


def test_a_hole_in_the_samples_gives_no_integral() -> None:
    samples = powered(400, 0, 5) + powered(400, 6.5, 20)
    found = energy("fp8", evidence(*samples), [window(2, 12)], 100)
    assert found["energy_integral_j"].value is None
    assert "a hole of 1.5 s" in (found["energy_integral_j"].note or "")
    late = energy("fp8", evidence(*powered(400, 4, 20)), [window(2, 12)], 100)
    assert "a hole of 2.0 s" in (late["energy_integral_j"].note or "")


def test_a_power_of_zero_is_no_reading() -> None:
    samples = [sample(n / 10, power_mw=0 if n % 5 == 0 else 400_000) for n in range(200)]
    found = energy("fp8", evidence(*samples), [window(2, 12)], 100)
    assert found["mean_power_w"].value == pytest.approx(400)


def test_one_window_has_its_borders_for_an_interval() -> None:
    found = energy("fp8", evidence(*powered(400)), [window(2, 12)], 100)["joules_per_request"]
    assert (found.low, found.value, found.high) == pytest.approx((39.6, 40, 40.4))
    far = GpuEvidence(samples=powered(400), clock_error_ns=round(0.3 * S))
    found = energy("fp8", far, [window(2, 12)], 100)["joules_per_request"]
    assert (found.low, found.high) == pytest.approx((38.4, 41.6)), "0.3 s of clock error at each border"
    assert "±300.0 ms" in (found.note or "")
    counted = energy("fp8", far, [window(2, 12, energy_start_mj=0, energy_end_mj=4_000_000)], 100)["joules_per_request"]
    assert (counted.low, counted.high) == pytest.approx((39.6, 40.4)), "the counter is read at the borders"


def test_instant_power_is_used_only_where_every_window_has_it() -> None:
    half = tuple(
        msgspec.structs.replace(s, power_instant_mw=500_000 if s.mono_ns < 8 * S else None) for s in powered(400)
    )
    first = energy("fp8", evidence(*half), [window(2, 7)], 1)
    both = energy("fp8", evidence(*half), [window(2, 7), window(9, 14)], 1)
    assert first["mean_power_w"].value == pytest.approx(500)
    assert both["mean_power_w"].value == pytest.approx(400)


def test_two_gpus_add_up_and_one_without_power_spoils_the_sum() -> None:
    pair = [s for t in (0, 1) for s in powered(100 * (t + 1), gpu=t)]
    assert energy("fp8", evidence(*pair), [window(2, 12)], 1)["mean_power_w"].value == pytest.approx(300)
    broken = [s for s in pair if s.gpu == 0 or s.mono_ns < 4 * S]
    assert energy("fp8", evidence(*broken), [window(2, 12)], 1)["mean_power_w"].value is None
    mute = [msgspec.structs.replace(s, power_mw=None) if s.gpu else s for s in pair]
    found = energy("fp8", evidence(*mute), [window(2, 12)], 1)
    assert found["mean_power_w"].value is None
    assert "GPU 1" in (found["mean_power_w"].note or "")


def test_blocks_give_an_interval_and_its_width_follows_their_spread() -> None:
    windows = [window(4 * k, 4 * k + 4, energy_start_mj=0, energy_end_mj=1_600_000 + 40_000 * k) for k in range(4)]
    tight = energy("fp8", evidence(), windows, 160, ok_by_window=[40] * 4)["joules_per_request"]
    loose = energy("fp8", evidence(), windows, 160, ok_by_window=[30, 50, 45, 35])["joules_per_request"]
    assert tight.value == loose.value == pytest.approx(41.5)
    for e in (tight, loose):
        assert e.value is not None
        assert e.low is not None
        assert e.high is not None
        assert 0 < e.low < e.value < e.high
        assert "4 blocks" in (e.note or "")
    assert loose.high > 1.2 * tight.high  # type: ignore[operator]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """400 runs of 6 blocks whose true ratio is 40 J: at 90 % the interval misses about 40 times."""
    import random

    rng, missed = random.Random(5), 0
    for _ in range(400):
        counts = [rng.randint(80, 120) for _ in range(6)]
        windows = [
            window(100 * k, 100 * k + 60, energy_start_mj=0, energy_end_mj=round(n * 40_000 * rng.gauss(1, 0.05)))
            for k, n in enumerate(counts)
        ]
        e = energy("fp8", evidence(), windows, sum(counts), ok_by_window=counts, confidence=0.9)["joules_per_request"]
        missed += not (e.low or 0) <= 40 <= (e.high or 0)
    assert 15 <= missed <= 60


def test_requests_are_counted_in_measured_windows_edges_included() -> None:
    windows = [window(0, 1, phase=Phase.WARMUP), window(4, 6), window(2, 4), window(2, 6, target="bf16")]

    def record(done: float | None, phase: Phase, outcome: Outcome = Outcome.OK, target: str = "fp8") -> RequestRecord:
        return RequestRecord(
            target=target, phase=phase, index=0, image_id="i", outcome=outcome, intended_ns=0,
            done_ns=None if done is None else round(done * S),
        )  # fmt: skip

    records = [
        record(0.5, Phase.WARMUP),
        record(2.5, Phase.EDGE),
        record(3, Phase.MEASURE),
        record(3, Phase.MEASURE, Outcome.HTTP_ERROR),
        record(3, Phase.MEASURE, target="bf16"),
        record(5, Phase.MEASURE),
        record(None, Phase.MEASURE),
    ]
    assert ok_in_windows("fp8", windows, records) == (2, 1)


def test_no_sidecar_and_no_request_are_said() -> None:
    found = energy("fp8", GpuEvidence(why="GPU not measured: no sidecar"), [window(2, 12)], 10)
    assert all(e.value is None for e in found.values())
    assert "GPU not measured: no sidecar" in (found["energy_integral_j"].note or "")
    none = energy("fp8", evidence(*powered(400)), [window(2, 12)], 0)
    assert none["joules_per_request"].note == "unavailable: no request succeeded"
    assert none["mean_power_w"].value == pytest.approx(400)


POWER = st.one_of(st.none(), st.integers(-(10**6), 2 * 10**6), st.just(0))
COUNTER = st.one_of(st.none(), st.integers(0, 10**12))


@st.composite
def anything(draw: st.DrawFn) -> tuple[GpuEvidence, list[PhaseWindow], int, list[int]]:
    times = draw(st.lists(st.integers(0, 12 * S), max_size=40))
    dense = draw(st.booleans())
    if dense:
        times = list(range(0, 12 * S, S // 5))
    samples = [
        GpuSample(
            mono_ns=t,
            wall_ns=t,
            gpu=draw(st.integers(0, 1)) if not dense else 0,
            power_mw=draw(POWER),
            power_instant_mw=draw(POWER),
            used_v2=draw(POWER),
            total=draw(POWER),
            sm_mhz=draw(st.one_of(st.none(), st.integers(0, 2000))),
            reasons=draw(st.one_of(st.none(), st.integers(0, 2**12))),
        )
        for t in times
    ]
    cuts = sorted(draw(st.lists(st.integers(0, 12 * S), min_size=2, max_size=8)))
    windows = [
        PhaseWindow(
            target="fp8", phase=Phase.MEASURE, start_ns=a, end_ns=b, energy_start_mj=draw(COUNTER), energy_end_mj=draw(COUNTER)
        )
        for a, b in zip(cuts[::2], cuts[1::2], strict=False)
    ]  # fmt: skip
    counts = [draw(st.integers(0, 50)) for _ in windows]
    return GpuEvidence(samples=tuple(samples)), windows, sum(counts), counts


@given(anything())
@settings(max_examples=200, deadline=None)
def test_no_sequence_of_samples_makes_a_negative_or_silently_zero_figure(
    case: tuple[GpuEvidence, list[PhaseWindow], int, list[int]],
) -> None:
    gpu, windows, ok, counts = case
    for name, e in energy("fp8", gpu, windows, ok, ok_by_window=counts).items():
        if e.value is None:
            assert e.note, name
            assert e.low is None
            assert e.high is None
        elif name != "counter_against_integral":
            assert e.value > 0
            assert e.low is None or 0 < e.low <= e.value <= (e.high or math.inf)
        else:
            assert e.value > -1
    found = gpu_summary("fp8", gpu, windows)
    for field in ("idle_v2_bytes", "peak_v2_bytes", "total_bytes", "process_bytes"):
        value = getattr(found, field)
        assert value is None or value > 0, field
    assert all(0 < share <= 1 for share in found.reasons.values())


@given(
    st.one_of(st.none(), st.floats(allow_nan=True)),
    st.one_of(st.none(), st.floats(allow_nan=True)),
    st.one_of(st.none(), st.floats(0, 1e3)),
)
def test_no_price_or_rate_makes_a_negative_or_silently_zero_cost(price: Any, rate: Any, spread: Any) -> None:
    low = None if spread is None or rate is None else rate - spread
    high = None if spread is None or rate is None else rate + spread
    for e in cost(price, Estimate(value=rate, low=low, high=high), Estimate(value=rate)).values():
        if e.value is None:
            assert e.note
        else:
            assert e.value >= 0
            assert e.low is None or e.low <= e.value


def test_cost_is_price_over_what_an_hour_serves() -> None:
    found = cost(3.6, Estimate(value=10, low=8, high=12.5, n=96), Estimate(value=5, n=96))
    assert found["usd_per_1000_images"] == Estimate(value=0.1, low=0.08, high=0.125, n=96, unit="USD")
    at_slo = found["usd_per_1000_images_at_slo"]
    assert (at_slo.value, at_slo.low) == (0.2, None)
    assert "no interval" in (at_slo.note or "")
    assert set(cost(3.6, Estimate(value=10))) == {"usd_per_1000_images"}


def test_cost_without_price_or_throughput_says_so() -> None:
    assert "no price" in (cost(None, Estimate(value=10))["usd_per_1000_images"].note or "")
    zero = cost(3.6, Estimate(value=10), Estimate(value=0.0))["usd_per_1000_images_at_slo"]
    assert zero.value is None
    assert "goodput is not above zero" in (zero.note or "")
    assert "needs n" in (cost(3.6, Estimate(note="needs n ≥ 30"))["usd_per_1000_images"].note or "")


def recorded(name: str, *spans: tuple[float, float]) -> tuple[GpuEvidence, list[PhaseWindow]]:
    lines = read_lines((GOLDEN / f"{name}.gpu.jsonl").read_bytes())
    return GpuEvidence(samples=lines.samples), [window(a, b, target=name) for a, b in spans]


def test_the_real_h100_draws_less_for_fp8_at_equal_latency() -> None:
    """unique_a and unique_a2, one request in flight: 50 pictures each, E2E equal within 2 %, but not the energy."""
    bf16 = energy("bf16", *recorded("bf16", (219.532, 232.117), (232.611, 245.382)), 100, ok_by_window=[50, 50])
    fp8 = energy("fp8", *recorded("fp8", (449.791, 462.144), (462.687, 474.911)), 100, ok_by_window=[50, 50])
    assert bf16["joules_per_request"].value == pytest.approx(92.9, abs=0.5)
    assert fp8["joules_per_request"].value == pytest.approx(74.1, abs=0.5)
    assert fp8["joules_per_request"].high < bf16["joules_per_request"].low  # type: ignore[operator]


def test_the_real_h100s_memory_is_told_by_both_apis() -> None:
    gpu, windows = recorded("bf16", (219.532, 232.117), (272.71, 278.66))
    found = gpu_summary("bf16", gpu, windows)
    assert found.peak_v2_bytes is not None
    assert found.peak_v1_bytes is not None
    assert found.peak_v2_bytes / 2**20 == pytest.approx(37_223, abs=10)
    assert found.peak_v1_bytes - found.peak_v2_bytes == found.reserved_bytes == 480 * 2**20
    assert found.idle_v2_bytes is not None
    assert found.idle_v2_bytes <= found.peak_v2_bytes
    assert found.total_bytes == 85_520_809_984
    assert found.sm_mhz_median == pytest.approx(1970, abs=15)
    assert found.reasons["power cap"] == pytest.approx(0.4, abs=0.2)
    assert gpu_gates([found]) == ()


def test_idle_is_read_just_before_the_first_request_only() -> None:
    samples = [sample(t, used_v2=round(t)) for t in range(1, 40)]
    assert gpu_summary("fp8", evidence(*samples), [window(20, 30)]).idle_v2_bytes == 20
    late = [s for s in samples if s.mono_ns >= 21 * S]
    assert gpu_summary("fp8", evidence(*late), [window(20, 30)]).idle_v2_bytes is None
    assert gpu_summary("fp8", evidence(*late), [window(20, 30)]).peak_v2_bytes == 30
    old = [s for s in samples if s.mono_ns < 8 * S or s.mono_ns > 20 * S]
    assert gpu_summary("fp8", evidence(*old), [window(20, 30)]).idle_v2_bytes is None


def test_mig_memory_is_not_counted_twice() -> None:
    every = [
        sample(t, uuid=uuid, used_v2=used)
        for t in (1, 2, 3)
        for uuid, used in (("GPU-a", 30), ("MIG-0", 10), ("MIG-1", 20))
    ]
    assert gpu_summary("fp8", evidence(*every), [window(0.5, 3.5)]).peak_v2_bytes == 30


@pytest.mark.parametrize(
    ("sizes", "units", "usable"),
    [((80,), 1, 80), ((80,) * 8, 8, 80), ((80, 24), 2, None)],
)
def test_the_memory_that_one_server_can_use_is_one_gpus(sizes: tuple[int, ...], units: int, usable: int | None) -> None:
    samples = [
        sample(t, gpu=n, uuid=f"GPU-{n}", used_v2=GIB, total=size * GIB + GIB // 2, reserved=GIB // 2)
        for t in (1, 2)
        for n, size in enumerate(sizes)
    ]
    found = gpu_summary("fp8", evidence(*samples), [window(0.5, 3)])
    assert (found.units, found.usable_bytes) == (units, None if usable is None else usable * GIB)
    assert ("gpu_several" in [gate.code for gate in gpu_gates([found])]) is (units > 1)


def process(pid: int, used: int | None, container: str | None = None) -> GpuProcess:
    return GpuProcess(pid=pid, used_bytes=used, container=container)


def test_a_lone_process_is_the_servers_and_two_need_a_name() -> None:
    alone = [sample(t, used_v2=1, processes=(process(7, 5 * GIB),)) for t in (1, 2)]
    found = gpu_summary("fp8", evidence(*alone), [window(0.5, 3)])
    assert found.process_bytes == 5 * GIB
    pair = [
        sample(t, used_v2=1, processes=(process(7, 5 * GIB, "a" * 12), process(8, t * GIB, "b" * 12))) for t in (1, 2)
    ]
    assert gpu_summary("fp8", evidence(*pair), [window(0.5, 3)]).process_bytes is None
    assert gpu_summary("fp8", evidence(*pair), [window(0.5, 3)], container="b" * 64).process_bytes == 2 * GIB
    named = gpu_summary("fp8", evidence(*pair), [window(0.5, 3)], pids=(7, 8))
    assert named.process_bytes == 7 * GIB
    assert named.processes == {f"7 ({'a' * 12})": 5 * GIB, f"8 ({'b' * 12})": 2 * GIB}
    hidden = [sample(t, used_v2=1, processes=(process(7, None),)) for t in (1, 2)]
    unknown = gpu_summary("fp8", evidence(*hidden), [window(0.5, 3)])
    assert unknown.process_bytes is None
    assert unknown.processes == {"7": None}


def test_what_the_gpu_did_wrong_becomes_a_gate() -> None:
    hot = GpuSummary(target="fp8", sm_mhz_median=1300, reasons={"hardware thermal slowdown": 0.2}, lost=True, fake=True)
    cool = GpuSummary(
        target="bf16", sm_mhz_median=1980, reasons={"power cap": 0.9, "idle": 0.05},
        processes={"1": 5, "2": 6, "3": None},
    )  # fmt: skip
    gates = gpu_gates([cool, hot], servers_alive=2)
    assert [g.code for g in gates] == ["gpu_shared", "gpu_throttled", "gpu_lost", "gpu_replayed", "gpu_clocks_differ"]
    assert "hardware thermal slowdown in 20% of samples" in gates[1].fact
    assert gates[3].severity is Severity.INVALID
    assert "1980 MHz under bf16, 1300 MHz under fp8" in gates[4].fact
    assert "gpu_replayed" not in [g.code for g in gpu_gates([cool, hot], simulated=True)]
    assert gpu_gates([cool], servers_alive=3) == ()


def test_a_lost_gpu_inside_the_phases_is_seen() -> None:
    samples = [sample(1, used_v2=5), sample(2, absent={"*": "GPU is lost"}), sample(3, used_v2=5)]
    assert gpu_summary("fp8", evidence(*samples), [window(0.5, 4)]).lost
    assert not gpu_summary("fp8", evidence(*samples), [window(2.5, 4)]).lost


def test_reasons_have_names_and_unknown_bits_keep_their_number() -> None:
    assert clock_reasons(0) == ()
    assert clock_reasons(0x4 | 0x40) == ("power cap", "hardware thermal slowdown")
    assert clock_reasons(0x4000) == ("0x4000",)


def test_a_target_gets_its_own_gpu_else_the_shared_one() -> None:
    own, shared = GpuEvidence(target="fp8", source="a"), GpuEvidence(source="b")
    assert by_target([own, shared], "fp8") is own
    assert by_target([own, shared], "bf16") is shared
    assert by_target([own], "bf16").why == "GPU not measured: no sidecar"
    pair = GpuEvidence(source="c", shared_by=("bf16", "fp8"))
    assert by_target([pair], "bf16") is pair
    assert by_target([pair], "remote").why == "GPU not measured: no sidecar"
