"""Whole runs for tests of reports, made from known numbers: a normal one, and each kind that a report must not stumble over."""

from __future__ import annotations

from pathlib import Path

import made
import msgspec
import numpy as np

from client.core.evidence import Evidence, GpuEvidence, ServerEvidence
from client.core.plan import Design, LoadProfile, RunPlan, Slo, Sweep, Target, Workload
from client.core.records import GpuSample, ImageFact, Outcome, Phase, PhaseWindow, RequestRecord
from client.core.table import RecordTable

MS, S = 1_000_000, 1_000_000_000
LOGS = Path(__file__).parent.parent / "golden" / "logs"
HOSTILE = (
    '<img src=x onerror="window.pwned=1"></script><script>window.pwned=1</script>|`[a](javascript:alert(1))\x1b[31m'
)
change = msgspec.structs.replace


def truth(number: int) -> tuple[float, float, float, float]:
    left, top = 0.1 + 0.01 * (number % 20), 0.2 + 0.007 * (number % 30)
    return left, top, left + 0.4, top + 0.35


def answer(number: int, off: float) -> str:
    box = [round(edge + off, 4) for edge in truth(number)]
    return f"The nutrition table is at {box}."


def _whole(records: list[RequestRecord], seed: int = 5) -> list[RequestRecord]:
    """Measured records with answers, after a cold request and a warm-up of each target."""
    rng = np.random.default_rng(seed)
    found = []
    for name, at in (("bf16", -9000.0), ("fp8", -7000.0)):
        found.append(made.record(name, 0, at, ttft_ms=1400, phase=Phase.COLD, image="synthetic-cold", block=None))
        found += [
            made.record(
                name,
                k,
                at + 10_000 - 5000 + 250 * k,
                ttft_ms=130,
                phase=Phase.WARMUP,
                image=f"synthetic-w{k}",
                block=None,
            )
            for k in range(4)
        ]
    for r in records:
        number = int(r.image_id.rpartition("-")[2]) if r.image_id.rpartition("-")[2].isdecimal() else 0
        off = abs(float(rng.normal(0, 0.01 if r.target == "bf16" else 0.012)))
        found.append(
            change(r, text=answer(number, round(off, 4)), finish_reason="stop") if r.outcome is Outcome.OK else r
        )
    shift = 10_000 * MS
    return [_later(r, shift) for r in found]


def _later(r: RequestRecord, by: int) -> RequestRecord:
    names = [name for name in r.__struct_fields__ if name.endswith("_ns") and name not in ("recv_lag_ns", "chunk_ns")]
    moved = {name: value + by for name in names if (value := getattr(r, name)) is not None}
    return change(r, chunk_ns=tuple(at + by for at in r.chunk_ns), **moved)


def windows(records: list[RequestRecord]) -> tuple[PhaseWindow, ...]:
    spans: dict[tuple[str, Phase, int | None], list[int]] = {}
    for r in records:
        spans.setdefault((r.target, r.phase, r.block), []).extend(
            stamp for stamp in (r.intended_ns, r.last_token_ns) if stamp is not None
        )
    return tuple(
        PhaseWindow(target=target, phase=phase, block=block, start_ns=min(at), end_ns=max(at))
        for (target, phase, block), at in spans.items()
    )


def gpu(records: list[RequestRecord], name: str) -> GpuEvidence:
    """Busy while the target has work, idle otherwise."""
    mine = [(r.intended_ns, r.last_token_ns) for r in records if r.target == name and r.last_token_ns is not None]
    ends = [r.last_token_ns or 0 for r in records]
    samples = []
    for k, now in enumerate(range(0, max(ends, default=S), S // 10)):
        busy = any(a <= now <= b for a, b in mine)
        samples.append(
            GpuSample(
                mono_ns=now, wall_ns=now, gpu=0, used_v2=(36 << 30) + (k % 5 << 20), total=80 << 30, power_mw=(480 if busy else 120) * 1000,
                sm_mhz=1830 if busy else 1980, energy_mj=k * 30_000, reasons=4 if busy else 1,
            )
        )  # fmt: skip
    return GpuEvidence(samples=tuple(samples), target=name, source="http://gpu", info={"name": "NVIDIA H100 80GB HBM3"})


def server(name: str) -> ServerEvidence:
    log = (LOGS / f"vllm-0.20.2-h100-{name}.log").read_text() if name in ("bf16", "fp8") else None
    return change(made.server(name), log_text=log)


def images(records: list[RequestRecord]) -> dict[str, ImageFact]:
    numbers = {
        r.image_id: int(r.image_id.rpartition("-")[2]) for r in records if r.image_id.rpartition("-")[2].isdecimal()
    }
    return {
        name: ImageFact(
            image_id=name, width=1024, height=759, sent_bytes=200_000, sha256="0" * 64, boxes=(truth(number),)
        )
        for name, number in numbers.items()
    }


def run(records: list[RequestRecord], **values: object) -> Evidence:
    names = tuple(dict.fromkeys(r.target for r in records))
    fields: dict[str, object] = {
        "images": images(records), "windows": windows(records), "servers": {name: server(name) for name in names},
        "gpu": tuple(gpu(records, name) for name in names), "health": tuple(made.health(name) for name in names),
        "host": {"cores": "2"}, "versions": {"halfweight": "0.1.0"},
    } | values  # fmt: skip
    return made.evidence(records, **fields)


def normal(per_block: int = 12) -> Evidence:
    return run(_whole(made.campaign(3, per_block=per_block, fp8_ttft=1.3, fp8_tpot=0.68)))


def simulated() -> Evidence:
    return change(normal(), plan=change(made.plan(), simulate="h100"))


def invalid() -> Evidence:
    """One picture again and again, answered from the servers' caches."""
    records = _whole(made.campaign(3, per_block=12, repeat=True))
    hit = made.page(prefix_queries=35_000, prefix_hits=33_000, image_queries=48, image_hits=47)
    servers = {name: change(made.server(name, after=hit), log_text=server(name).log_text) for name in ("bf16", "fp8")}
    return run(records, servers=servers)


def one_target() -> Evidence:
    records = [r for r in _whole(made.campaign(3, per_block=12)) if r.target == "bf16"]
    plan = made.plan()
    return run(records, plan=change(plan, targets=plan.targets[:1], design=Design.SINGLE))


def all_failed() -> Evidence:
    records = [
        made.failed(r.target, r.index, r.intended_ns / MS, Outcome.REFUSED, block=r.block, image_id=r.image_id,
                    done_ns=r.intended_ns + 3 * MS, error="connection refused")
        for r in made.campaign(3)
    ]  # fmt: skip
    return run(records)


def sweep() -> Evidence:
    """Four loads; from the third on there is only more waiting."""
    records: list[RequestRecord] = []
    start = 0.0
    for level, (load, slower) in enumerate(((1, 1.0), (2, 1.05), (4, 2.0), (8, 4.1))):
        block = made.campaign(10 + level, per_block=8, fp8_ttft=1.2, fp8_tpot=0.7)
        for r in block:
            wait = (r.last_token_ns or 0) - (r.sent_ns or 0)
            sent = r.intended_ns // load + int(start * MS)
            first = sent + int(wait * slower * 0.5)
            last = sent + int(wait * slower)
            records.append(
                change(r, level=level, index=r.index + 1000 * level, intended_ns=sent, sent_ns=sent, headers_ns=first - MS, first_byte_ns=first - MS,
                       role_ns=first, first_token_ns=first, first_text_ns=first, last_token_ns=last, done_ns=last + 1000, chunk_ns=(first, last))
            )  # fmt: skip
        start = max((r.last_token_ns or 0) for r in records) / MS + 100
    load = LoadProfile(requests=32, sweep=Sweep(knob="concurrency", values=(1, 2, 4, 8)))
    plan: RunPlan = change(made.plan(), load=load, slos=(Slo("e2e", 400.0),))
    return run(_whole(records), plan=plan)


def sizes() -> Evidence:
    """Pictures of different sizes: the first token is later where there are more image tokens; some requests time out."""
    records = []
    for k, r in enumerate(made.campaign(3, per_block=20)):
        tokens = 260 + 97 * (k % 17)
        late = int(0.05 * tokens * MS)
        stamps = {
            name: getattr(r, name) + late for name in ("first_token_ns", "first_text_ns", "last_token_ns", "done_ns")
        }
        if k % 41 == 7:
            records.append(made.failed(r.target, r.index, r.intended_ns / MS, Outcome.TIMEOUT_IDLE, block=r.block, image_id=r.image_id,
                                       done_ns=r.intended_ns + 2000 * MS))  # fmt: skip
        else:
            records.append(change(r, prompt_tokens=tokens, chunk_ns=tuple(at + late for at in r.chunk_ns), **stamps))
    return run(_whole(records))


def hostile() -> Evidence:
    """Every text that comes from outside tries to be markup, script, table or terminal control."""
    names = {"bf16": f"bf16 {HOSTILE}", "fp8": f"fp8 {HOSTILE}"}
    records = [
        change(r, target=names[r.target], image_id=f"{HOSTILE}-{r.image_id.rpartition('-')[2]}", text=None if r.text is None else r.text + HOSTILE)
        for r in _whole(made.campaign(3))
    ]  # fmt: skip
    plan = made.plan(
        targets=tuple(
            Target(name=names[p], base_url="http://a", precision=p, model=f"model {HOSTILE}") for p in ("bf16", "fp8")
        ),
        workload=Workload(images=f"/photos/{HOSTILE}"),
    )
    servers = {
        name: change(made.server(name, version=f"0.20.2 {HOSTILE}"), log_text=HOSTILE) for name in names.values()
    }
    return run(records, plan=plan, servers=servers, host={HOSTILE: HOSTILE})


def large(requests: int = 100_000) -> Evidence:
    """Many requests, as columns: a block of made ones, again and again with other noise."""
    base = made.campaign(3, per_block=50, fp8_ttft=1.3, fp8_tpot=0.68)
    table = RecordTable.from_records(base)
    length = int(table["done_ns"].max()) + MS
    copies = -(-requests // len(base))
    rng = np.random.default_rng(9)
    ints = {name: np.tile(column, copies) for name, column in table.ints.items()}
    later = np.repeat(np.arange(copies, dtype=np.int64) * length, len(base))
    stretch = np.repeat(rng.gamma(20.0, 0.05, copies), len(base))
    sent = ints["sent_ns"]
    for name in ints:
        if name.endswith("_ns") and name != "recv_lag_ns":
            known = ints[name] >= 0
            ints[name] = np.where(known, sent + ((ints[name] - sent) * stretch).astype(np.int64) + later, ints[name])
    ints["index"] = np.arange(len(sent))
    ints["block"] += 4 * np.repeat(np.arange(copies), len(base))
    many = RecordTable(
        table.targets, table.image_ids, np.tile(table.target, copies), np.tile(table.phase, copies), np.tile(table.outcome, copies),
        np.tile(table.image, copies), np.tile(table.loop_stamped, copies), ints, np.zeros(0, np.int64), np.zeros(len(sent) + 1, np.int64),
    )  # fmt: skip
    return change(run(base, plan=change(made.plan(), load=LoadProfile(requests=requests // 2))), records=many)


RUNS = {
    "normal": normal, "simulated": simulated, "invalid": invalid, "one-target": one_target, "all-failed": all_failed,
    "sweep": sweep, "sizes": sizes, "hostile": hostile,
}  # fmt: skip
