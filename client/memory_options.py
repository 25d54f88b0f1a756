"""The command line of `python -m client.memory`: flags, help and what may not be asked."""

from __future__ import annotations

import argparse

from client.core.estimate import OVERHEAD_GIB
from client.core.kernel import capability_of
from client.errors import UsageError

REQUEST_TOKENS = 1068
"""A 1024x759 picture (999 tokens), the question about it and a box as answer: see docs/memory.md."""

EXAMPLES = """\
examples:
  docker logs vllm > vllm.log 2>&1; python -m client.memory --server-log vllm.log --gpu-gib 47.5
  docker logs vllm 2>&1 | python -m client.memory --server-log - --json
  curl -s localhost:8000/metrics > page.txt; python -m client.memory --metrics page.txt --config config.json --gpu-gib 47.5
  python -m client.memory --server-log fp8.log --baseline-log bf16.log --gpu-gib 79.18     what fp8 did with the memory it saved
  python -m client.memory --config config.json --gpu-gib 24 --utilization 0.9              will it fit, and how many requests

--gpu-gib is what torch sees: the total of nvidia-smi less what the driver reserves (RTX 6000 Ada, sold as 48 GB: about 47.5).
exit codes: 0 told, 2 an argument or a file cannot be used
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client.memory",
        description="Where did the GPU memory of a vLLM server go? Reads a start-up log (vLLM 0.6 to 0.33), a /metrics page, a model's config.json.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _what(parser)
    _numbers(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _what(parser: argparse.ArgumentParser) -> None:
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


def _numbers(parser: argparse.ArgumentParser) -> None:
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
        help="for the estimate: --gpu-memory-utilization (default: the server's, else its version's: 0.92, before 0.20 0.9)",
    )
    parser.add_argument(
        "--overhead-gib",
        type=float,
        metavar="GIB",
        help=f"for the estimate: activations, graphs, context (default: the server's, else {OVERHEAD_GIB:g})",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="for the estimate: what is not quantised (default: the server's, else 16 bits)",
    )
    parser.add_argument(
        "--kv-cache-dtype", default="auto", metavar="TYPE", help="for the estimate: auto or fp8 (default: auto)"
    )


def check(arguments: argparse.Namespace) -> None:
    """What argparse cannot see: flags that need one another, and numbers that mean nothing. Raises UsageError."""
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
