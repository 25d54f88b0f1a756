"""Reading the sidecar back: clock offsets with their bound, lines, and whose GPU it is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from client.core.plan import Target
from client.core.records import ClockAnchor, GpuSample
from client.core.sidecar import (
    Offset,
    RoundTrip,
    drift,
    estimate_offset,
    flat_info,
    host_of,
    offset_by_wall,
    on_our_clock,
    read_lines,
    sidecar_applies,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "gpu"


def target(url: str, **more: object) -> Target:
    return Target(name="fp8", base_url=url, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_the_true_offset_always_lies_inside_the_stated_error(seed: int) -> None:
    """Both ways of the network take their own random time, heavily skewed: the bound must hold all the same."""
    rng = random.Random(seed)
    true, now, trips = rng.randint(-(10**15), 10**15), 10**12, []
    for _ in range(9):
        there, back = round(rng.expovariate(1e-6)), round(rng.expovariate(1e-7))
        trips.append(RoundTrip(now, now + there + true, now + there + back))
        now += 10**9
    found = estimate_offset(trips)
    assert found is not None
    assert found.error_ns is not None
    assert abs(found.offset_ns - true) <= found.error_ns
    assert found.error_ns <= min(t.received_ns - t.sent_ns for t in trips) // 2 + 1


def test_a_clock_that_was_set_meanwhile_falls_back_to_the_shortest_trip() -> None:
    trips = [RoundTrip(0, 500, 100), RoundTrip(1000, 9000, 1010), RoundTrip(2000, 2500, 2200)]
    assert estimate_offset(trips) == Offset(7995, 5, "estimated from 3 round trips")
    assert estimate_offset([]) is None


def test_drift_widens_the_error() -> None:
    start, end = Offset(1000, 20, "x"), Offset(1300, 30)
    assert drift(start, end) == Offset(1000, 330, "x")
    assert drift(start, None) == start


def test_wall_clocks_line_up_a_file_without_a_bound() -> None:
    sample = GpuSample(mono_ns=50, wall_ns=1_000_050)
    offset = offset_by_wall(sample, ClockAnchor(mono_ns=900, wall_ns=1_000_100))
    assert offset.error_ns is None
    assert on_our_clock(sample, offset).mono_ns == 850


def test_lines_are_read_and_bad_ones_counted() -> None:
    data = (GOLDEN / "contract.jsonl").read_bytes()
    lines = read_lines(b'{"info":{"driver":"580"}}\n' + data + b'{"mono_ns": 12')
    assert (len(lines.samples), lines.info, lines.bad) == (5, {"driver": "580"}, 1)
    assert read_lines(b"<html>").bad == 1
    assert read_lines(b"") == read_lines(b"\n\n")


def test_info_is_flat_and_leaves_out_what_is_not_known() -> None:
    gpus = [
        {"gpu": 0, "name": "H100", "total": 80, "compute_capability": "9.0", "memory_apis": ["v1", "v2"], "mig": None},
        {"gpu": 1, "name": "L4", "total": 24, "compute_capability": "8.9", "memory_apis": ["v1"], "mig": None},
    ]
    assert flat_info({"host": "h", "driver": None, "gpus": gpus, "rate_hz": 10.0, "fake": True}) == {
        "host": "h",
        "name": "H100 / L4",
        "compute_capability": "9.0 / 8.9",
        "total_bytes": "80 / 24",
        "memory_apis": "v1, v2",
        "gpus": "2",
        "rate_hz": "10",
        "fake": "true",
    }
    assert flat_info({}) == {}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost:8000", "localhost"),
        ("http://127.0.0.5:8000/x", "localhost"),
        ("http://[::1]:8000", "localhost"),
        ("https://GPU.example.com.:443", "gpu.example.com"),
        ("10.0.0.7:9401", "10.0.0.7"),
        ("https://abc123-8000.proxy.runpod.net", "abc123.runpod"),
        ("", ""),
    ],
)
def test_hosts_are_told_apart_by_name(url: str, host: str) -> None:
    assert host_of(url) == host


LOCAL = "http://127.0.0.1:9401"


@pytest.mark.parametrize(
    ("found", "sidecar", "applies", "says"),
    [
        (target("http://localhost:8000"), LOCAL, True, "on the host of fp8"),
        (target("http://gpu7:8000"), "http://gpu7:9401", True, "gpu7"),
        (target("https://x.proxy.runpod.net"), LOCAL, False, "another machine's GPU"),
        (target("https://p1-8000.proxy.runpod.net"), "https://p1-9401.proxy.runpod.net", True, "p1.runpod"),
        (target("https://p1-8000.proxy.runpod.net"), "https://p2-9401.proxy.runpod.net", False, "another machine"),
        (target("http://10.0.0.7:8000"), LOCAL, False, "another machine's GPU"),
        (target("http://vllm-fp8:8000", sidecar_url="http://sidecar:9401/"), "http://sidecar:9401", True, "named"),
        (target("http://localhost:8000", sidecar_url="http://a:1"), LOCAL, False, "names another sidecar"),
        (target("https://p1-8000.proxy.runpod.net", sidecar_url=LOCAL), LOCAL, False, "this machine's GPU"),
        (
            target("http://10.0.0.7:8000", sidecar_url="http://localhost:9401"),
            "http://localhost:9401",
            False,
            "10.0.0.7",
        ),
        (target("http://localhost:8000", sidecar_url=LOCAL), LOCAL, True, "named"),
        (target("http://127.0.0.1:8000", simulated=True), LOCAL, False, "has no GPU"),
        (target("http://127.0.0.1:8000", simulated=True), "http://127.0.0.1:8000", True, "simulated"),
        (target(""), "", False, "unknown host"),
    ],
)
def test_a_sidecar_is_used_only_for_the_gpu_behind_the_target(
    found: Target, sidecar: str, applies: bool, says: str
) -> None:
    answer, why = sidecar_applies(found, sidecar)
    assert answer is applies
    assert says in why


def test_a_sidecar_at_the_end_of_a_tunnel_counts_because_it_names_another_boot() -> None:
    far = target("https://p1-8000.proxy.runpod.net", sidecar_url=LOCAL)
    assert sidecar_applies(far, LOCAL, elsewhere=True)[0]
