"""The sidecar's own recording of a real H100 under a training load: what the reader and the sums make of the real thing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from client.core.evidence import GpuEvidence
from client.core.records import GpuSample, Phase, PhaseWindow
from client.core.resources import energy, gpu_summary
from client.core.sidecar import flat_info, read_lines

RECORDING = Path(__file__).parent.parent / "golden" / "gpu" / "h100.gpu.jsonl"


@pytest.fixture(scope="module")
def samples() -> tuple[GpuSample, ...]:
    lines = read_lines(RECORDING.read_bytes())
    assert lines.bad == 0
    assert flat_info(lines.info or {})["compute_capability"] == "9.0"
    return tuple(lines.samples)


def energy_readings(samples: tuple[GpuSample, ...]) -> list[tuple[int, int]]:
    return [(s.mono_ns, s.energy_mj) for s in samples if s.energy_mj is not None]


def test_the_energy_counter_and_the_integral_of_power_agree_on_real_silicon(samples: tuple[GpuSample, ...]) -> None:
    readings = energy_readings(samples)
    (start_ns, start_mj), (end_ns, end_mj) = readings[0], readings[-1]
    window = PhaseWindow(
        target="fp8",
        phase=Phase.MEASURE,
        start_ns=start_ns,
        end_ns=end_ns,
        energy_start_mj=start_mj,
        energy_end_mj=end_mj,
    )
    found = energy("fp8", GpuEvidence(samples=samples), [window], 100)
    assert end_ns - start_ns > 50e9
    assert found["counter_against_integral"].value == pytest.approx(0.0, abs=0.03)
    assert found["energy_counter_j"].value == pytest.approx((end_mj - start_mj) / 1000)
    assert 300 < (found["mean_power_w"].value or 0) < 500


def test_the_counter_never_steps_back_and_refreshes_every_100_ms(samples: tuple[GpuSample, ...]) -> None:
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(energy_readings(samples))]
    assert all(rise >= 0 for _, rise in steps)
    # Ten reads within 60 ms saw one and the same value: a shorter window than the refresh holds no energy at all.
    assert sum(rise == 0 for gap, rise in steps if gap < 20_000_000) >= 9


def test_both_memory_apis_differ_by_the_reserve(samples: tuple[GpuSample, ...]) -> None:
    known = [(s.used_v1, s.used_v2, s.reserved) for s in samples if s.used_v2 is not None]
    assert len(known) > 500
    assert all(
        v1 is not None and v2 is not None and reserved is not None and v1 - v2 == reserved for v1, v2, reserved in known
    )


def test_the_summary_finds_the_one_process(samples: tuple[GpuSample, ...]) -> None:
    window = PhaseWindow(target="fp8", phase=Phase.MEASURE, start_ns=samples[0].mono_ns, end_ns=samples[-1].mono_ns)
    summary = gpu_summary("fp8", GpuEvidence(samples=samples, target="fp8"), [window])
    assert summary.process_bytes == 34_420_555_776
    assert summary.peak_v2_bytes is not None
    assert summary.process_bytes <= summary.peak_v2_bytes
    assert summary.sm_mhz_median == 1980
