"""A server's start-up log and its /metrics page -> TargetFacts.

The log is read once, line by line. A log may hold several start-ups (a container that restarted): the last complete one is told, with the
number of them. Within one start-up, the first line that tells a thing counts, process by process; over the processes of a tensor-parallel
server the largest weights and the smallest KV cache count, because that is what one GPU must hold and what all of them can serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from client.core.loglines import MAX_LINE, clean, pieces
from client.core.startup import MAX_ERRORS, SERVING, STARTING, TEXTS, StartUp


class TargetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a server told of itself while it started. GiB and seconds by the names; None: the log does not tell."""

    version: str | None = None
    model: str | None = None
    quantization: str | None = None
    """What was asked for (`fp8`, `fp8_per_tensor`, ...); None when unknown or unquantised (see `engine_args`)."""
    engine_args: dict[str, Any] = {}
    """Arguments that differ from the defaults, secrets masked. 0.6 prints all of them, defaults as well."""
    weights_gib: float | None = None
    load_s: float | None = None
    read_s: float | None = None
    quantize_s: float | None = None
    kv_cache_gib: float | None = None
    """Negative when the weights and the profile left nothing: the server then refuses to start."""
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None
    """Requests of `max_model_len` tokens that fit at once."""
    max_model_len: int | None = None
    graphs_gib: float | None = None
    graphs_estimated_gib: float | None = None
    graphs_in_budget: bool | None = None
    """Whether the log says that the estimate was taken out of the budget before the KV cache was sized (default from 0.20 on)."""
    graphs_s: float | None = None
    activations_gib: float | None = None
    non_torch_gib: float | None = None
    """Can be negative when a neighbour on the same GPU freed memory during the profile."""
    total_gib: float | None = None
    """What torch sees of the GPU: less than NVML's total, by what the driver reserves."""
    budget_gib: float | None = None
    utilization: float | None = None
    block_size: int | None = None
    num_gpu_blocks: int | None = None
    cache_dtype: str | None = None
    dtype: str | None = None
    """What the weights are computed in: `bfloat16`, `float16`, `float32`."""
    batched_tokens: int | None = None
    """Tokens of one step (--max-num-batched-tokens), told where prefill is chunked."""
    prefix_caching: bool | None = None
    device: str | None = None
    """`cuda`, `cpu`, ... as the engine's configuration says; `gpu` when only the KV cache line tells it."""
    tensor_parallel: int | None = None
    kernels: tuple[str, ...] = ()
    """`<kernel> for <method>` lines, in order, without repeats."""
    marlin_warning: str | None = None
    quantized_layers: str | None = None
    encoder_profile: str | None = None
    compile_s: float | None = None
    engine_s: float | None = None
    complete: bool = False
    """The start-up told here came to its end."""
    starts: int = 0
    """Start-ups in this log."""
    errors: tuple[str, ...] = ()
    """Why the last start-up failed, root cause first; empty when it did not fail."""
    lines: dict[str, str] = {}
    """Field -> the line it was read from."""
    notes: tuple[str, ...] = ()


_SMALLEST = {
    "kv_cache_gib",
    "kv_cache_tokens",
    "max_concurrency",
    "num_gpu_blocks",
    "total_gib",
    "budget_gib",
    "max_model_len",
}


_FROM_ARGS = {
    "model": ("model", "model_tag"),
    "quantization": ("quantization",),
    "utilization": ("gpu_memory_utilization",),
    "max_model_len": ("max_model_len",),
    "cache_dtype": ("kv_cache_dtype",),
    "dtype": ("dtype",),
    "block_size": ("block_size",),
    "tensor_parallel": ("tensor_parallel_size",),
}


def read_log(text: str) -> TargetFacts:
    """Facts from a whole log. Any text gives facts; a text that is no log gives empty ones."""
    return read_lines(_split(text))


def read_lines(lines: Iterable[str]) -> TargetFacts:
    """As `read_log`, from lines as a file gives them: memory does not grow with the log."""
    current = StartUp()
    chosen: StartUp | None = None
    starts = 0
    for raw in lines:
        text = raw[:MAX_LINE] if len(raw) > MAX_LINE else raw
        if not any(map(text.__contains__, SERVING if current.serving else STARTING)) and not current.in_error:
            continue
        for part in text.rstrip("\r\n").split("\r"):  # progress bars go back to the start of their line
            for line in pieces(clean(part)):
                if current.ends_at(line):
                    chosen = current if current.complete else chosen
                    starts += 1
                    current = StartUp()
                if not current.serving:
                    current.take(line)
    starts += 0 if current.empty else 1
    told = current if current.complete or chosen is None else chosen
    return _facts(told, current, starts)


def read_cache_config(metrics_text: str) -> dict[str, str] | None:
    """Labels of `vllm:cache_config_info` (block_size, num_gpu_blocks, gpu_memory_utilization, ...); None when the page has none."""
    for line in _split(metrics_text):
        if not line.startswith("vllm:cache_config_info{") or len(line) > MAX_LINE:
            continue
        try:
            for family in text_string_to_metric_families(line + "\n"):
                for sample in family.samples:
                    return dict(sample.labels)
        except (ValueError, KeyError, IndexError):
            continue
    return None


def _split(text: str) -> Iterator[str]:
    begin = 0
    while (end := text.find("\n", begin)) >= 0:
        yield text[begin : min(end, begin + MAX_LINE)]
        begin = end + 1
    if begin < len(text):
        yield text[begin : begin + MAX_LINE]


def _combined(start: StartUp) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    lines: dict[str, str] = {}
    for field, by_process in start.found.items():
        told = list(by_process.values())
        if not told:
            continue
        if field in TEXTS or field == "prefix_caching":
            best = told[0]
        else:
            best = min(told, key=_first) if field in _SMALLEST else max(told, key=_first)
        values[field], lines[field] = best
    return values, lines


def _first(pair: tuple[Any, str]) -> Any:
    return pair[0]


def _facts(start: StartUp, last: StartUp, starts: int) -> TargetFacts:
    values, lines = _combined(start)
    if start.kernels:
        lines["kernels"] = start.kernel_line
    notes = list(start.notes)
    _settle_weights(values, lines)
    _settle_args(start, values, lines)
    ranks = len(start.found.get("weights_gib", {}))
    if ranks > 1:
        notes.append(
            f"{ranks} processes reported their memory: the figures are for one GPU (largest weights, smallest KV cache)."
        )
    failed = [] if last.complete else last.failures
    if starts > 1:
        notes.append(
            f"The log holds {starts} start-ups; the last complete one is told."
            if start.complete
            else f"The log holds {starts} start-ups, none complete."
        )
    if failed and start is not last:
        notes.append("The last start-up in the log failed: " + failed[0][:200])
    if not start.complete and not start.empty and not failed:
        notes.append("The log ends before the start-up was complete.")
    kv = values.get("kv_cache_gib")
    if kv is not None and kv <= 0:
        notes.append(f"The KV cache came out at {kv:.2f} GiB: weights and profile leave nothing of the budget.")
    return TargetFacts(
        **values,
        engine_args=start.args,
        kernels=tuple(start.kernels),
        graphs_in_budget=start.graphs_in_budget,
        complete=start.complete,
        starts=starts,
        errors=tuple(failed[:MAX_ERRORS]),
        lines=lines,
        notes=tuple(notes),
    )


def _settle_weights(values: dict[str, Any], lines: dict[str, str]) -> None:
    """The load line is preferred to the profile's rounding of it; weights and non-torch told as one number are taken apart."""
    profiled = values.pop("profiled_weights_gib", None)
    profiled_line = lines.pop("profiled_weights_gib", "")
    if values.get("weights_gib") is None and profiled is not None:
        values["weights_gib"], lines["weights_gib"] = profiled, profiled_line
    consumed = values.pop("consumed_gib", None)
    consumed_line = lines.pop("consumed_gib", "")
    weights = values.get("weights_gib")
    if consumed is not None and weights is not None and "non_torch_gib" not in values:
        values["non_torch_gib"], lines["non_torch_gib"] = round(consumed - weights, 4), consumed_line


def _settle_args(start: StartUp, values: dict[str, Any], lines: dict[str, str]) -> None:
    """What was asked for on the command line, where no other line told it. The utilization is exact only there."""
    if values.get("quantization") == "None":
        del values["quantization"], lines["quantization"]
    if start.args_line is None:
        return
    lines["engine_args"] = start.args_line
    for field, names in _FROM_ARGS.items():
        for name in names:
            given = _fitting(field, start.args.get(name))
            if given is not None and (field == "utilization" or field not in values):
                values[field], lines[field] = given, start.args_line


def _fitting(field: str, given: Any) -> Any:
    """The argument's value when it is what the field may hold; None otherwise (`auto`, -1, a list, ...)."""
    if field == "dtype" and given == "auto":
        return None
    if field in ("model", "quantization", "cache_dtype", "dtype"):
        return given if isinstance(given, str) and given else None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    if field == "utilization":
        return float(given) if 0 < given <= 1 else None
    return given if isinstance(given, int) and 0 < given < 10**12 else None
