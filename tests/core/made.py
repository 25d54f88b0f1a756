"""Made campaigns for tests: records with known latencies, put together as the analysis gets them from a run directory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from client.core.evidence import Evidence, ServerEvidence
from client.core.plan import Design, LoadProfile, RunPlan, Target, Workload
from client.core.records import Outcome, Phase, RequestRecord, ServerSnapshot, WorkerHealth
from client.core.table import RecordTable

MS = 1_000_000
ABBA = (("bf16", 0), ("fp8", 0), ("fp8", 1), ("bf16", 1), ("bf16", 2), ("fp8", 2), ("fp8", 3), ("bf16", 3))


def record(
    target: str, index: int, sent_ms: float, *, ttft_ms: float = 100.0, tpot_ms: float = 6.0, tokens: int = 20, image: str | None = None, **other: object
) -> RequestRecord:  # fmt: skip
    sent = int(sent_ms * MS)
    first = sent + int(ttft_ms * MS)
    chunks = tuple(first + int(k * tpot_ms * MS) for k in range(tokens))
    fields: dict[str, object] = {
        "target": target, "phase": Phase.MEASURE, "index": index, "image_id": image or f"synthetic-{index:06d}",
        "outcome": Outcome.OK, "intended_ns": sent, "block": 0, "sent_ns": sent, "headers_ns": first - MS,
        "first_byte_ns": first - MS, "role_ns": first, "first_token_ns": first, "first_text_ns": first,
        "last_token_ns": chunks[-1], "done_ns": chunks[-1] + 1000, "chunk_ns": chunks, "status": 200,
        "finish_reason": "stop", "prompt_tokens": 1085, "completion_tokens": tokens, "body_bytes": 412_780,
    } | other  # fmt: skip
    return RequestRecord(**fields)  # type: ignore[arg-type]  # built from a dict so that a test may override any field


def failed(target: str, index: int, sent_ms: float, outcome: Outcome, **other: object) -> RequestRecord:
    """A request without an answer."""
    gone: dict[str, object] = dict.fromkeys(
        ("headers_ns", "first_byte_ns", "role_ns", "first_token_ns", "first_text_ns", "last_token_ns", "done_ns", "status",
         "finish_reason", "prompt_tokens", "completion_tokens")
    )  # fmt: skip
    return record(target, index, sent_ms, **(gone | {"outcome": outcome, "chunk_ns": ()} | other))  # type: ignore[arg-type]


def campaign(
    seed: int = 1, *, per_block: int = 8, fp8_ttft: float = 1.0, fp8_tpot: float = 1.0, sigma: float = 0.03, order: Iterable[tuple[str, int]] = ABBA, repeat: bool = False
) -> list[RequestRecord]:  # fmt: skip
    """An interleaved campaign of both arms, one request at a time."""
    rng = np.random.default_rng(seed)
    now = 1000.0
    found = []
    for target, block in order:
        for place in range(per_block):
            index = (block % 4) * per_block + place
            noise = np.exp(rng.normal(0, sigma, 2))
            ttft = 120.0 * noise[0] * (fp8_ttft if target == "fp8" else 1.0)
            tpot = 6.0 * noise[1] * (fp8_tpot if target == "fp8" else 1.0)
            image = "synthetic-000000" if repeat else None
            found.append(
                record(
                    target,
                    block * per_block + place,
                    now,
                    ttft_ms=ttft,
                    tpot_ms=tpot,
                    image=image or f"synthetic-{index:06d}",
                    block=block,
                )
            )
            now += ttft + 19 * tpot + 1.0
    return found


PAGE = """# TYPE process_start_time_seconds gauge
process_start_time_seconds {start}
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{{engine="0",model_name="m"}} {prefix_queries}
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{{engine="0",model_name="m"}} {prefix_hits}
# TYPE vllm:mm_cache_queries counter
vllm:mm_cache_queries_total{{engine="0",model_name="m"}} {image_queries}
# TYPE vllm:mm_cache_hits counter
vllm:mm_cache_hits_total{{engine="0",model_name="m"}} {image_hits}
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{{engine="0",model_name="m"}} {preemptions}
# TYPE vllm:request_success counter
vllm:request_success_total{{engine="0",finished_reason="length",model_name="m"}} 0.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_sum{{engine="0",model_name="m"}} 0.0
vllm:request_queue_time_seconds_count{{engine="0",model_name="m"}} 0.0
"""


def page(**values: float) -> str:
    zero = dict.fromkeys(("prefix_queries", "prefix_hits", "image_queries", "image_hits", "preemptions"), 0.0)
    return PAGE.format(**(zero | {"start": 1000.0} | values))


def server(target: str, version: str = "0.20.2", before: str | None = None, after: str | None = None) -> ServerEvidence:
    """Counters of a clean run unless told otherwise."""
    texts = (before or page(), after or page(prefix_queries=35_000, prefix_hits=1_000, image_queries=32))
    pages = [ServerSnapshot(target=target, mono_ns=k, wall_ns=k, text=text) for k, text in enumerate(texts, -2)]
    return ServerEvidence(target=target, version=version, before=pages[0], after=pages[1])


def health(target: str, **values: int) -> WorkerHealth:
    clean: dict[str, int] = {
        "cpu_ns": 100 * MS,
        "send_lag_p99_ns": MS // 10,
        "recv_lag_p99_ns": MS // 20,
        "loop_lag_p99_ns": MS // 5,
        "gc_pause_ns": 0,
    }
    return WorkerHealth(worker=0, target=target, phase=Phase.MEASURE, start_ns=0, end_ns=1000 * MS, **(clean | values))  # type: ignore[arg-type]  # names checked by the struct


def plan(**values: object) -> RunPlan:
    fields: dict[str, object] = {
        "targets": (
            Target(name="bf16", base_url="http://a", precision="bf16", engine_args=("--max-model-len", "4096")),
            Target(name="fp8", base_url="http://b", precision="fp8", engine_args=("--max-model-len", "4096", "--quantization", "fp8")),
        ),
        "load": LoadProfile(requests=32),
        "workload": Workload(),
        "design": Design.INTERLEAVED,
    } | values  # fmt: skip
    return RunPlan(**fields)  # type: ignore[arg-type]  # as above


def evidence(records: Iterable[RequestRecord], **values: object) -> Evidence:
    """A clean run around these records, unless told otherwise."""
    fields: dict[str, object] = {
        "run_id": "20261125T020230Z-a1b2c3", "started_utc": "2026-11-25T02:02:30Z", "plan": plan(),
        "records": RecordTable.from_records(records), "servers": {name: server(name) for name in ("bf16", "fp8")},
        "health": (health("bf16"), health("fp8")),
    } | values  # fmt: skip
    return Evidence(**fields)  # type: ignore[arg-type]  # as above
