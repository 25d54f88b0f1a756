"""The figures of our own client, each from the records that it wrote and the stamps that the truth server put into its answers."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.truth_server import Truth, build, pinned, serving
from client.core.records import Outcome, Phase, RequestRecord

PACED_RUNS = 3
"""What a request costs differs by a fifth between two runs of one minute on a virtual machine: medians are told."""
ROOT = Path(__file__).parent.parent
GOALS = {
    "cpu_ms_per_request_paced_c64": (0.45, "max"),
    "burst_rps_c64": (5000.0, "min"),
    "ttft_error_ms_p99_c64": (0.5, "max"),
    "ttft_error_ms_p99_c256": (1.0, "max"),
    "stamp_lag_ms_p99_c64": (0.05, "max"),
    "stamp_lag_ms_p99_c256": (0.05, "max"),
    "stamp_lag_ms_p99_tick_c256": (0.05, "max"),
    "open_loop_1000_send_lag_ms_p99": (1.0, "max"),
    "start_to_first_request_s": (0.6, "max"),
    "peak_rss_mb": (90.0, "max"),
    "truth_server_burst_rps": (None, ""),
    "floor_cpu_ms_per_request_paced_c64": (None, ""),
}


@dataclass(frozen=True, slots=True)
class Lab:
    """Where things are, and which CPU is whose (None: not pinned)."""

    cache: Path
    bodies: Path
    client_cpu: int | None
    server_cpu: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """One job: what the process says it cost, and the error of each stamp in ns."""

    cost: dict[str, float]
    ttft_error_ns: list[int] = field(default_factory=list)
    stamp_lag_ns: list[int] = field(default_factory=list)
    send_lag_ns: list[int] = field(default_factory=list)

    @property
    def rps(self) -> float:
        return self.cost["requests"] / self.cost["wall_s"]

    @property
    def cpu_ms(self) -> float:
        return 1e3 * self.cost["cpu_s"] / self.cost["requests"]


def p99_ms(values_ns: list[int]) -> float:
    return sorted(values_ns)[max(0, -(-99 * len(values_ns) // 100) - 1)] / 1e6


def all_figures(lab: Lab, say: Callable[[str], None]) -> dict[str, float | None]:
    """Every key of the JSON file. A figure that could not be measured is None."""
    server = build("server", lab.cache)
    found: dict[str, float | None] = dict.fromkeys(GOALS)
    with serving(server, "burst", lab.server_cpu) as truth:
        found["truth_server_burst_rps"] = bare_client(lab, truth, 60_000)["rps"]
        burst = job(lab, truth, 15_000, concurrency=64)
        found["burst_rps_c64"] = burst.rps
        say(
            f"burst, 64 in flight: {burst.rps:,.0f} requests/s (the server alone: {found['truth_server_burst_rps']:,.0f})"
        )
    with serving(server, "paced", lab.server_cpu) as truth:
        runs, floors = [], []
        for _ in range(PACED_RUNS):
            paced = job(lab, truth, 4_000, concurrency=64)
            runs.append(paced)
            floors.append(bare_client(lab, truth, 4_000)["cpu_ms"])
            say(
                f"paced, 64 in flight: {paced.rps:,.0f} requests/s of 510, {_busy(paced)}; CPU {paced.cpu_ms:.3f} ms/request"
                f" (a bare C client: {floors[-1]:.3f})"
            )
        found["cpu_ms_per_request_paced_c64"] = median(run.cpu_ms for run in runs)
        found["floor_cpu_ms_per_request_paced_c64"] = median(floors)
        found["peak_rss_mb"] = max(run.cost["rss_mb"] for run in runs)
        found["ttft_error_ms_p99_c64"] = median(p99_ms(run.ttft_error_ns) for run in runs)
        found["stamp_lag_ms_p99_c64"] = median(p99_ms(run.stamp_lag_ns) for run in runs)
        runs = []
        for _ in range(PACED_RUNS):
            runs.append(job(lab, truth, 12_000, concurrency=256))
            errors = p99_ms(runs[-1].ttft_error_ns)
            say(
                f"paced, 256 in flight: {runs[-1].rps:,.0f} requests/s of 2,040, {_busy(runs[-1])}; TTFT error p99 {errors:.3f} ms"
            )
        found["ttft_error_ms_p99_c256"] = median(p99_ms(run.ttft_error_ns) for run in runs)
        found["stamp_lag_ms_p99_c256"] = median(p99_ms(run.stamp_lag_ns) for run in runs)
        opened = job(lab, truth, 10_000, rate=1000.0)
        found["open_loop_1000_send_lag_ms_p99"] = p99_ms(opened.send_lag_ns)
        say(f"open loop, 1000/s: {len(opened.send_lag_ns):,} of 10,000 arrivals sent, {_busy(opened)}")
    with serving(server, "tick", lab.server_cpu) as truth:
        ticked = job(lab, truth, 2_500, concurrency=256)
        found["stamp_lag_ms_p99_tick_c256"] = p99_ms(ticked.stamp_lag_ns)
        say(f"20 ms tick, 256 in flight: {ticked.rps:,.0f} requests/s, {_busy(ticked)}")
    with serving(server, "burst", lab.server_cpu) as truth:
        found["start_to_first_request_s"] = start_to_first_request(lab, truth)
    return found


def _busy(measured: Measured) -> str:
    return f"core {100 * measured.cost['cpu_s'] / measured.cost['wall_s']:.0f} % busy"


def job(
    lab: Lab, truth: Truth, requests: int, *, concurrency: int | None = None, rate: float | None = None
) -> Measured:
    """Run `benchmarks.job` and hold what it recorded against the truth. Stops at any record that is not a good one."""
    load = ["--concurrency", str(concurrency)] if concurrency else ["--rate", str(rate)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.job", "--url", truth.url, "--bodies", str(lab.bodies)]
        command += ["--out", folder, "--requests", str(requests), *load]
        done = subprocess.run(pinned(command, lab.client_cpu), cwd=ROOT, stdout=subprocess.PIPE, check=True)
        measured = Measured(json.loads(done.stdout))
        count = 0
        with (Path(folder) / "requests.jsonl").open("rb") as lines:
            for line in lines:
                count += _compare(decode(line), measured)
    if count != requests:
        sys.exit(f"benchmarks: {count} of {requests} requests were recorded: the figures would be of another load")
    return measured


decode = msgspec.json.Decoder(RequestRecord).decode


def _compare(record: RequestRecord, measured: Measured) -> int:
    """Add one record's errors. The text of an answer is the server's stamps: body complete, then one for each token."""
    if record.phase is not Phase.MEASURE:
        return 0
    if (
        record.outcome is not Outcome.OK
        or record.text is None
        or record.first_token_ns is None
        or record.sent_ns is None
    ):
        sys.exit(f"benchmarks: a request ended as {record.outcome}: {record.error}")
    body_done_ns, *token_ns = map(int, record.text.split())
    if len(token_ns) != len(record.chunk_ns):
        sys.exit(f"benchmarks: {len(record.chunk_ns)} chunks were seen of {len(token_ns)}")
    measured.ttft_error_ns.append((record.first_token_ns - record.sent_ns) - (token_ns[0] - body_done_ns))
    measured.stamp_lag_ns.extend(seen - true for seen, true in zip(record.chunk_ns, token_ns, strict=True))
    measured.send_lag_ns.append(record.sent_ns - record.intended_ns)
    return 1


def bare_client(lab: Lab, truth: Truth, requests: int) -> dict[str, float]:
    """What a C client that looks at nothing makes of the server, on the client's core, 64 in flight: `rps`, in burst a lower bound of
    the server's own ceiling, and `cpu_ms`, user and system time per request: below it no client comes on this machine."""
    program = build("ceiling", lab.cache)
    command = [str(program), str(truth.port), "64", str(requests), str(lab.bodies / "000.json")]
    done = subprocess.run(pinned(command, lab.client_cpu), stdout=subprocess.PIPE, check=True)
    truth.take_log()
    found: dict[str, float] = json.loads(done.stdout)
    return found


def start_to_first_request(lab: Lab, truth: Truth) -> float:
    """From `python -m client.bench` to its first load request, 64 pictures read from files; the median of three."""
    return sorted(_start(lab, truth) for _ in range(3))[1]


def _start(lab: Lab, truth: Truth) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "client.bench", "--target", "fp8", "--url", truth.url, "--model", "tiny"]
        command += ["--images", str(lab.bodies), "--requests", "64", "--concurrency", "64", "--warmup", "0"]
        command += ["--sidecar", "none", "--max-tokens", "16", "--quiet", "--out", folder]
        started_ns = time.monotonic_ns()
        process = subprocess.Popen(
            pinned(command, lab.client_cpu), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            while True:
                ended = process.poll()
                for path in Path(folder).rglob("requests.jsonl"):
                    for line in path.read_bytes().splitlines(keepends=True):
                        if line.endswith(b"\n") and (sent_ns := decode(line).sent_ns) is not None:
                            return (sent_ns - started_ns) / 1e9
                if ended is not None:
                    assert process.stderr is not None
                    said = process.stderr.read().decode(errors="replace")
                    sys.exit(f"benchmarks: client.bench sent nothing (exit code {ended}): {said[-500:]}")
                time.sleep(0.02)
        finally:
            process.kill()
            process.communicate()
            truth.take_log()
