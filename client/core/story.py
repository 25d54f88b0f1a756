"""Why a smaller model did not use less GPU memory: sentences made from the numbers of two servers. No number, no sentence."""

from __future__ import annotations

import math

from client.core.estimate import GIB
from client.core.findings import Memory

FIXED = "--kv-cache-memory-bytes"
SAME_WEIGHTS_GIB = 0.01
SAME_GIB = 0.1
"""Budgets or totals closer than this are called the same."""


def story(
    baseline_name: str, baseline: Memory, candidate_name: str, candidate: Memory, gpu_name: str | None
) -> tuple[str, ...]:
    """In order of weight: the total, where the saved GiB went, what they hold, the same capacity in less memory, what each server needs at least."""
    pair = _Pair(baseline_name, baseline, candidate_name, candidate)
    found = (_total(pair), _where(pair), _holds(pair), _same_in_less(pair, gpu_name), _least(pair, gpu_name))
    return tuple(sentence for sentence in found if sentence)


class _Pair:
    def __init__(self, old_name: str, old: Memory, new_name: str, new: Memory) -> None:
        self.old_name, self.old, self.new_name, self.new = old_name, old, new_name, new

    def both(self, field: str) -> tuple[float, float] | None:
        """The figure of both servers, or None when one is unknown."""
        old, new = getattr(self.old, field), getattr(self.new, field)
        return None if old is None or new is None else (old, new)


def _total(pair: _Pair) -> str | None:
    """The budget decides the total: equal budgets give equal totals, whatever the weights weigh."""
    budgets = pair.both("budget_gib")
    if budgets is None:
        return None
    old, new = budgets
    measured = _measured(pair)
    if abs(old - new) >= SAME_GIB:
        return f"The two servers have different memory budgets, {pair.old_name} {old:.2f} GiB and {pair.new_name} {new:.2f} GiB{measured}: their totals differ by that, not by precision."
    if _fixed(pair.old) or _fixed(pair.new):
        return f"The KV cache is fixed by --kv-cache-memory-bytes: --gpu-memory-utilization sets no total, and what the weights leave stays free{measured}."
    share = _share(pair.new)
    return (
        f"The total does not follow the weights: both servers may use the same {new:.2f} GiB{share}, "
        f"and vLLM fills what the weights leave of it with KV cache{measured}."
    )


def _measured(pair: _Pair) -> str:
    for field, words in (
        ("whole_gpu_peak_gib", "whole GPU at peak"),
        ("whole_gpu_idle_gib", "whole GPU, idle"),
        ("process_gib", "the server's process"),
    ):
        seen = pair.both(field)
        if seen is not None and "shared" not in pair.new.source.get(field, ""):
            return f" ({words}: {seen[0]:.2f} and {seen[1]:.2f} GiB)"
    return ""


def _share(memory: Memory) -> str:
    if memory.utilization is None or memory.total_gib is None:
        return ""
    return f" (--gpu-memory-utilization {memory.utilization:g} of {memory.total_gib:.2f} GiB)"


def _where(pair: _Pair) -> str | None:
    weights, cache = pair.both("weights_gib"), pair.both("kv_cache_gib")
    if weights is None:
        return None
    lost = weights[0] - weights[1]
    if abs(lost) < SAME_WEIGHTS_GIB:
        return f"Weights weigh the same, {weights[0]:.2f} and {weights[1]:.2f} GiB: none were saved."
    verb = "shrink" if lost > 0 else "grow"
    text = f"Weights {verb} from {weights[0]:.2f} to {weights[1]:.2f} GiB ({_percent(weights)})"
    if cache is None:
        return text + "; where that memory went is unknown, because the KV cache of one server is."
    gained = cache[1] - cache[0]
    if abs(gained) < SAME_WEIGHTS_GIB:
        return text + f", the KV cache stays at {cache[1]:.2f} GiB."
    text += f", the KV cache {'grows' if gained > 0 else 'shrinks'} from {cache[0]:.2f} to {cache[1]:.2f} GiB ({_percent(cache)})"
    if lost > SAME_GIB and gained > 0 and abs(gained - lost) <= max(SAME_GIB, 0.05 * lost):
        return text + f": the {lost:.2f} GiB saved became KV cache."
    return text + "."


def _holds(pair: _Pair) -> str | None:
    tokens = pair.both("kv_cache_tokens")
    if tokens is None:
        return None
    text = f"In tokens, the KV cache goes from {tokens[0]:,.0f} to {tokens[1]:,.0f} ({_percent(tokens)})"
    requests = pair.both("requests_at_once")
    if requests is None or requests[0] < 1:
        return text + "."
    each = round(tokens[0] / requests[0])
    if tokens[0] == tokens[1]:
        return f"In tokens, the KV cache stays at {tokens[0]:,.0f}: room for {math.floor(requests[0]):,} requests of up to {each:,} tokens at once, as before."
    old, new = math.floor(requests[0]), math.floor(tokens[1] / each)
    return (
        text
        + f": room for {new:,} requests of up to {each:,} tokens at once instead of {old:,}, {abs(new - old):,} {'more' if new >= old else 'fewer'}."
        + _capped(pair.new_name, pair.new.max_num_seqs, old, new)
    )


def _capped(name: str, cap: int | None, old: int, new: int) -> str:
    """Room is no use beyond what --max-num-seqs lets run."""
    if cap is None or cap >= new or new <= old:
        return ""
    used = "none" if cap <= old else "part"
    return f" But {name} runs at most {cap:,} at once (--max-num-seqs): as it is set, {used} of the gain can be used; raise it with the load."


def _same_in_less(pair: _Pair, gpu_name: str | None) -> str | None:
    """Which utilization gives the candidate the baseline's KV capacity: budget - (its KV cache - the KV cache needed), rounded up to 0.01."""
    budget, total = pair.new.budget_gib, pair.new.total_gib
    needed, have = _needed_cache(pair), pair.new.kv_cache_gib
    if budget is None or not total or needed is None or have is None or _fixed(pair.old) or _fixed(pair.new):
        return None
    spare = have - needed
    utilization = math.ceil((budget - spare) / total * 100 - 1e-6) / 100
    saved = budget - utilization * total
    if saved < SAME_GIB:
        return None
    tokens = f"{pair.old.kv_cache_tokens:,} tokens" if pair.old.kv_cache_tokens is not None else f"{needed:.2f} GiB"
    return (
        f"For less memory instead of more capacity: {pair.new_name} with --gpu-memory-utilization {utilization:.2f} keeps the KV cache of "
        f"{pair.old_name} ({tokens}) in {utilization * total:.2f} GiB, {saved:.2f} GiB less than now, free for others on {_card(gpu_name, total)}."
    )


def _needed_cache(pair: _Pair) -> float | None:
    """GiB of the candidate's cache that hold the baseline's tokens: its bytes for a token may differ (an fp8 cache)."""
    tokens, each = pair.old.kv_cache_tokens, pair.new.kv_bytes_per_token
    if tokens is not None and each is not None:
        return tokens * each / GIB
    return pair.old.kv_cache_gib


def _least(pair: _Pair, gpu_name: str | None) -> str | None:
    """Smallest utilization that starts: all that is no KV cache, and one request of the longest length."""
    needs = [_least_gib(memory) for memory in (pair.old, pair.new)]
    total, longest = pair.new.total_gib, pair.new.max_model_len
    if needs[0] is None or needs[1] is None or not total or longest is None or pair.old.max_model_len != longest:
        return None
    old, new = needs
    lows = [math.ceil(need / total * 100 - 1e-6) / 100 for need in needs if need is not None]
    if max(lows) > 1:
        return f"To serve one request of {longest:,} tokens at a time, {pair.old_name} needs {old:.2f} GiB and {pair.new_name} {new:.2f} GiB; {_card(gpu_name, total)} has no room for the larger."
    return (
        f"To serve at all, one request of {longest:,} tokens at a time, {pair.old_name} needs {old:.2f} GiB and {pair.new_name} {new:.2f} GiB: "
        f"on {_card(gpu_name, total)} a --gpu-memory-utilization of at least {lows[0]:.2f} and {lows[1]:.2f}."
    )


def _least_gib(memory: Memory) -> float | None:
    if (
        memory.budget_gib is None
        or memory.kv_cache_gib is None
        or memory.kv_bytes_per_token is None
        or memory.max_model_len is None
        or _fixed(memory)
    ):
        return None
    return memory.budget_gib - memory.kv_cache_gib + memory.max_model_len * memory.kv_bytes_per_token / GIB


def _fixed(memory: Memory) -> bool:
    """The budget is not what sized the KV cache: nothing follows from the utilization."""
    return FIXED in memory.source.get("kv_cache_gib", "")


def _card(gpu_name: str | None, total: float) -> str:
    return f"{gpu_name} ({total:.1f} GiB)" if gpu_name else f"this GPU ({total:.1f} GiB)"


def _percent(pair: tuple[float, float]) -> str:
    if pair[0] <= 0:
        return f"by {pair[1] - pair[0]:+,.2f}".replace("-", "−")
    change = (pair[1] / pair[0] - 1) * 100
    return f"{change:+.0f} %".replace("-", "−")
