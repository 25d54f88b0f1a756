"""`python -m client.memory`: where a vLLM server's GPU memory went, from its log, its /metrics page or its model's config alone."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from tabulate import tabulate

from client.core.estimate import GIB, OVERHEAD_GIB, Fit, fit, kv_bytes_per_token, parameters, parts, weight_bytes
from client.core.facts import TargetFacts, read_cache_config
from client.core.findings import Kernel, Memory
from client.core.kernel import fp8_name, version_of
from client.core.memory import breakdown, memory_of, story
from client.core.model_config import MAX_BYTES, ModelConfig, read_model_config
from client.core.vllm_defaults import FEW, NEW_UTILIZATION, default_utilization, usual_max_num_seqs
from client.errors import HalfweightError, UsageError
from client.logfile import read_facts, read_text
from client.memory_options import build_parser, check

MAX_PAGE = 64 << 20


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        print(run(arguments))
    except HalfweightError as error:
        print(f"halfweight: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    return 0


def run(arguments: argparse.Namespace) -> str:
    """The whole answer as text. Raises UsageError for whatever cannot be read or meant."""
    check(arguments)
    facts = read_facts(arguments.server_log) if arguments.server_log else TargetFacts()
    labels = _labels(arguments.metrics) if arguments.metrics else None
    config = read_model_config(read_text(arguments.config, MAX_BYTES), arguments.config) if arguments.config else None
    memory, kernel = _memory(arguments, facts, labels, config)
    sentences: tuple[str, ...] = ()
    if arguments.baseline_log:
        base = read_facts(arguments.baseline_log)
        names = _names(base, facts)
        base_memory, _ = _memory(arguments, base, None, config)
        sentences = story(names[0], base_memory, names[1], memory, arguments.gpu_name)
    fits = _fits(arguments, config, facts, memory) if config else ()
    if arguments.json:
        told = {"facts": facts, "memory": memory, "kernel": kernel, "story": sentences}
        told["estimate"] = _estimate_json(config, fits, arguments, facts, memory)
        return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()
    blocks = []
    if arguments.server_log or arguments.metrics:
        blocks.append(_server_block(facts, memory, kernel, arguments.request_tokens))
    if sentences:
        blocks.append("What became of the difference\n" + "\n".join(f"  - {sentence}" for sentence in sentences))
    if config:
        blocks.append(_estimate_block(config, fits, arguments, facts, memory))
    return "\n\n".join(blocks)


def _memory(
    arguments: argparse.Namespace, facts: TargetFacts, labels: dict[str, str] | None, config: ModelConfig | None
) -> tuple[Memory, Kernel]:
    return memory_of(
        facts,
        cache_config=labels,
        config=config,
        gpu_total_bytes=round(arguments.gpu_gib * GIB) if arguments.gpu_gib else None,
        mean_request_tokens=arguments.request_tokens,
        capability=arguments.capability,
        total_source="--gpu-gib",
    )


def _labels(path: str) -> dict[str, str]:
    labels = read_cache_config(read_text(path, MAX_PAGE))
    if labels is None:
        raise UsageError(
            f"{path} has no vllm:cache_config_info.",
            "Save the page of a running vLLM with: curl -s http://HOST:8000/metrics > FILE",
        )
    return labels


def _names(old: TargetFacts, new: TargetFacts) -> tuple[str, str]:
    names = [facts.quantization or "bf16" for facts in (old, new)]
    return (names[0], names[1]) if names[0] != names[1] else (f"{names[0]} (baseline)", f"{names[1]} (candidate)")


def _fits(arguments: argparse.Namespace, config: ModelConfig, facts: TargetFacts, memory: Memory) -> tuple[Fit, ...]:
    """bf16, fp8, and fp8 with the vision tower left in bf16; empty when no card is known."""
    total = arguments.gpu_gib or memory.total_gib
    if total is None or config.quantized is not None:
        return ()
    kinds = [("bf16", True), ("fp8", True)] + ([("fp8", False)] if config.vision else [])
    return tuple(
        fit(
            config,
            total_gib=total,
            utilization=_utilization(arguments, facts, memory)[0],
            request_tokens=arguments.request_tokens,
            precision=precision,
            vision_in_fp8=vision,
            cache_dtype=arguments.kv_cache_dtype,
            dtype=_dtype(arguments, facts),
            overhead_gib=_overhead(arguments, memory)[0],
        )
        for precision, vision in kinds
    )


def _estimate_json(
    config: ModelConfig | None,
    fits: Sequence[Fit],
    arguments: argparse.Namespace,
    facts: TargetFacts,
    memory: Memory,
) -> dict[str, Any] | None:
    if config is None:
        return None
    dtype = _dtype(arguments, facts)
    plain, spared = _plain(dtype), "fp8, vision tower unquantised"
    return {
        "parameters": parameters(config),
        "weight_bytes": {
            plain: weight_bytes(config, dtype=dtype),
            "fp8": weight_bytes(config, "fp8", dtype=dtype),
            spared: weight_bytes(config, "fp8", vision_in_fp8=False, dtype=dtype),
        },
        "kv_bytes_per_token": {
            "auto": kv_bytes_per_token(config, dtype=dtype),
            "fp8": kv_bytes_per_token(config, "fp8"),
        },
        "fits": dict(zip((plain, "fp8", spared), fits, strict=False)),
        "assumptions": _assumptions(arguments, facts, memory) if fits else (),
    }


def _server_block(facts: TargetFacts, memory: Memory, kernel: Kernel, request_tokens: float) -> str:
    what = [
        f"vLLM {facts.version}" if facts.version else "vLLM, version unknown",
        facts.model or "",
        f"quantization {facts.quantization}" if facts.quantization else "",
    ]
    lines = [", ".join(item for item in what if item)]
    if facts.errors:
        lines.append(f"{'THE LAST START-UP FAILED' if facts.complete else 'START-UP FAILED'}: {facts.errors[0]}")
    if memory.utilization is not None:
        of = f" of {memory.total_gib:.2f} GiB" if memory.total_gib is not None else ""
        lines.append(f"--gpu-memory-utilization {memory.utilization:g}{of}")
    if any(value is not None for _, value, _ in breakdown(memory)):
        lines += ["", _parts_table(memory)]
    lines += ["", _details(facts, memory, kernel, request_tokens)]
    notes = [note for note in memory.notes if not (facts.errors and facts.errors[0][:200] in note)]
    if memory.budget_gib is None and memory.utilization is not None:
        notes.append("The budget is unknown: give --gpu-gib, the memory that torch sees.")
    if notes:
        lines += ["", "Notes", *(f"  - {note}" for note in notes)]
    return "\n".join(lines)


def _parts_table(memory: Memory) -> str:
    """Two decimals that add up: the rest takes the rounding."""
    rows = breakdown(memory)
    shown = {name: None if value is None else round(value, 2) for name, value, _ in rows}
    rest = next(name for name, _, _ in rows if name.endswith("rest"))
    budget = shown["budget"]
    if budget is not None and shown[rest] is not None:
        shown[rest] = round(
            budget - sum(value or 0.0 for name, value in shown.items() if name not in (rest, "budget")), 2
        )
    table = []
    for name, _, source in rows:
        value = shown[name]
        share = f"{value / budget:.1%}" if value is not None and budget else ""
        table.append((name, "unknown" if value is None else f"{value:.2f}", share, "" if value is None else source))
    return tabulate(
        table,
        ("part", "GiB", "of budget", "source"),
        tablefmt="simple",
        colalign=("left", "right", "right", "left"),
        disable_numparse=True,
    )


def _details(facts: TargetFacts, memory: Memory, kernel: Kernel, request_tokens: float) -> str:
    rows: list[tuple[str, str]] = []
    if memory.kv_cache_tokens is not None:
        each = f" of {memory.kv_bytes_per_token:,} bytes" if memory.kv_bytes_per_token else ""
        rows.append(("KV cache holds", f"{memory.kv_cache_tokens:,} tokens{each}"))
    if memory.requests_at_once is not None:
        room = f"{math.floor(memory.requests_at_once):,} of {request_tokens:,.0f} tokens have room in the KV cache"
        rows.append(("requests at once", room))
    if facts.max_concurrency is not None and facts.max_model_len is not None:
        longest = f"{facts.max_concurrency:,.2f} of {facts.max_model_len:,} tokens, the longest allowed (log)"
        rows.append(("", longest))
    if memory.max_num_seqs is not None:
        head = "" if memory.requests_at_once is not None else "requests at once"
        rows.append((head, f"{memory.max_num_seqs:,} at most, --max-num-seqs ({memory.source['max_num_seqs']})"))
    if facts.graphs_gib is not None:
        rows.append(("CUDA graphs took", f"{facts.graphs_gib:.2f} GiB"))
    rows.append(("kernel", kernel.kind))
    rows.extend(("", item) for item in kernel.evidence)
    if kernel.contradiction:
        rows.append(("CONTRADICTION", kernel.contradiction))
    if kernel.quantized_layers:
        rows.append(("quantised", kernel.quantized_layers.removeprefix("Quantizing ")))
    times = (
        ("load", facts.load_s),
        ("torch.compile", facts.compile_s),
        ("graphs", facts.graphs_s),
        ("engine", facts.engine_s),
    )
    told = ", ".join(f"{name} {value:,.1f} s" for name, value in times if value is not None)
    if told:
        rows.append(("start-up", told))
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _utilization(arguments: argparse.Namespace, facts: TargetFacts, memory: Memory) -> tuple[float, str | None]:
    """The utilization of the estimate, and what is assumed with it; None: somebody said so."""
    told = arguments.utilization or memory.utilization
    if told is not None:
        return told, None
    default = default_utilization(version_of(facts.version))
    return default, (
        f"--gpu-memory-utilization {default:g}, vLLM's default from 0.20 on (0.9 before): say otherwise with --utilization"
        if default == NEW_UTILIZATION
        else f"--gpu-memory-utilization {default:g}, the default of vLLM {facts.version}: say otherwise with --utilization"
    )


def _overhead(arguments: argparse.Namespace, memory: Memory) -> tuple[float, str | None]:
    """GiB that are neither weights nor KV cache, and what is assumed with them; None: given, or what this server's log leaves."""
    if arguments.overhead_gib is not None:
        return arguments.overhead_gib, None
    known = (memory.budget_gib, memory.weights_gib, memory.kv_cache_gib)
    if None not in known and (left := known[0] - known[1] - known[2]) > 0:  # type: ignore[operator]  # None is excluded just before
        return left, None
    return OVERHEAD_GIB, (
        f"{OVERHEAD_GIB:g} GiB for activations, CUDA graphs and context, measured once: vLLM 0.20.2 on an H100, --max-model-len 4096, one picture "
        "a prompt; larger limits take more: say otherwise with --overhead-gib"
    )


def _dtype(arguments: argparse.Namespace, facts: TargetFacts) -> str | None:
    return facts.dtype if arguments.dtype == "auto" else arguments.dtype


def _plain(dtype: str | None) -> str:
    """What unquantised weights are called."""
    return dtype if dtype not in (None, "bfloat16") else "bf16"


def _assumptions(arguments: argparse.Namespace, facts: TargetFacts, memory: Memory) -> tuple[str, ...]:
    """What the estimate takes for granted because nobody said it."""
    total = arguments.gpu_gib or memory.total_gib or 0.0
    card = f"a card of {total:.2f} GiB as torch sees it: less than is printed on its box (48 GB: about 47.5 GiB; 24 GB: 23.5; 80 GB H100: 79.2)"
    usual = usual_max_num_seqs(total)
    seqs = f"--max-num-seqs {usual:,}, vLLM's default on such a GPU" + (" (256 on an A100)" if usual > FEW else "")
    told = (
        card if arguments.gpu_gib else None,
        _utilization(arguments, facts, memory)[1],
        _overhead(arguments, memory)[1],
        None if memory.max_num_seqs is not None else f"{seqs}: more requests than that wait, whatever room there is",
    )
    return tuple(item for item in told if item)


def _estimate_block(
    config: ModelConfig, fits: Sequence[Fit], arguments: argparse.Namespace, facts: TargetFacts, memory: Memory
) -> str:
    if config.quantized is not None:
        return f"The config is of a checkpoint that is quantised already ({config.quantized}): its weights are not estimated."
    dtype = _dtype(arguments, facts)
    each, each_fp8 = kv_bytes_per_token(config, dtype=dtype), kv_bytes_per_token(config, "fp8")
    cache = f"KV cache: {each:,} bytes for each token, {each_fp8:,} with --kv-cache-dtype fp8"
    blocks = ["Estimate from the model's config.json", _weights_table(config, dtype), cache]
    if not fits:
        return "\n\n".join([*blocks, "Give --gpu-gib to see what fits on a card."])
    blocks.append(
        f"Budget {fits[0].budget_gib:.2f} GiB (utilization {_utilization(arguments, facts, memory)[0]:g}), "
        f"{fits[0].overhead_gib:.2f} GiB of it for activations, graphs and context"
    )
    kinds = (
        _plain(dtype),
        f"fp8 (--quantization {fp8_name(facts.version or '', 'cuda')})",
        "fp8, vision tower unquantised",
    )
    rows = [
        (kind, f"{item.weights_gib:.2f}", _left(item), f"{item.kv_cache_tokens:,}", f"{item.requests:,}")
        for kind, item in zip(kinds, fits, strict=False)
    ]
    heads = ("weights as", "GiB", "KV cache GiB", "tokens", f"room for requests of {arguments.request_tokens:,.0f}")
    blocks.append(_table(rows, heads))
    if assumed := _assumptions(arguments, facts, memory):
        blocks.append("Assumed\n" + "\n".join(f"  - {item}" for item in assumed))
    return "\n\n".join(blocks)


def _weights_table(config: ModelConfig, dtype: str | None) -> str:
    rows: list[tuple[str, ...]] = [
        (
            part.name,
            f"{part.parameters:,}",
            f"{part.bytes_as('bf16', dtype=dtype):,}",
            f"{part.bytes_as('fp8', dtype=dtype):,}",
        )
        for part in parts(config)
    ]
    sizes = (weight_bytes(config, dtype=dtype), weight_bytes(config, "fp8", dtype=dtype))
    rows.append(("total", f"{parameters(config):,}", *(f"{size:,}" for size in sizes)))
    rows.append(("in GiB", "", *(f"{size / GIB:.2f}" for size in sizes)))
    return _table(rows, ("part", "parameters", f"{_plain(dtype)} bytes", "online fp8 bytes"))


def _table(rows: Sequence[tuple[str, ...]], heads: tuple[str, ...]) -> str:
    """Names to the left, numbers to the right, as they were written."""
    return tabulate(rows, heads, colalign=("left", *("right" for _ in heads[1:])), disable_numparse=True)


def _left(item: Fit) -> str:
    return f"{item.kv_cache_gib:.2f}" if item.missing_gib is None else f"{item.missing_gib:.2f} missing"


if __name__ == "__main__":
    sys.exit(main())
