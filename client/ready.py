"""`python -m client.ready`: says before anything is started why a comparison cannot work here. Exit code 0: nothing speaks against it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from client import hostcheck
from client.core.kernel import fp8_name
from client.core.readiness import HostFacts, Refusal, Wish, refusals
from client.errors import HalfweightError, UsageError

EXAMPLES = """\
Reads the variables of .env.example from the environment.
  python -m client.ready                       this host: engine, NVIDIA runtime, GPU, ports, disk, model
  python -m client.ready --isolate             the same for one server at a time
  python -m client.ready --fp8-name 0.31.0     only print the --quantization value of that vLLM version

exit codes: 0 ready, 2 refused, with the reason and the fix for each
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m client.ready", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    p.add_argument("--isolate", action="store_true", help="one server at a time")
    p.add_argument("--cdi", action="store_true", help="GPUs by CDI instead of the NVIDIA runtime")
    p.add_argument(
        "--fp8-name", metavar="VERSION", help="print the --quantization value for this vLLM version, and leave"
    )
    p.add_argument(
        "--gpu-from", metavar="URL", help="inside Compose: read the GPU from this NVML sidecar; the engine is not asked"
    )
    p.add_argument("--servers", nargs="*", default=[], metavar="URL", help="servers that may be up already")
    p.add_argument("--weights", metavar="DIR", help="where the model hub's cache lies")
    p.add_argument("--results", metavar="DIR", help="where runs are written, as the user of the client")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        if arguments.fp8_name is not None:
            print(fp8_name(arguments.fp8_name, "cuda"))
            return 0
        wish = wish_of(arguments, os.environ)
        host = gather(arguments, os.environ, wish)
    except HalfweightError as error:
        print(f"halfweight: {error}", file=sys.stderr)
        return error.exit_code
    found = refusals(wish, host)
    print("\n".join(told(wish, host, found)))
    return 2 if any(refusal.fatal for refusal in found) else 0


def wish_of(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Wish:
    version = environment.get("VLLM_VERSION") or "0.20.2"
    alone = "0.90" if arguments.isolate else "0.45"
    return Wish(
        model=environment.get("MODEL") or "kulsoom-abdullah/qwen2-7b-nutrition-labels-detection",
        vllm_version=version,
        quantization=environment.get("FP8_QUANTIZATION") or "fp8",
        utilization=_number("GPU_MEMORY_UTILIZATION", environment.get("GPU_MEMORY_UTILIZATION") or alone),
        max_model_len=int(_number("MAX_MODEL_LEN", environment.get("MAX_MODEL_LEN") or "4096")),
        isolate=arguments.isolate,
        cdi=arguments.cdi,
    )


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name}={text} is no number.", "Correct it in .env.") from None


def gather(arguments: argparse.Namespace, environment: Mapping[str, str], wish: Wish) -> HostFacts:
    host = HostFacts()
    cache = Path(arguments.weights) if arguments.weights else None
    if arguments.gpu_from:
        host = hostcheck.sidecar_facts(host, arguments.gpu_from)
        host = msgspec.structs.replace(host, serving=hostcheck.serving(arguments.servers))
        if cache is not None:
            host = msgspec.structs.replace(host, disk_free_gib=hostcheck.free_gib(cache))
    else:
        ports = tuple(
            int(_number(name, environment.get(name) or usual))
            for name, usual in (("BF16_PORT", "8000"), ("FP8_PORT", "8001"), ("SIDECAR_PORT", "9401"))
        )
        host = hostcheck.gpu_facts(host, environment.get("GPU") or "0")
        host = hostcheck.engine_facts(host, ports, environment.get("COMPOSE_PROJECT_NAME") or "halfweight")
    if arguments.results:
        host = hostcheck.results_facts(host, Path(arguments.results))
    endpoint = (environment.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    return hostcheck.hub_facts(host, wish.model, environment.get("HF_TOKEN") or None, endpoint, cache)


def told(wish: Wish, host: HostFacts, found: tuple[Refusal, ...]) -> list[str]:
    lines = [f"  {text}" for text in known(host)]
    for refusal in found:
        lines += [f"{'REFUSED' if refusal.fatal else 'note'}: {refusal.fact}", f"    {refusal.hint}"]
    if not any(refusal.fatal for refusal in found):
        way = "one server at a time" if wish.isolate else "the pair on one GPU"
        lines.append(f"Nothing speaks against {way}: vLLM {wish.vllm_version}, {wish.model}.")
    return lines


def known(host: HostFacts) -> list[str]:
    """What was found, one line each, so that a person sees what the judgement rests on."""
    lines = []
    if host.engine:
        runtime = {True: "with", False: "without", None: "unknown"}[host.nvidia_runtime]
        lines.append(f"Docker Engine {host.engine} ({runtime} NVIDIA runtime), Compose {host.compose or 'not found'}")
    for gpu in host.gpus or ():
        total = "unknown memory" if gpu.total_gib is None else f"{gpu.total_gib:.1f} GiB"
        free = "" if gpu.free_gib is None else f", {gpu.free_gib:.1f} free"
        driver = f", driver {host.driver}" if host.driver else ""
        lines.append(f"{gpu.name}: {total}{free}, compute capability {gpu.capability or 'unknown'}{driver}")
    if host.disk_free_gib is not None:
        lines.append(f"{host.disk_free_gib:.0f} GiB of disk free where Docker keeps volumes")
    if host.weights_here:
        lines.append("the weights are here already")
    elif host.weights_gib is not None:
        lines.append(f"the weights are {host.weights_gib:.1f} GiB")
    elif host.model_status is None:
        lines.append("the model hub was not reached: size and access of the model are unknown")
    return lines


if __name__ == "__main__":
    sys.exit(main())
