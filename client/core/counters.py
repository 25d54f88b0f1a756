"""Two /metrics pages of one server -> what happened between them: cache hits, preemptions, queueing, a restart.

Names as in vLLM (v1/metrics/loggers.py of 0.11.0 to 0.33.0). A counter that a version does not have gives None, which means unknown.
"""

from __future__ import annotations

import re

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from client.core.records import ServerSnapshot

COUNTERS = {
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "image_queries": ("vllm:mm_cache_queries_total",),
    "image_hits": ("vllm:mm_cache_hits_total",),
    "preemptions": ("vllm:num_preemptions_total",),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "generation_tokens": ("vllm:generation_tokens_total",),
    "requests": ("vllm:request_success_total",),
    "queue_s": ("vllm:request_queue_time_seconds_sum",),
    "queue_n": ("vllm:request_queue_time_seconds_count",),
}  # fmt: skip
PREFIX, IMAGE = "prefix-cache hits", "image-cache hits"
BEFORE, AFTER, BOTH = "before", "after", "both"
_START = "process_start_time_seconds"
_CONFIG = "vllm:cache_config_info"
_RESULT_OF_PRECISION = re.compile(
    r"num_gpu_blocks|num_cpu_blocks|kv_cache_size_tokens|kv_cache_max_concurrency|engine$"
)
"""Fields of the cache configuration that follow from the weights' size: they may differ between precisions."""
MOST_BYTES = 32 * 1024 * 1024


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page: sums over all engines and labels; None where the page has no such series."""

    counters: dict[str, float] = {}
    start_time_s: float | None = None
    cache_config: dict[str, str] = {}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Between two pages. `readable` False: one of them was missing, and `why` says which."""

    readable: bool = False
    why: str | None = None
    restarted: bool = False
    missing: dict[str, str] = {}
    """Counters that a page lacks though it has others -> which page: BEFORE, AFTER or BOTH."""
    counters: dict[str, float] = {}
    cache_config: dict[str, str] = {}

    def rate(self, hits: str, queries: str) -> float | None:
        """hits / queries; None when unknown or when nothing was asked."""
        asked, found = self.counters.get(queries), self.counters.get(hits)
        return found / asked if asked is not None and found is not None and asked > 0 else None

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of prompt tokens that the prefix cache answered."""
        return self.rate("prefix_hits", "prefix_queries")

    @property
    def image_hit_rate(self) -> float | None:
        """Share of images that the processed-image cache answered; unknown before vLLM 0.20."""
        return self.rate("image_hits", "image_queries")

    @property
    def mean_queue_ms(self) -> float | None:
        seconds = self.rate("queue_s", "queue_n")
        return None if seconds is None else seconds * 1e3


def read_page(text: str) -> Page:
    """Reads as far as the page is well formed: a line that is not Prometheus text ends it."""
    sums: dict[str, float] = {}
    start: float | None = None
    config: dict[str, str] = {}
    try:
        for family in text_string_to_metric_families(text[:MOST_BYTES]):
            for sample in family.samples:
                if sample.name == _START:
                    start = sample.value
                elif sample.name == _CONFIG and not config:
                    config = dict(sample.labels)
                elif sample.name.startswith("vllm:"):
                    sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    except (ValueError, KeyError, IndexError):
        pass  # what was read before the fault is whole
    found = {}
    for short, names in COUNTERS.items():
        for name in names:
            if name in sums:
                found[short] = sums[name]
                break
    return Page(counters=found, start_time_s=start, cache_config=config)


def _text(snapshot: ServerSnapshot | None) -> str | None:
    return None if snapshot is None else snapshot.text


def difference(
    before: ServerSnapshot | None, after: ServerSnapshot | None, *, restart_expected: bool = False
) -> Difference:
    """What the server counted in between. A restart (start time changed, or a counter fell) leaves no counters to trust.

    `restart_expected`: a serial design starts each server anew, so the second page alone tells of its last stay.
    """
    first_text, last_text = _text(before), _text(after)
    if first_text is None or last_text is None:
        name, snapshot = ("before", before) if first_text is None else ("after", after)
        reason = snapshot.why if snapshot is not None else None
        return Difference(why=reason or f"there is no /metrics page from {name} the measurement")
    first, last = read_page(first_text), read_page(last_text)
    changed = None not in (first.start_time_s, last.start_time_s) and first.start_time_s != last.start_time_s
    fell = any(last.counters.get(name, value) < value for name, value in first.counters.items())
    if (changed or fell) and restart_expected and last.counters:
        missing = {name: AFTER for name in COUNTERS if name not in last.counters}
        return Difference(readable=True, counters=last.counters, cache_config=last.cache_config, missing=missing)
    if (changed or fell) and not restart_expected:
        return Difference(readable=True, restarted=True, cache_config=last.cache_config)
    empty = [name for name, page in ((BEFORE, first), (AFTER, last)) if not page.counters]
    if empty:
        where = "" if len(empty) == 2 else f" from {empty[0]} the measurement"
        return Difference(why=f"the /metrics page{where} has no vLLM counters", cache_config=last.cache_config)
    both = {name: last.counters[name] - value for name, value in first.counters.items() if name in last.counters}
    return Difference(readable=True, counters=both, cache_config=last.cache_config, missing=_missing(first, last))


def _missing(first: Page, last: Page) -> dict[str, str]:
    lacks = {name: (name not in first.counters, name not in last.counters) for name in COUNTERS}
    return {name: BOTH if all(lack) else BEFORE if lack[0] else AFTER for name, lack in lacks.items() if any(lack)}


def config_differences(a: dict[str, str], b: dict[str, str]) -> list[str]:
    """Fields of the two cache configurations that differ though precision does not explain it."""
    return [
        f"{key}: {a[key]} / {b[key]}"
        for key in sorted(a.keys() & b.keys())
        if a[key] != b[key] and not _RESULT_OF_PRECISION.search(key)
    ]


def answered(text: str | None) -> int | None:
    """Requests that the server had finished when it wrote this page; None when the page does not say."""
    count = None if text is None else read_page(text).counters.get("requests")
    return None if count is None else int(count)
