"""Profiles as data: what a simulated card, API server and precision are made of (`profiles.toml` has each number's source)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

PROFILES = Path(__file__).with_name("profiles.toml")
GIB = 1 << 30
MIB = 1 << 20

Curve = tuple[tuple[float, float], ...]


def along(curve: Curve, x: float) -> float:
    """Linear between the points of a curve; beyond its last point the last slope goes on."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    (x0, y0), (x1, y1) = curve[-2:]
    return y1 + (y1 - y0) * (x - x1) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    kv_bytes_per_token: int
    block_size: int
    max_batched_tokens: int
    max_seqs: int
    encoder_cache_tokens: int
    processed_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    total_mib: int
    reserved_mib: int
    idle_watts: float
    cap_watts: float
    decode_watts: float
    sm_mhz: int
    low_sm_mhz: int
    mem_mhz: int
    idle_c: int
    full_c: int
    utilization: float
    compute_capability: str


@dataclass(frozen=True, slots=True)
class Frontend:
    """Costs of the API server for one request, in ms. `process_ms` is a curve over megapixels, `crowd` a factor on it over requests in flight."""

    parse_ms: float
    parse_ms_per_mb: float
    text_ms: float
    decode_ms_per_megapixel: float
    process_ms: Curve
    crowd: Curve
    ingest_ms: float
    noise: float


@dataclass(frozen=True, slots=True)
class Arm:
    """One precision on one card. `kv_gib` and `at_rest_mib` hold at the profile's own utilization."""

    weights_gib: float
    kv_gib: float
    at_rest_mib: int
    traffic_mib: int
    graphs_gib: float
    graphs_estimate_gib: float
    load_s: float
    compile_s: float
    init_s: float
    decode_ms: float
    decode_ms_per_seq: float
    decode_ms_per_kilotoken: float
    mixed_ms_per_seq: float
    prompt_launch_ms: float
    prefill_ms_per_token: float
    encoder_floor_ms: float
    encoder_ms: Curve
    encoder_noise: float
    launch_share: float
    step_noise: float
    cold_ms: float
    cold_text_ms: float


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    precision: str
    model: Model
    card: Card
    frontend: Frontend
    arm: Arm

    def kv_bytes(self, utilization: float) -> int:
        """Bytes left for the KV cache at a utilization; negative where the weights alone do not fit (as vLLM would find)."""
        budget_mib = (utilization - self.card.utilization) * (self.card.total_mib - self.card.reserved_mib)
        return int(self.arm.kv_gib * GIB + budget_mib * MIB)

    def kv_blocks(self, utilization: float) -> int:
        return max(0, self.kv_bytes(utilization) // (self.model.kv_bytes_per_token * self.model.block_size))

    def used_at_rest(self, utilization: float) -> int:
        """Whole-GPU bytes (NVML v2) of this server after start-up, before traffic."""
        blocks_bytes = self.kv_blocks(utilization) * self.model.kv_bytes_per_token * self.model.block_size
        return self.arm.at_rest_mib * MIB - int(self.arm.kv_gib * GIB) + blocks_bytes


def _build(kind: type[Any], table: dict[str, Any]) -> Any:
    values = {
        key: tuple(tuple(point) for point in value) if isinstance(value, list) else value
        for key, value in table.items()
    }
    assert values.keys() == {f.name for f in fields(kind)}, f"{PROFILES.name}: {kind.__name__} {sorted(values)}"
    return kind(**values)


def profile_names() -> list[str]:
    return sorted(tomllib.loads(PROFILES.read_text()).keys() - {"model"})


def load_profile(name: str, precision: str) -> Profile:
    data = tomllib.loads(PROFILES.read_text())
    table = data[name]
    return Profile(
        name=name,
        precision=precision,
        model=_build(Model, data["model"]),
        card=_build(Card, table["card"]),
        frontend=_build(Frontend, table["frontend"]),
        arm=_build(Arm, table[precision]),
    )
