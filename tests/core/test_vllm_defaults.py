"""Defaults by version, as vLLM's own sources have them (0.6.3, 0.7.3, 0.8.5, 0.9.2, 0.11 to 0.14, 0.16, 0.17, 0.19.1, 0.20, 0.24, 0.29, 0.33)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.core.facts import TargetFacts, read_log
from client.core.kernel import version_of
from client.core.memory import memory_of
from client.core.vllm_defaults import default_utilization, graphs_counted, graphs_outside, max_num_seqs

LOGS = Path(__file__).parent.parent / "golden" / "logs"


def facts(version: str = "0.20.2", **given: Any) -> TargetFacts:
    return TargetFacts(version=version, lines={"engine_args": "non-default args: {}"}, **given)


@pytest.mark.parametrize(
    ("version", "utilization"),
    [("0.6.3", 0.9), ("0.11.0", 0.9), ("0.13.0", 0.9), ("0.19.1", 0.9), ("0.20.0", 0.92), ("0.33.0", 0.92), ("nightly", 0.92)],
)  # fmt: skip
def test_the_default_utilization(version: str, utilization: float) -> None:
    assert default_utilization(version_of(version)) == utilization


@pytest.mark.parametrize(
    ("told", "total", "capability", "requests"),
    [
        (facts("0.6.3"), 79.0, None, 256),
        (facts("0.7.3"), 79.0, "9.0", 256),
        (facts("0.8.5", batched_tokens=8192), None, None, 1024),
        (facts("0.8.5"), 79.0, "9.0", None),  # the older engine may have served: 256 there
        (facts("0.11.0"), 47.5, None, 256),
        (facts("0.11.0"), 79.2, "9.0", 1024),
        (facts("0.11.0"), 79.2, "8.0", 256),
        (facts("0.33.0"), 119.7, "12.1", None),
        (facts(), 79.2, None, None),
        (facts(), None, "9.0", None),
        (facts(batched_tokens=8192), None, None, 1024),
        (facts(batched_tokens=2048), 79.2, "9.0", 256),
        (facts(batched_tokens=5120), 79.2, "9.0", None),
        (facts(batched_tokens=512, engine_args={"max_num_batched_tokens": 512}), 79.2, "9.0", 512),
        (facts(batched_tokens=8192, engine_args={"max_num_batched_tokens": 8192}), 47.5, "8.9", 256),
        (facts(engine_args={"max_num_seqs": 8}), None, None, 8),
        (facts(engine_args={"max_num_seqs": True}), 47.5, None, 256),
        (facts(batched_tokens=8192, engine_args={"performance_mode": "throughput"}), 79.2, "9.0", None),
        (facts("0.32.0", device="cpu"), None, None, 128),
        (facts("0.32.0", device="cpu", tensor_parallel=2), None, None, 256),
        (facts("0.11.0", device="cpu"), None, None, None),
        (facts("nightly"), 47.5, None, None),
        (TargetFacts(version="0.20.2"), 47.5, None, None),  # what was asked for is not in the log
    ],
)  # fmt: skip
def test_how_many_requests_run_at_once(
    told: TargetFacts, total: float | None, capability: str | None, requests: int | None
) -> None:
    cap = max_num_seqs(told, total, capability)
    assert (None if cap is None else cap.requests) == requests


def test_the_recorded_server_runs_1024_and_an_ada_256() -> None:
    log = read_log((LOGS / "vllm-0.20.2-h100-fp8.log").read_text())
    assert (memory := memory_of(log)[0]).max_num_seqs == 1024
    assert memory.source["max_num_seqs"] == "default of vLLM 0.20.2 on a large GPU"


GRAPHS = "INFO 11-25 00:41:51 [gpu_worker.py:456] "
ENABLED = (
    GRAPHS
    + "CUDA graph memory profiling is enabled (default since v0.21.0). The current --gpu-memory-utilization=0.4500 is equivalent to\n"
)
DISABLED = (
    GRAPHS.replace("INFO", "WARNING")
    + "CUDA graph memory profiling is disabled (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0). Without it,\n"
)
ANNOUNCED = (
    GRAPHS
    + "In v0.19, CUDA graph memory profiling will be enabled by default (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=1), which more\n"
)


@pytest.mark.parametrize(
    ("version", "line", "counted", "outside"),
    [
        ("0.20.2", ENABLED, True, False),
        ("0.20.2", DISABLED, False, True),
        ("0.20.2", "", True, False),
        ("0.19.1", ENABLED, True, False),
        ("0.19.1", ANNOUNCED, False, True),
        ("0.11.0", "", False, True),
        (None, "", False, False),
        (None, DISABLED, False, True),
    ],
)
def test_graphs_lie_where_the_log_says_else_where_the_version_puts_them(
    version: str | None, line: str, counted: bool, outside: bool
) -> None:
    said = f"INFO 11-25 00:41:51 [api_server.py:1] vLLM API server version {version}\n" if version else ""
    found = read_log(said + GRAPHS + "Estimated CUDA graph memory: 0.46 GiB total\n" + line)
    assert (graphs_counted(found), graphs_outside(found)) == (counted, outside)
    expected = 0.46 if counted else 0.0 if outside else None
    assert memory_of(found)[0].graphs_in_budget_gib == expected
