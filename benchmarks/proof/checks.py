"""Cross-checks that would expose us: what the client measured against what the server, NVML and the log say of the same requests.

python benchmarks/proof/checks.py FOLDER        prints Markdown tables over every run directory in it (one level deep)
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from client.core.evidence import ServerEvidence  # noqa: E402  (the path comes first)
from client.core.facts import read_log  # noqa: E402
from client.core.findings import Findings, Memory  # noqa: E402
from client.core.records import Outcome, Phase, RequestRecord, WorkerHealth  # noqa: E402
from client.errors import RunDirError  # noqa: E402
from client.rundir import read_lines, read_run  # noqa: E402

MS = 1e6
E2E = "vllm:e2e_request_latency_seconds"
TTFT = "vllm:time_to_first_token_seconds"
TPOT = "vllm:request_time_per_output_token_seconds"


class Check(msgspec.Struct, frozen=True):
    """One figure, twice. `theirs` None: the server does not tell."""

    what: str
    ours: float
    theirs: float | None
    unit: str


def sums(page: str) -> dict[str, float]:
    """Every sample of a /metrics page, summed over its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def counted(server: ServerEvidence) -> dict[str, float] | None:
    """What the server's counters and histograms gained between its two pages; None without both."""
    if server.before is None or server.after is None or server.before.text is None or server.after.text is None:
        return None
    before, after = sums(server.before.text), sums(server.after.text)
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def between(records: list[RequestRecord], server: ServerEvidence) -> list[RequestRecord]:
    """The answered requests that lie wholly between the two pages: measured ones and the edges around them."""
    assert server.before is not None
    assert server.after is not None
    start, end = server.before.mono_ns, server.after.mono_ns
    return [
        r
        for r in records
        if r.target == server.target
        and r.outcome is Outcome.OK
        and r.phase in (Phase.MEASURE, Phase.EDGE)
        and r.sent_ns is not None
        and r.done_ns is not None
        and start <= r.sent_ns
        and r.done_ns <= end
    ]


def span(records: list[RequestRecord], later: str, earlier: str) -> list[float]:
    """Milliseconds from one stamp to another, of the records that have both."""
    pairs = [(getattr(r, later), getattr(r, earlier)) for r in records]
    return [(b - a) / MS for b, a in pairs if a is not None and b is not None]


def server_checks(records: list[RequestRecord], gained: dict[str, float]) -> Iterator[Check]:
    def mean_of(name: str) -> float | None:
        count = gained.get(f"{name}_count")
        return 1e3 * gained[f"{name}_sum"] / count if count else None

    yield Check("requests", len(records), gained.get(f"{E2E}_count"), "")
    yield Check(
        "output tokens", sum(r.completion_tokens or 0 for r in records), gained.get("vllm:generation_tokens_total"), ""
    )
    yield Check("prompt tokens", sum(r.prompt_tokens or 0 for r in records), gained.get("vllm:prompt_tokens_total"), "")
    yield Check("E2E, mean", statistics.mean(span(records, "last_token_ns", "sent_ns")), mean_of(E2E), "ms")
    yield Check("TTFT, mean", statistics.mean(span(records, "first_token_ns", "sent_ns")), mean_of(TTFT), "ms")
    pace = [
        (r.last_token_ns - r.first_token_ns) / MS / (r.completion_tokens - 1)
        for r in records
        if r.last_token_ns and r.first_token_ns and r.completion_tokens and r.completion_tokens > 1
    ]
    if pace:
        yield Check("TPOT, mean", statistics.mean(pace), mean_of(TPOT), "ms")


def share_lines(
    target: str, records: list[RequestRecord], health: tuple[WorkerHealth, ...], server: ServerEvidence
) -> Iterator[str]:
    """What of the latency is our own client's."""
    upload = statistics.median(span(records, "uploaded_ns", "sent_ns") or [0.0])
    late = [r.recv_lag_ns / MS for r in records if r.recv_lag_ns is not None]
    mine = [h for h in health if h.target == target and h.phase is Phase.MEASURE and h.cpu_ns is not None]
    busy = max((h.cpu_ns / (h.end_ns - h.start_ns) for h in mine if h.cpu_ns is not None), default=0.0)
    cpu = sum(h.cpu_ns or 0 for h in mine) / MS / max(1, sum(h.requests for h in mine))
    lag = f"{statistics.median(late):.2f} ms" if late else "no kernel stamps"
    trip = "not measured" if server.round_trip_ns is None else f"{server.round_trip_ns / MS:.2f} ms"
    yield (
        f"- {target}: client CPU {cpu:.1f} ms a request (busiest window {busy:.0%} of a core); handing the body to the kernel "
        f"{upload:.2f} ms; event loop behind the kernel's stamps {lag} (median; not in any latency); empty round trip {trip}."
    )


def memory_lines(name: str, memory: Memory, page: str | None, log: str | None) -> Iterator[str]:
    parts = [
        memory.weights_gib,
        memory.kv_cache_gib,
        memory.graphs_in_budget_gib,
        memory.activations_gib,
        memory.rest_gib,
    ]
    if memory.budget_gib is not None and memory.weights_gib is not None:
        total = sum(part for part in parts if part is not None)
        process = "" if memory.process_gib is None else f"; its processes by NVML {memory.process_gib:.2f} GiB"
        yield f"- {name}: parts {total:.2f} GiB, budget {memory.budget_gib:.2f} GiB{process}."
    if page is None or log is None:
        return
    told, blocks = read_log(log).kv_cache_tokens, _blocks(page)
    if told is not None and blocks is not None:
        yield f"- {name}: KV cache {told:,.0f} tokens in the log; {blocks[0]:,} blocks × {blocks[1]} = {blocks[0] * blocks[1]:,} in /metrics."


def _blocks(page: str) -> tuple[int, int] | None:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "vllm:cache_config_info":
                labels = sample.labels
                return int(labels["num_gpu_blocks"]), int(labels["block_size"])
    return None


def energy_lines(name: str, energy: dict[str, Any]) -> Iterator[str]:
    against = energy.get("counter_against_integral")
    if against is not None and against.value is not None:
        yield f"- {name}: energy counter against the integral of power {against.value:+.1%}."


def table(target: str, checks: list[Check]) -> Iterator[str]:
    for check in checks:
        if check.theirs is None:
            yield f"| {target} | {check.what} | {check.ours:,.6g} {check.unit} | not told | |"
        elif check.unit:
            gap = check.ours - check.theirs
            yield f"| {target} | {check.what} | {check.ours:,.2f} ms | {check.theirs:,.2f} ms | {gap:+.2f} ms ({gap / check.ours:+.1%}) |"
        else:
            yield f"| {target} | {check.what} | {check.ours:,.0f} | {check.theirs:,.0f} | {check.ours - check.theirs:+,.0f} |"


def of_run(path: Path) -> Iterator[str]:
    """Raises RunDirError where there is no run."""
    evidence = read_run(path)
    records = [r for file in sorted(path.glob("requests*.jsonl")) for r in read_lines(file, RequestRecord)[0]]
    findings = msgspec.json.decode((path / "findings.json").read_bytes(), type=Findings)
    yield f"## {path.name}\n"
    yield "| server | figure | client | server's own | difference |\n|---|---|---:|---:|---:|"
    notes: list[str] = []
    for target in evidence.plan.targets:
        server = evidence.servers[target.name]
        gained = counted(server)
        mine = between(records, server) if gained is not None else []
        if gained is None or not mine:
            notes.append(f"- {target.name}: no two /metrics pages.")
            continue
        yield from table(target.name, list(server_checks(mine, gained)))
        notes += share_lines(target.name, mine, evidence.health, server)
        told = findings.targets[target.name]
        page = None if server.after is None else server.after.text
        notes += memory_lines(target.name, told.memory, page, server.log_text)
        notes += energy_lines(target.name, told.energy)
    yield ""
    yield from notes
    yield ""


def main() -> int:
    folder = Path(sys.argv[1])
    print("# Cross-checks\n\nMade by `python benchmarks/proof/checks.py` from the run directories beside it.\n")
    for path in sorted(p for p in folder.iterdir() if (p / "manifest.json").exists()):
        try:
            print("\n".join(of_run(path)))
        except (RunDirError, OSError) as error:
            print(f"## {path.name}\n\nCannot be read: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
