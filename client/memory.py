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
from client.core.kernel import capability_of, fp8_name
from client.core.memory import breakdown, memory_of, story
from client.core.model_config import MAX_BYTES, ModelConfig, read_model_config
from client.errors import HalfweightError, UsageError
from client.logfile import read_facts, read_text

MAX_PAGE = 64 << 20
REQUEST_TOKENS = 1068
"""A 1024x759 picture (999 tokens), the question about it and a box as answer: see docs/memory.md."""

EXAMPLES = """\
examples:
  docker logs vllm > vllm.log 2>&1; python -m client.memory --server-log vllm.log --gpu-gib 47.5
  docker logs vllm 2>&1 | python -m client.memory --server-log - --json
  curl -s localhost:8000/metrics > page.txt; python -m client.memory --metrics page.txt --config config.json --gpu-gib 47.5
  python -m client.memory --server-log fp8.log --baseline-log bf16.log --gpu-gib 79.18     what fp8 did with the memory it saved
  python -m client.memory --config config.json --gpu-gib 24 --utilization 0.9              will it fit, and how many requests

--gpu-gib is what torch sees: the total of nvidia-smi less what the driver reserves (48 GB RTX 6000 Ada: about 47.5).
exit codes: 0 told, 2 an argument or a file cannot be used
"""


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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client.memory",
        description="Where did the GPU memory of a vLLM server go? Reads a start-up log (vLLM 0.6 to 0.33), a /metrics page, a model's config.json.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--server-log", metavar="FILE", help="the server's log; '-' reads standard input")
    parser.add_argument("--metrics", metavar="FILE", help="a saved /metrics page")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the model's config.json (Qwen2-VL or Qwen2.5-VL): adds exact arithmetic and an estimate",
    )
    parser.add_argument(
        "--baseline-log",
        metavar="FILE",
        help="log of the server to compare with, on the same GPU: explains the difference",
    )
    parser.add_argument("--gpu-gib", type=float, metavar="GIB", help="GPU memory that torch sees")
    parser.add_argument("--gpu-name", metavar="NAME", help="name of the GPU, for the sentences")
    parser.add_argument(
        "--capability",
        metavar="X.Y",
        help="compute capability of the GPU (RTX 6000 Ada: 8.9), checked against the log's kernel",
    )
    parser.add_argument(
        "--request-tokens",
        type=float,
        default=REQUEST_TOKENS,
        metavar="N",
        help=f"tokens of one request with its answer (default: {REQUEST_TOKENS}, the default photo)",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        metavar="U",
        help="for the estimate: --gpu-memory-utilization (default: the server's, else 0.9)",
    )
    parser.add_argument(
        "--overhead-gib",
        type=float,
        metavar="GIB",
        help=f"for the estimate: activations, graphs, context (default: the server's, else {OVERHEAD_GIB:g})",
    )
    parser.add_argument(
        "--kv-cache-dtype", default="auto", metavar="TYPE", help="for the estimate: auto or fp8 (default: auto)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def run(arguments: argparse.Namespace) -> str:
    """The whole answer as text. Raises UsageError for whatever cannot be read or meant."""
    _check(arguments)
    facts = read_facts(arguments.server_log) if arguments.server_log else TargetFacts()
    labels = _labels(arguments.metrics) if arguments.metrics else None
    config = read_model_config(read_text(arguments.config, MAX_BYTES), arguments.config) if arguments.config else None
    total = round(arguments.gpu_gib * GIB) if arguments.gpu_gib else None
    shared: dict[str, Any] = {
        "config": config,
        "gpu_total_bytes": total,
        "mean_request_tokens": arguments.request_tokens,
        "capability": arguments.capability,
        "total_source": "--gpu-gib",
    }
    memory, kernel = memory_of(facts, cache_config=labels, **shared)
    sentences: tuple[str, ...] = ()
    if arguments.baseline_log:
        base = read_facts(arguments.baseline_log)
        base_memory, _ = memory_of(base, **shared)
        names = _names(base, facts)
        sentences = story(names[0], base_memory, names[1], memory, arguments.gpu_name)
    fits = _fits(arguments, config, memory) if config else ()
    if arguments.json:
        told = {
            "facts": facts,
            "memory": memory,
            "kernel": kernel,
            "story": sentences,
            "estimate": _estimate_json(config, fits),
        }
        return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()
    blocks = (
        [_server_block(facts, memory, kernel, arguments.request_tokens)]
        if arguments.server_log or arguments.metrics
        else []
    )
    if sentences:
        blocks.append("What became of the difference\n" + "\n".join(f"  - {sentence}" for sentence in sentences))
    if config:
        blocks.append(_estimate_block(arguments, config, fits))
    return "\n\n".join(blocks)


def _check(arguments: argparse.Namespace) -> None:
    if not (arguments.server_log or arguments.metrics or arguments.config):
        raise UsageError("Nothing to read: give --server-log, --metrics or --config.", "See --help for examples.")
    if arguments.baseline_log and not arguments.server_log:
        raise UsageError(
            "--baseline-log needs --server-log: a difference has two sides.", "Give the other server's log too."
        )
    if arguments.server_log == "-" and arguments.baseline_log == "-":
        raise UsageError("Standard input can be only one of the two logs.", "Save the other to a file.")
    for name, value, most in (
        ("--gpu-gib", arguments.gpu_gib, 1e5),
        ("--request-tokens", arguments.request_tokens, 1e9),
        ("--utilization", arguments.utilization, 1.0),
    ):
        if value is not None and not 0 < value <= most:
            raise UsageError(f"{name} {value:g} is not a number above 0 and up to {most:g}.", "")
    if arguments.overhead_gib is not None and not 0 <= arguments.overhead_gib <= 1e5:
        raise UsageError(f"--overhead-gib {arguments.overhead_gib:g} is not a number of GiB.", "")
    if arguments.capability is not None and capability_of(arguments.capability) is None:
        raise UsageError(
            f"--capability {arguments.capability!r} is no compute capability.",
            "Write it like 8.9 (nvidia-smi --query-gpu=compute_cap).",
        )
    if arguments.kv_cache_dtype != "auto" and not arguments.kv_cache_dtype.startswith("fp8"):
        raise UsageError(f"--kv-cache-dtype {arguments.kv_cache_dtype!r} is not known here.", "Use auto or fp8.")


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


def _fits(arguments: argparse.Namespace, config: ModelConfig, memory: Memory) -> tuple[Fit, ...]:
    """bf16, fp8, and fp8 with the vision tower left in bf16; empty when no card is known."""
    total = arguments.gpu_gib or memory.total_gib
    if total is None or config.quantized is not None:
        return ()
    overhead = arguments.overhead_gib
    if overhead is None:
        overhead = OVERHEAD_GIB
        if memory.budget_gib is not None and memory.weights_gib is not None and memory.kv_cache_gib is not None:
            overhead = max(0.0, memory.budget_gib - memory.weights_gib - memory.kv_cache_gib)
    kinds = [("bf16", True), ("fp8", True)] + ([("fp8", False)] if config.vision else [])
    return tuple(
        fit(
            config,
            total_gib=total,
            utilization=arguments.utilization or memory.utilization or 0.9,
            request_tokens=arguments.request_tokens,
            precision=precision,
            vision_in_fp8=vision,
            cache_dtype=arguments.kv_cache_dtype,
            overhead_gib=overhead,
        )
        for precision, vision in kinds
    )


def _estimate_json(config: ModelConfig | None, fits: Sequence[Fit]) -> dict[str, Any] | None:
    if config is None:
        return None
    return {
        "parameters": parameters(config),
        "weight_bytes": {
            "bf16": weight_bytes(config),
            "fp8": weight_bytes(config, "fp8"),
            "fp8, vision tower in bf16": weight_bytes(config, "fp8", vision_in_fp8=False),
        },
        "kv_bytes_per_token": {"auto": kv_bytes_per_token(config), "fp8": kv_bytes_per_token(config, "fp8")},
        "fits": dict(zip(("bf16", "fp8", "fp8, vision tower in bf16"), fits, strict=False)),
    }


def _server_block(facts: TargetFacts, memory: Memory, kernel: Kernel, request_tokens: float) -> str:
    what = [
        f"vLLM {facts.version}" if facts.version else "vLLM, version unknown",
        facts.model or "",
        f"quantization {facts.quantization}" if facts.quantization else "",
    ]
    lines = [", ".join(item for item in what if item)]
    if memory.utilization is not None:
        of = f" of {memory.total_gib:.2f} GiB" if memory.total_gib is not None else ""
        lines.append(f"--gpu-memory-utilization {memory.utilization:g}{of}")
    lines += ["", _parts_table(memory), "", _details(facts, memory, kernel, request_tokens)]
    notes = list(memory.notes)
    if memory.budget_gib is None and facts.device != "cpu":
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
        rows.append(("requests at once", f"{math.floor(memory.requests_at_once):,} of {request_tokens:,.0f} tokens"))
    if facts.max_concurrency is not None and facts.max_model_len is not None:
        rows.append(("", f"{facts.max_concurrency:,.2f} of {facts.max_model_len:,} tokens, the longest allowed (log)"))
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


def _estimate_block(arguments: argparse.Namespace, config: ModelConfig, fits: Sequence[Fit]) -> str:
    if config.quantized is not None:
        return f"{arguments.config} is of a checkpoint that is quantised already ({config.quantized}): its weights are not estimated."
    lines = ["Estimate from the model's config.json", ""]
    table: list[tuple[str, ...]] = [
        (part.name, f"{part.parameters:,}", f"{part.bytes_as('bf16'):,}", f"{part.bytes_as('fp8'):,}")
        for part in parts(config)
    ]
    totals = [parameters(config), weight_bytes(config), weight_bytes(config, "fp8")]
    table.append(("total", *(f"{total:,}" for total in totals)))
    table.append(("in GiB", "", *(f"{total / GIB:.2f}" for total in totals[1:])))
    lines.append(
        tabulate(
            table,
            ("part", "parameters", "bf16 bytes", "online fp8 bytes"),
            colalign=("left", "right", "right", "right"),
            disable_numparse=True,
        )
    )
    lines += [
        "",
        f"KV cache: {kv_bytes_per_token(config):,} bytes for each token, {kv_bytes_per_token(config, 'fp8'):,} with --kv-cache-dtype fp8",
    ]
    if not fits:
        return "\n".join([*lines, "Give --gpu-gib to see what fits on a card."])
    first = fits[0]
    lines += [
        "",
        f"Budget {first.budget_gib:.2f} GiB, {first.overhead_gib:.2f} GiB of it for activations, graphs and context",
    ]
    kinds = ("bf16", f"fp8 (--quantization {fp8_name('', 'cuda')})", "fp8, vision tower in bf16")
    found = [
        (kind, f"{item.weights_gib:.2f}", _left(item), f"{item.kv_cache_tokens:,}", f"{item.requests:,}")
        for kind, item in zip(kinds, fits, strict=False)
    ]
    heads = ("weights as", "GiB", "KV cache GiB", "tokens", f"requests of {arguments.request_tokens:,.0f}")
    return "\n".join(
        [
            *lines,
            "",
            tabulate(found, heads, colalign=("left", "right", "right", "right", "right"), disable_numparse=True),
        ]
    )


def _left(item: Fit) -> str:
    return f"{item.kv_cache_gib:.2f}" if item.missing_gib is None else f"{item.missing_gib:.2f} missing"


if __name__ == "__main__":
    sys.exit(main())
