"""The command line of `python -m client.bench`: flags and help. What they mean together is decided in `client.config`."""

from __future__ import annotations

import argparse
from typing import NoReturn

from client.core.effect_size import HELP
from client.core.plan import DEFAULT_PROMPT
from client.errors import EXIT_CODES

DEFAULT_LOGPROBS = 5
EXAMPLES = """\
examples:
  scripts/bench                                     the simulated pair: no GPU, no server, about a minute
  scripts/bench --simulate h100 --requests 60       another simulated card
  scripts/bench --simulate h100 --repeat-image      the misleading way: one picture again and again
  python -m client.bench                            bf16 and fp8 of server/targets.toml, compared
  python -m client.bench --target fp8               one target alone
  python -m client.bench --images photos/ --concurrency 16 --requests 200
  python -m client.bench --images truth.jsonl       pictures with known boxes: accuracy too
  python -m client.bench --target fp8 --url https://POD-8000.proxy.runpod.net --api-key-env RUNPOD_KEY
  python -m client.bench --rate 8 --arrival poisson --duration 120 --slo ttft=500ms --slo e2e=2s
  python -m client.bench --fail-if "fp8.e2e_p50 > bf16.e2e_p50 * 0.9"

exit codes:
""" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())


class OneLineParser(argparse.ArgumentParser):
    """A wrong flag is one line with the next step, as every other bad input is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"halfweight: {message}. See {self.prog} --help.\n")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m client.bench",
        description="Shall I serve this model in FP8 instead of bf16? Measures named targets, compares them, and writes a report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _target_flags(parser.add_argument_group("targets"))
    _workload_flags(parser.add_argument_group("requests"))
    _load_flags(parser.add_argument_group("load"))
    _verdict_flags(parser.add_argument_group("verdict"))
    _output_flags(parser.add_argument_group("output"))
    return parser


def _target_flags(group: argparse._ArgumentGroup) -> None:
    per = "may be given as NAME=VALUE, once for each target"
    group.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="a target of targets.toml; several or none: compare (default: bf16 and fp8)",
    )
    group.add_argument("--targets", metavar="FILE", help="another targets.toml")
    group.add_argument(
        "--simulate",
        metavar="PROFILE",
        help="measure a simulated pair instead: rtx-6000-ada or h100; every number is marked SIMULATED",
    )
    group.add_argument(
        "--url", action="append", default=[], metavar="[NAME=]URL", help=f"base URL, with or without /v1; {per}"
    )
    group.add_argument("--model", action="append", default=[], metavar="[NAME=]MODEL", help=f"served model name; {per}")
    group.add_argument(
        "--precision", action="append", default=[], metavar="[NAME=]PRECISION", help="what its weights are served in"
    )
    group.add_argument(
        "--served-image", action="append", default=[], metavar="[NAME=]IMAGE", help="container image, for the report"
    )
    group.add_argument(
        "--engine-args",
        action="append",
        default=[],
        metavar="[NAME=]ARGUMENTS",
        help="engine arguments, for the report and the check that both arms differ in the precision alone",
    )
    group.add_argument(
        "--api-key-env",
        action="append",
        default=[],
        metavar="[NAME=]VARIABLE",
        help="environment variable that holds the API key",
    )
    group.add_argument(
        "--api-key-file", action="append", default=[], metavar="[NAME=]FILE", help="file that holds the API key alone"
    )
    group.add_argument(
        "--price", action="append", default=[], metavar="[NAME=]USD", help="price of the machine in USD per hour"
    )
    group.add_argument(
        "--server-log",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="start-up log of that server, for memory and kernel facts",
    )
    group.add_argument("--model-config", metavar="FILE", help="the model's config.json, for memory arithmetic")
    group.add_argument(
        "--sidecar",
        action="append",
        default=[],
        metavar="[NAME=]URL",
        help="NVML sidecar on the server's host; 'none' to do without",
    )
    group.add_argument(
        "--ca-file", metavar="FILE", help="certificate authority for https:// targets with a private certificate"
    )
    group.add_argument(
        "--docker",
        choices=["auto", "off"],
        default="auto",
        help="auto: where a target is a container of this host, keep its log, time its start, and notice its end (default: auto)",
    )
    group.add_argument(
        "--isolate",
        action="store_true",
        help="start, measure and stop the servers' containers one at a time, in the order A, B, A; needs the Docker socket",
    )
    group.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait this long for targets to become healthy (default: 0)",
    )


def _workload_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--images",
        default="synthetic",
        metavar="SOURCE",
        help="synthetic, a folder, one picture, a JSONL manifest with boxes, or Parquet files of "
        "openfoodfacts/nutrition-table-detection (default: synthetic)",
    )
    group.add_argument(
        "--allow-outside", action="store_true", help="let a manifest name pictures outside its own folder"
    )
    group.add_argument(
        "--image-size", default="1024x759", metavar="WxH", help="size of synthetic pictures (default: 1024x759)"
    )
    group.add_argument(
        "--max-side",
        type=int,
        default=1024,
        metavar="PIXELS",
        help="longer pictures are made smaller before the clock runs (default: 1024)",
    )
    group.add_argument(
        "--repeat-image",
        action="store_true",
        help="send one picture again and again: measures the server's caches, and the report says so",
    )
    group.add_argument("--prompt", default=DEFAULT_PROMPT, help="the question put to the model")
    group.add_argument("--system-prompt", metavar="TEXT", help="a system prompt (default: none)")
    group.add_argument("--max-tokens", type=int, default=64, metavar="N", help="longest answer in tokens (default: 64)")
    group.add_argument("--ignore-eos", action="store_true", help="make every answer exactly --max-tokens long")
    group.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    group.add_argument("--seed", type=int, default=0, help="seed of pictures, arrivals and resampling (default: 0)")
    group.add_argument(
        "--box-frame",
        default="auto",
        choices=["auto", "unit", "grid1000", "pixels", "resized-pixels"],
        help="coordinates in which the model answers (default: auto, decided once for the run)",
    )


def _load_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help="measured requests for each target (default: 30; one server at a time 60)",
    )
    group.add_argument("--duration", type=float, metavar="SECONDS", help="measure for this long instead of --requests")
    group.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="requests before measuring, with other pictures (default: 20, or two for each one in flight)",
    )
    group.add_argument("--concurrency", type=int, metavar="N", help="closed loop: requests in flight (default: 1)")
    group.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="open loop: requests per second, sent whether or not earlier ones have ended",
    )
    group.add_argument(
        "--arrival",
        choices=["constant", "poisson", "gamma"],
        help="open loop: spacing of requests (default: poisson)",
    )
    group.add_argument(
        "--burstiness",
        type=float,
        metavar="B",
        help="gamma arrivals: 1 is Poisson, smaller is burstier (default: 1)",
    )
    group.add_argument(
        "--rate-end",
        type=float,
        metavar="R",
        help="ramp: the rate runs in a straight line from --rate to this one, in each block; 4 blocks share --duration or --requests",
    )
    group.add_argument(
        "--sweep",
        metavar="KNOB=A,B,…",
        help="measure at several loads in turn, for example concurrency=1,4,16,64 or rate=1,2,4",
    )
    group.add_argument(
        "--replay",
        metavar="RUN_DIR",
        help="open loop: send at the intended times of a saved run; --requests or --duration send its beginning",
    )
    group.add_argument(
        "--retry-safe",
        type=int,
        default=0,
        metavar="N",
        help="try again up to N times when a server certainly took nothing; each try is a record (default: 0)",
    )
    group.add_argument(
        "--max-in-flight",
        type=int,
        metavar="N",
        help="open loop: hold requests back above this many; held ones are reported",
    )
    group.add_argument(
        "--timeout",
        action="append",
        default=[],
        metavar="STAGE=SECONDS",
        help="give a request up: connect (default 10), write (60), first-byte (300), idle (120), total (600)",
    )
    group.add_argument("--workers", default="1", metavar="N|auto", help="load-generating processes (default: 1)")
    group.add_argument(
        "--design",
        choices=["interleaved", "serial"],
        help="interleaved: ABBA blocks on a live pair; serial: A, B, A (default: interleaved)",
    )


def _verdict_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--primary",
        default="e2e_p50",
        metavar="METRIC",
        help="the metric that decides, named before the run (default: e2e_p50)",
    )
    group.add_argument("--min-effect", default="3%", metavar="SHARE", help=HELP.format(default="3%%"))
    group.add_argument(
        "--iou-margin",
        type=float,
        default=0.01,
        metavar="IOU",
        help="loss of mean IoU that would be tolerable (default: 0.01)",
    )
    group.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="METRIC=LIMIT",
        help="objective for goodput, for example ttft=500ms or e2e=2s",
    )
    group.add_argument(
        "--quality",
        type=int,
        default=0,
        metavar="N",
        help="after the load, ask N more pictures for accuracy alone: twice one at a time, then at the load (default: 0)",
    )
    group.add_argument(
        "--logprobs",
        type=int,
        nargs="?",
        const=DEFAULT_LOGPROBS,
        default=0,
        metavar="K",
        help="in the passes of --quality, never in timed requests, ask for the K likeliest tokens at each position and "
        f"compare them (default: off; {DEFAULT_LOGPROBS} without K; servers allow 20)",
    )
    group.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help='exit with code 5 when this holds, for example "fp8.e2e_p50 > bf16.e2e_p50 * 0.9"',
    )


def _output_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out", default="results", metavar="DIR", help="where run directories are made (default: results/)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress, only the verdict")
    group.add_argument("--preflight-only", action="store_true", help="ask each target who it is, send no load")
    group.add_argument("--version", action="version", version="halfweight 0.1.0")
