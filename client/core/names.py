"""Every name of a number that a person may write down: in `--primary`, in `--fail-if`, or read in findings.json.

One table, so that a name means the same in all three places. `e2e_p50` is short for `metrics["e2e_ms_p50"]`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from client.core.findings import Estimate, TargetFindings

LATENCIES = ("ttft", "tpot", "itl", "e2e", "response")
STATISTICS = ("p50", "p95", "p99", "mean")
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Better(StrEnum):
    LOWER = "lower"
    HIGHER = "higher"


class Name(msgspec.Struct, frozen=True):
    """`place` is the field of TargetFindings that holds the number and `key` its key (or field) there."""

    short: str
    place: str
    key: str
    unit: str
    better: Better
    words: str


def _latency_names() -> list[Name]:
    words = {
        "ttft": "time to first token",
        "tpot": "time per output token",
        "itl": "gap between token chunks",
        "e2e": "end-to-end latency",
        "response": "response time from the intended start",
    }
    statistics = {"p50": "median", "p95": "95th percentile of", "p99": "99th percentile of", "mean": "mean"}
    return [
        Name(
            f"{metric}_{stat}",
            "metrics",
            f"{metric}_ms_{stat}",
            "ms",
            Better.LOWER,
            f"{statistics[stat]} {words[metric]}",
        )
        for metric in LATENCIES
        for stat in STATISTICS
    ]


_OTHERS = [
    Name("requests_per_s", "metrics", "requests_per_s", "1/s", Better.HIGHER, "finished requests per second"),
    Name("output_tokens_per_s", "metrics", "output_tokens_per_s", "1/s", Better.HIGHER, "output tokens per second"),
    Name("goodput_per_s", "metrics", "goodput_per_s", "1/s", Better.HIGHER, "requests per second that met every SLO"),
    Name("error_rate", "metrics", "error_rate", "", Better.LOWER, "share of requests that failed"),
    Name("cold_e2e", "cold_start", "e2e_ms", "ms", Better.LOWER, "end-to-end latency of the very first request"),
    Name("cold_ttft", "cold_start", "ttft_ms", "ms", Better.LOWER, "time to first token of the very first request"),
    Name("prefix_hit_rate", "caches", "prefix_hit_rate", "", Better.LOWER, "prefix cache hit rate"),
    Name("image_hit_rate", "caches", "image_hit_rate", "", Better.LOWER, "image cache hit rate"),
    Name("mean_iou", "quality", "mean_iou", "", Better.HIGHER, "mean IoU"),
    Name("precision", "quality", "precision", "", Better.HIGHER, "precision at IoU 0.5"),
    Name("recall", "quality", "recall", "", Better.HIGHER, "recall at IoU 0.5"),
    Name("f1", "quality", "f1", "", Better.HIGHER, "F1 at IoU 0.5"),
    Name("hit_rate_50", "quality", "hit_rate_50", "", Better.HIGHER, "share of truths found at IoU 0.5"),
    Name("ap_50_95", "quality", "ap_50_95", "", Better.HIGHER, "average precision over IoU 0.5 to 0.95"),
    Name("weights_gib", "memory", "weights_gib", "GiB", Better.LOWER, "model weights"),
    Name("kv_cache_gib", "memory", "kv_cache_gib", "GiB", Better.HIGHER, "KV cache"),
    Name("kv_cache_tokens", "memory", "kv_cache_tokens", "tokens", Better.HIGHER, "KV cache"),
    Name("requests_at_once", "memory", "requests_at_once", "", Better.HIGHER, "requests that the KV cache holds at once"),
    Name("gpu_peak_gib", "memory", "whole_gpu_peak_gib", "GiB", Better.LOWER, "peak memory of the whole GPU"),
    Name("joules_per_request", "energy", "joules_per_request", "J", Better.LOWER, "energy per request"),
    Name("kj_per_1000_images", "energy", "kj_per_1000_images", "kJ", Better.LOWER, "energy per 1,000 images"),
    Name("mean_power_w", "energy", "mean_power_w", "W", Better.LOWER, "mean power"),
    Name("usd_per_1000_images", "cost", "usd_per_1000_images", "USD", Better.LOWER, "cost of 1,000 images"),
]  # fmt: skip

NAMES: dict[str, Name] = {name.short: name for name in _latency_names() + _OTHERS}
BY_KEY: dict[str, Name] = {name.key: name for name in NAMES.values() if name.place == "metrics"}
COMPARED: tuple[str, ...] = tuple(name.short for name in NAMES.values() if name.place == "metrics")
"""What the analysis compares between arms from request records."""
PRIMARY: tuple[str, ...] = tuple(short for short in COMPARED if short != "error_rate")
"""What may decide. A share of failures has gates of its own (`client.core.gates`), and no ratio where one arm has none."""
TIME_LIKE: tuple[str, ...] = tuple(
    n.key for n in NAMES.values() if n.place == "metrics" and not n.short.startswith("tpot")
)


def estimate_of(findings: TargetFindings, name: Name) -> Estimate | None:
    """Where the number stands in one target's findings; None when it was not measured."""
    holder = getattr(findings, name.place)
    if name.place == "quality":
        holder = holder.scores if holder is not None else {}
    if isinstance(holder, dict):
        found: Estimate | None = holder.get(name.key)
        return found if found is not None and found.value is not None else None
    value = getattr(holder, name.key)
    return None if value is None else Estimate(value=value, low=value, high=value, n=1, unit=name.unit)
