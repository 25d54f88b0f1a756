"""Our own recordings of a real pair on an H100 (tests/golden/h100), in the form that the analysis reads.

The recorder wrote `marks_ns`: the arrival of each chunk with choices, the role chunk first, then one token each. It gave no image names:
a body of its own length is a picture of its own, `same_image` is one picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from client.core.evidence import Evidence, ServerEvidence
from client.core.findings import Memory
from client.core.plan import Design, LoadProfile, RunPlan, Target, Workload
from client.core.records import Outcome, Phase, RequestRecord
from client.core.table import RecordTable

GOLDEN = Path(__file__).parent.parent / "golden" / "h100"
ARMS = ("bf16", "fp8")
KV_TOKENS = {"bf16": 19743 * 16, "fp8": 27639 * 16}
"""num_gpu_blocks x block_size of vllm:cache_config_info in the servers' first /metrics pages."""


def lines(arm: str) -> list[bytes]:
    return (GOLDEN / f"{arm}.requests.jsonl").read_bytes().split(b"\n")


def convert(arm: str, phases: tuple[str, ...], ours: Phase = Phase.MEASURE) -> list[bytes]:
    """Record lines of these recorded phases, one block each; a line that is cut off stays cut off."""
    found = []
    blocks: dict[str, int] = {}
    for line in lines(arm):
        try:
            seen = json.loads(line)
        except ValueError:
            found += [line] if line.strip() else []
            continue
        if seen["phase"] in phases:
            place = blocks[seen["phase"]] = blocks.get(seen["phase"], -1) + 1
            found.append(msgspec.json.encode(_record(arm, seen, place, phases.index(seen["phase"]), ours)))
    return found


def _record(arm: str, seen: dict[str, Any], place: int, block: int, phase: Phase) -> RequestRecord:
    marks = seen["marks_ns"]
    own = seen["phase"] != "same_image"
    return RequestRecord(
        target=arm, phase=phase, index=block * 1000 + place, block=block, outcome=Outcome.OK, stamps="kernel",
        image_id=f"{arm}-{seen['phase']}-{place}" if own else "same", intended_ns=seen["sent_ns"], sent_ns=seen["sent_ns"],
        headers_ns=seen["headers_ns"], first_byte_ns=marks[0], role_ns=marks[0], first_token_ns=marks[1], last_token_ns=marks[-1],
        done_ns=seen["done_ns"], chunk_ns=tuple(marks[1:]), status=seen["status"], finish_reason="length",
        prompt_tokens=seen["usage"]["prompt_tokens"], completion_tokens=seen["usage"]["completion_tokens"], body_bytes=seen["body_bytes"],
    )  # fmt: skip


def evidence(*phases: str, concurrency: int = 1, lost: int = 0) -> Evidence:
    """The recorded phases as the measured part of a run: one server at a time, bf16 first, no second bf16.

    `lost` lines are missing at the end of bf16, the last one cut in the middle, as when its client crashed.
    """
    measured = {arm: convert(arm, phases) for arm in ARMS}
    if lost:
        measured["bf16"][-lost:] = [measured["bf16"][-lost][:100]]
    records = [line for arm in ARMS for line in measured[arm] + convert(arm, ("cold",), Phase.COLD)]
    table, torn = RecordTable.from_lines(records)
    same = phases == ("same_image",)
    shared = ("--max-model-len", "4096", "--gpu-memory-utilization", "0.45")
    plan = RunPlan(
        targets=(
            Target(name="bf16", base_url="http://bf16", model="m", precision="bf16", engine_args=shared),
            Target(name="fp8", base_url="http://fp8", model="m", precision="fp8", engine_args=(*shared, "--quantization", "fp8")),
        ),
        workload=Workload(repeat_image=same, max_tokens=20, ignore_eos=True),
        load=LoadProfile(concurrency=concurrency, requests=len(convert("fp8", phases))),
        design=Design.SERIAL,
    )  # fmt: skip
    return Evidence(
        run_id="h100", started_utc="2026-11-25T00:00:00Z", plan=plan, records=table, torn_lines=torn,
        servers={arm: ServerEvidence(target=arm, version="0.20.2") for arm in ARMS},
    )  # fmt: skip


def same_server_twice(arm: str) -> Evidence:
    """An A/A pair: two recordings of one server under two names."""
    first, second = (RecordTable.from_lines(convert(arm, (phase,)))[0] for phase in ("unique_a", "unique_a2"))
    table = first.renamed({arm: "bf16"}).followed_by(second.renamed({arm: "fp8"}))
    return msgspec.structs.replace(evidence("unique_a"), records=table)


def memory() -> dict[str, Memory]:
    return {arm: Memory(kv_cache_tokens=tokens) for arm, tokens in KV_TOKENS.items()}
