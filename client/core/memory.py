"""TargetFacts + GPU samples + model config -> Memory and Kernel, part by part, each with its source.

vLLM's arithmetic: budget = utilization x total (what torch sees: NVML's total minus what the driver reserves); KV cache = budget - weights -
peak activations - non-torch memory, and from 0.20 on - an estimate of the CUDA graphs. The rest here is what remains of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from client.core.estimate import BLOCK, GIB, kv_bytes_per_token, weight_bytes
from client.core.facts import TargetFacts
from client.core.findings import Kernel, Memory
from client.core.kernel import kernel_of, version_of
from client.core.model_config import ModelConfig
from client.core.story import FIXED, story
from client.core.vllm_defaults import default_utilization, graphs_counted, graphs_outside, max_num_seqs

__all__ = ["breakdown", "memory_of", "story"]

TOLERANCE_GIB = 0.05
"""The log rounds each part to 0.01 GiB and the utilization to 0.0001: parts may miss the budget by this much without a remark."""


_ODD_BYTES = 512
"""A token's keys and values are a multiple of this for head sizes of 128 and more, and of most others."""


def memory_of(
    facts: TargetFacts,
    *,
    cache_config: Mapping[str, str] | None = None,
    config: ModelConfig | None = None,
    gpu_total_bytes: int | None = None,
    nvml_idle_bytes: int | None = None,
    nvml_peak_bytes: int | None = None,
    process_bytes: int | None = None,
    mean_request_tokens: float | None = None,
    capability: str | None = None,
    total_source: str = "nvml v2: total - reserved",
    units: int = 1,
) -> tuple[Memory, Kernel]:
    """`gpu_total_bytes` is what torch can use of one GPU: NVML's total minus its reserve. The NVML figures are `used` of API v2, summed over
    the `units` GPUs (or MIG instances) that are watched; a budget is one GPU's."""
    book = _Book()
    book.notes.extend(facts.notes)
    if facts.errors and not facts.complete:
        book.notes.append(f"Start-up failed: {facts.errors[0][:300]}")
    labels = cache_config or {}
    _utilization(book, facts, labels)
    _budget(book, facts, gpu_total_bytes, total_source)
    _weights(book, facts, config)
    _kv_cache(book, facts, labels, config)
    if (cap := max_num_seqs(facts, book.get("total_gib"), capability)) is not None:
        book.put("max_num_seqs", cap.requests, cap.source)
    _requests(book, facts, labels, mean_request_tokens)
    _others(book, facts)
    for field, size in (
        ("whole_gpu_idle_gib", nvml_idle_bytes),
        ("whole_gpu_peak_gib", nvml_peak_bytes),
        ("process_gib", process_bytes),
    ):
        book.put(
            field,
            None if size is None or size < 0 else size / GIB,
            "nvml"
            if field == "process_gib"
            else "nvml v2, whole GPU"
            if units == 1
            else f"nvml v2, {units} GPUs together",
        )
    _check(book, facts)
    _whole(book, units)
    return book.memory(), kernel_of(facts, capability)


def breakdown(memory: Memory) -> tuple[tuple[str, float | None, str], ...]:
    """(part, GiB, source) for a table whose parts add up to its last row, the budget; None: unknown."""
    apart = memory.activations_gib is not None
    rows = (
        ("weights", "weights_gib", True),
        ("KV cache", "kv_cache_gib", True),
        ("CUDA graphs, set aside", "graphs_in_budget_gib", bool(memory.graphs_in_budget_gib)),
        ("activations at peak", "activations_gib", apart),
        ("CUDA context, the rest" if apart else "activations, CUDA context, the rest", "rest_gib", True),
        ("budget", "budget_gib", True),
    )
    return tuple(
        (name, getattr(memory, field), memory.source.get(field, "unknown")) for name, field, shown in rows if shown
    )


class _Book:
    """Figures with their sources, while they are gathered."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.source: dict[str, str] = {}
        self.notes: list[str] = []

    def put(self, field: str, value: float | None, source: str) -> None:
        """The first source wins: call in order of trust."""
        if value is not None and field not in self.values:
            self.values[field], self.source[field] = value, source

    def get(self, field: str) -> float | None:
        return self.values.get(field)

    def memory(self) -> Memory:
        whole = {"kv_cache_tokens", "kv_bytes_per_token", "max_model_len", "max_num_seqs"}
        numbers = {field: int(value) if field in whole else round(value, 4) for field, value in self.values.items()}
        return Memory(**numbers, source=self.source, notes=tuple(dict.fromkeys(self.notes)))  # type: ignore[arg-type]  # fields are told apart by `whole`


def _utilization(book: _Book, facts: TargetFacts, labels: Mapping[str, str]) -> None:
    if facts.device == "cpu":
        book.notes.append(
            "The server runs on a CPU: there is no GPU budget, and the KV cache is set by VLLM_CPU_KVCACHE_SPACE."
        )
        return
    told = number(labels.get("gpu_memory_utilization"), most=1.0)
    book.put("utilization", facts.utilization, "log")
    book.put("utilization", told, "metrics")
    if facts.utilization is not None and told is not None and abs(facts.utilization - told) > 0.0051:
        book.notes.append(
            f"The log says utilization {facts.utilization:g}, /metrics {told:g}: they belong to different starts of the server."
        )
    version = version_of(facts.version)
    if version and "engine_args" in facts.lines:
        book.put("utilization", default_utilization(version), f"default of vLLM {facts.version}")


def _budget(book: _Book, facts: TargetFacts, gpu_total_bytes: int | None, total_source: str) -> None:
    given = None if gpu_total_bytes is None or gpu_total_bytes <= 0 else gpu_total_bytes / GIB
    book.put("total_gib", facts.total_gib, "log")
    book.put("total_gib", given, total_source)
    if facts.device == "cpu":
        return
    if facts.total_gib is not None and given is not None and abs(facts.total_gib - given) > 0.01 * given:
        book.notes.append(
            f"The log saw a GPU of {facts.total_gib:.2f} GiB, but this one has {given:.2f} GiB: the log is of another GPU, or of a MIG part."
        )
    book.put("budget_gib", facts.budget_gib, "log")
    total, utilization = book.get("total_gib"), book.get("utilization")
    if total is not None and utilization is not None:
        book.put("budget_gib", total * utilization, "arithmetic: utilization x total")


def _weights(book: _Book, facts: TargetFacts, config: ModelConfig | None) -> None:
    book.put("weights_gib", facts.weights_gib, "log")
    if config is None or config.quantized is not None or (facts.tensor_parallel or 1) > 1:
        return
    precision = "fp8" if "fp8" in (facts.quantization or "") else "bf16"
    known = facts.quantization is None or precision == "fp8"
    exact = weight_bytes(config, precision, dtype=facts.dtype) / GIB
    name = "fp8" if precision == "fp8" else facts.dtype or "bf16"
    if facts.weights_gib is None:
        if known and facts.version is not None:
            book.put("weights_gib", exact, f"config arithmetic ({name})")
        return
    if known and abs(facts.weights_gib - exact) > 0.03 * exact + 0.2:
        book.notes.append(
            f"The log says {facts.weights_gib:.2f} GiB of weights, the config's arithmetic {exact:.2f} GiB ({name}): another model, or layers left out of quantisation."
        )


def _kv_cache(book: _Book, facts: TargetFacts, labels: Mapping[str, str], config: ModelConfig | None) -> None:
    """Bytes and tokens of the KV cache; where one is missing it follows from the other and the bytes of a token."""
    dtype = facts.cache_dtype or labels.get("cache_dtype")
    if config is not None and (facts.tensor_parallel or 1) == 1:
        book.put("kv_bytes_per_token", kv_bytes_per_token(config, dtype, facts.dtype), "config arithmetic")
    fixed = number(labels.get("kv_cache_memory_bytes"))
    by_hand = _fixed(facts) or fixed is not None
    book.put("kv_cache_gib", facts.kv_cache_gib, f"log, fixed by {FIXED}" if by_hand else "log")
    book.put("kv_cache_gib", None if fixed is None else fixed / GIB, f"metrics, fixed by {FIXED}")
    book.put("kv_cache_tokens", facts.kv_cache_tokens, "log")
    size = number(labels.get("kv_cache_size_tokens"))
    book.put("kv_cache_tokens", size, "metrics")
    block = facts.block_size or number(labels.get("block_size"))
    blocks = number(labels.get("num_gpu_blocks"))
    if blocks and block:
        book.put("kv_cache_tokens", blocks * block, "metrics: blocks x block size")
    if facts.num_gpu_blocks:
        book.put(
            "kv_cache_tokens",
            facts.num_gpu_blocks * (block or BLOCK),
            "log: blocks x " + (f"{block:g}" if block else f"{BLOCK} (assumed)"),
        )
    tokens, held, each = book.get("kv_cache_tokens"), book.get("kv_cache_gib"), book.get("kv_bytes_per_token")
    if tokens and held and held > 0 and each is None:
        book.put("kv_bytes_per_token", *_bytes_of_a_token(held, tokens))
    if tokens and each and held is None:
        book.put("kv_cache_gib", tokens * each / GIB, "arithmetic: tokens x bytes for each")
    if tokens and each and held and abs(tokens * each / GIB - held) > 0.02 * held + 0.02:
        book.notes.append(
            f"{tokens:,.0f} tokens of {each:,.0f} bytes are {tokens * each / GIB:.2f} GiB, but the log says {held:.2f} GiB: the config is of another model, or the cache is shared differently."
        )
    page = size or (blocks * block if blocks and block else None)
    if facts.kv_cache_tokens and page and abs(page - facts.kv_cache_tokens) > 0.001 * page:
        book.notes.append(
            f"The log says {facts.kv_cache_tokens:,} KV tokens, /metrics {page:,.0f}: they belong to different starts of the server."
        )


def _bytes_of_a_token(held_gib: float, tokens: float) -> tuple[float, str]:
    """The log rounds the GiB: where one likely size lies inside the rounding it is that, else the quotient as it is."""
    low, high = (held_gib - 0.0051) * GIB / (tokens + BLOCK), (held_gib + 0.0051) * GIB / tokens
    likely = math.floor(high / _ODD_BYTES) * _ODD_BYTES
    if likely >= low > likely - _ODD_BYTES and likely > 0:
        return likely, f"arithmetic: GiB / tokens, to a multiple of {_ODD_BYTES}"
    return held_gib * GIB / tokens, "arithmetic: GiB / tokens, as rounded in the log"


def _requests(book: _Book, facts: TargetFacts, labels: Mapping[str, str], mean_request_tokens: float | None) -> None:
    book.put("max_model_len", facts.max_model_len, "log")
    tokens = book.get("kv_cache_tokens")
    if tokens is None or mean_request_tokens is None or not 0 < mean_request_tokens < 1e12:
        return
    block = facts.block_size or number(labels.get("block_size")) or BLOCK
    if not 1 <= block < 1e6:  # no size of a block
        block = BLOCK
    each = max(math.ceil(mean_request_tokens / block), 1) * block
    book.put("requests_at_once", tokens / each, f"arithmetic: KV tokens / {each:,.0f} tokens in whole blocks")
    cap = book.get("max_num_seqs")
    if cap is not None and cap < math.floor(tokens / each):
        book.notes.append(
            f"--max-num-seqs ({book.source['max_num_seqs']}) lets at most {cap:,.0f} requests run at once, though the KV cache has room for "
            f"{math.floor(tokens / each):,} of {each:,.0f} tokens: raise it to use that room."
        )


def _others(book: _Book, facts: TargetFacts) -> None:
    book.put("graphs_gib", facts.graphs_gib, "log")
    book.put("graphs_gib", facts.graphs_estimated_gib, "log (estimate)")
    if graphs_counted(facts) and facts.graphs_estimated_gib is not None:
        book.put("graphs_in_budget_gib", facts.graphs_estimated_gib, "log (estimate)")
    elif facts.engine_args.get("enforce_eager") is True:
        book.put("graphs_in_budget_gib", 0.0, "--enforce-eager: no graphs")
    elif facts.device != "cpu" and graphs_outside(facts):
        said = "log" if facts.graphs_in_budget is False else f"vLLM {facts.version}"
        book.put("graphs_in_budget_gib", 0.0, f"{said}: graphs lie outside the budget")
    book.put("activations_gib", facts.activations_gib, "log")
    budget = book.get("budget_gib")
    parts = [book.get(field) for field in ("weights_gib", "kv_cache_gib", "graphs_in_budget_gib", "activations_gib")]
    if budget is not None and parts[0] is not None and parts[1] is not None:
        rest = budget - sum(part for part in parts if part is not None)
        if rest >= -TOLERANCE_GIB:
            book.put("rest_gib", max(0.0, rest), "arithmetic: budget - the parts above")
        else:
            book.notes.append(_exceeds(facts, budget, -rest))
    elif facts.non_torch_gib is not None and facts.non_torch_gib >= 0:
        book.put("rest_gib", facts.non_torch_gib, "log (non-torch memory)")


def _fixed(facts: TargetFacts) -> bool:
    line = facts.lines.get("kv_cache_gib", "")
    return "kv_cache_memory_bytes" in line or facts.engine_args.get("kv_cache_memory_bytes") is not None


def _exceeds(facts: TargetFacts, budget: float, by: float) -> str:
    if _fixed(facts):
        return f"The parts exceed {budget:.2f} GiB (utilization x total) by {by:.2f} GiB: --kv-cache-memory-bytes fixes the KV cache, whatever the utilization says."
    return f"The parts do not add up: they exceed the budget of {budget:.2f} GiB by {by:.2f} GiB. The total, the utilization or the log is of another server."


def _check(book: _Book, facts: TargetFacts) -> None:
    """What the figures say about one another."""
    rest, told = book.get("rest_gib"), facts.non_torch_gib
    if rest is not None and told is not None and facts.activations_gib is not None and abs(rest - told) > TOLERANCE_GIB:
        book.notes.append(
            f"The log's parts miss the budget by {abs(rest - told):.2f} GiB: it says {told:.2f} GiB of non-torch memory, the budget leaves {rest:.2f} GiB."
        )
    if told is not None and told < 0:
        book.notes.append(
            f"Non-torch memory came out at {told:.2f} GiB: another process freed GPU memory during the profile, so the KV cache was sized wrongly."
        )
    graphs, counted = book.get("graphs_gib"), book.get("graphs_in_budget_gib")
    if graphs is not None and counted is not None and graphs - counted > TOLERANCE_GIB:
        aside = f"{counted:.2f} GiB were set aside" if counted else "nothing was set aside"
        book.notes.append(
            f"CUDA graphs took {graphs:.2f} GiB and {aside}: {graphs - counted:.2f} GiB lie outside the budget."
        )


def _whole(book: _Book, units: int) -> None:
    """What NVML's figures say beside the server's own. A sum over several GPUs cannot be held against the budget of one."""
    if units > 1:
        book.notes.append(
            f"{units} GPUs are watched: whole-GPU figures are their sum, and the budget is that of one of them."
        )
        return
    idle, budget = book.get("whole_gpu_idle_gib"), book.get("budget_gib")
    if idle is not None and budget is not None and idle < budget - TOLERANCE_GIB:
        book.notes.append(
            f"Idle, the GPU holds {idle:.2f} GiB, less than the budget of {budget:.2f} GiB: peak activations are given back until traffic comes."
        )
    total = book.get("total_gib")
    peak = book.get("whole_gpu_peak_gib")
    if total is not None and peak is not None and peak > total * 1.001:
        book.notes.append(
            f"NVML counts {peak:.2f} GiB in use, more than the {total:.2f} GiB that this memory belongs to: the samples are of another GPU."
        )


def number(text: str | None, most: float = 1e15) -> float | None:
    """A positive number from a metrics label; None for `None`, `auto`, nonsense, and what cannot be."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) and 0 < value <= most else None
