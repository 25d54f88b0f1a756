"""The process: its log, its memory, its GPU, its counters, its end. Read by the product's own readers where it has them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import msgspec
import pytest
from simulated import ROOT, Simulated, body, photo, simulated, streaming

from client.core.facts import read_log
from client.core.records import GpuSample
from server.simulator.profile import load_profile

METRICS = ROOT / "tests" / "golden" / "logs" / "vllm-0.20.2-h100-fp8.metrics.txt"
LOG = ROOT / "tests" / "golden" / "logs" / "vllm-0.20.2-h100-fp8.log"


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    arguments = ("--profile", "h100", "--precision", "fp8", "--time-scale", "0.05", "--enable-prompt-tokens-details")
    with simulated(tmp_path_factory.mktemp("sim"), *arguments) as one:
        yield one


def test_the_start_log_reads_as_the_real_ones_does(h100: Simulated) -> None:
    mine, real = read_log(h100.log.read_text()), read_log(LOG.read_text())
    for name in (
        "weights_gib",
        "kv_cache_gib",
        "kv_cache_tokens",
        "max_concurrency",
        "graphs_gib",
        "kernels",
        "utilization",
    ):
        assert getattr(mine, name) == getattr(real, name), name


def series(page: str) -> set[str]:
    return {line.split("{")[0].split(" ")[0] for line in page.splitlines() if line.startswith("vllm:")}


def test_metrics_have_every_name_of_the_recorded_page(h100: Simulated) -> None:
    page = h100.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert series(METRICS.read_text()) - series(page.text) == set()


def test_cache_config_tells_the_pool(h100: Simulated) -> None:
    (line,) = [x for x in h100.client.get("/metrics").text.splitlines() if x.startswith("vllm:cache_config_info{")]
    for label in (
        'num_gpu_blocks="27639"',
        'kv_cache_size_tokens="442224"',
        'gpu_memory_utilization="0.45"',
        'enable_prefix_caching="True"',
    ):
        assert label in line


def test_counters_follow_the_requests(h100: Simulated) -> None:
    jpeg = photo(77)
    names = (
        "prompt_tokens",
        "generation_tokens",
        "request_success",
        "mm_cache_queries",
        "mm_cache_hits",
        "prefix_cache_hits",
    )
    before = {name: h100.metric(f"vllm:{name}_total") for name in names}
    usages = [h100.chat(body(jpeg)).json()["usage"] for _ in range(2)]
    change = {name: h100.metric(f"vllm:{name}_total") - before[name] for name in names}
    assert change["prompt_tokens"] == sum(u["prompt_tokens"] for u in usages)
    assert change["generation_tokens"] == sum(u["completion_tokens"] for u in usages)
    assert (change["request_success"], change["mm_cache_queries"], change["mm_cache_hits"]) == (2, 2, 1)
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] == change["prefix_cache_hits"] == 1040


def test_a_client_that_leaves_is_aborted(h100: Simulated) -> None:
    data = streaming(photo(3, 256, 190), max_tokens=3000, ignore_eos=True)
    with h100.client.stream(
        "POST", "/v1/chat/completions", content=data, headers={"content-type": "application/json"}
    ) as r:
        next(r.iter_raw())
    deadline = time.monotonic() + 5
    while h100.metric("vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.02)
    lines = h100.client.get("/metrics").text.splitlines()
    (aborted,) = [x for x in lines if x.startswith("vllm:request_success_total") and 'finished_reason="abort"' in x]
    assert float(aborted.rsplit(" ", 1)[1]) == 1


def test_gpu_samples_are_the_sidecars(h100: Simulated) -> None:
    h100.chat(body(photo(5)))
    time.sleep(0.25)
    lines = h100.client.get("/samples?since=0").text.splitlines()
    samples = [msgspec.json.decode(line, type=GpuSample, strict=True) for line in lines]
    assert all(s.fake for s in samples)
    assert all(b.mono_ns > a.mono_ns and (b.energy_mj or 0) >= (a.energy_mj or 0) for a, b in pairwise(samples))
    middle = samples[len(samples) // 2].mono_ns
    assert len(h100.client.get(f"/samples?since={middle}&limit=1").text.splitlines()) == 1
    assert max(s.gpu_util or 0 for s in samples) > 0
    assert {(s.used_v1 or 0) - (s.used_v2 or 0) for s in samples} == {480 << 20}


@pytest.mark.parametrize(("precision", "mib"), [("bf16", 22_798), ("fp8", 23_112)])
def test_the_seeds_whole_gpu_totals(precision: str, mib: int) -> None:
    profile = load_profile("rtx-6000-ada", precision)
    assert round(profile.used_at_rest(0.5) / 2**20) == mib
    assert profile.arm.weights_gib == pytest.approx({"bf16": 15.5, "fp8": 8.8}[precision], abs=0.05)


def test_less_utilization_is_less_cache_and_the_same_weights() -> None:
    profile = load_profile("rtx-6000-ada", "bf16")
    saved = profile.used_at_rest(0.5) - profile.used_at_rest(0.45)
    assert saved / 2**20 == pytest.approx(0.05 * (49_140 - 500), rel=0.01)
    assert profile.kv_blocks(0.3) == 0


async def many(port: int, count: int) -> list[float]:
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:

        async def one(number: int) -> float:
            data = streaming(None, text=f"Tell me about number {number}.", max_tokens=30, ignore_eos=True)
            start = time.monotonic()
            answer = await client.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                content=data,
                headers={"content-type": "application/json"},
            )
            assert answer.text.endswith("data: [DONE]\n\n")
            return time.monotonic() - start

        return await asyncio.gather(*(one(n) for n in range(count)))


def test_64_at_once_are_all_served_and_pacing_does_not_add_up(tmp_path: Path) -> None:
    """30 steps of some 7 ms at full speed, after 64 x 2.7 ms of parsing: the model says 0.6 s (and 0.2 s for the first text)."""
    with simulated(tmp_path, "--profile", "h100") as server:
        times = asyncio.run(many(server.port, 64))
    assert 0.5 < max(times) < 6


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.sim", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fault", "explode"), "unknown fault 'explode'"),
        (("--gpu-memory-utilization", "0.3"), "no room"),
        (("--gpu-memory-utilization", "1.5"), "a share above 0"),
        (("--time-scale", "0"), "must be above 0"),
    ],
)
def test_wrong_arguments_end_at_once_with_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert words in result.stderr.splitlines()[-1]


def test_a_port_in_use_is_named(h100: Simulated) -> None:
    result = run("--port", str(h100.port))
    assert result.returncode == 2
    assert f"127.0.0.1:{h100.port}" in result.stderr


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_on_a_signal(tmp_path: Path, sign: signal.Signals) -> None:
    with simulated(tmp_path, "--time-scale", "0.1") as server:
        server.chat(body(photo(1, 256, 190)))
        server.process.send_signal(sign)
        assert server.process.wait(5) == 0
        assert "Traceback" not in server.log.read_text()
        assert "Application shutdown complete" in server.log.read_text()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    start = f"""
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-m", "server.sim", "--port", "0", "--port-file", {str(port_file)!r}, "--start-seconds", "0", "--die-with-parent"])
while not pathlib.Path({str(port_file)!r}).exists(): time.sleep(0.01)
print(child.pid)
"""
    parent = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    (pid,) = (int(line) for line in parent.stdout.splitlines() if line.isdecimal())
    deadline = time.monotonic() + 5
    while (
        time.monotonic() < deadline
        and Path(f"/proc/{pid}").exists()
        and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ):
        time.sleep(0.02)
    alive = Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    if alive:
        os.kill(pid, signal.SIGKILL)
    assert not alive
