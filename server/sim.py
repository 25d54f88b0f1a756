"""A simulated vLLM server: `python -m server.sim --help`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from server.simulator.answer import FORMS
from server.simulator.app import build_app
from server.simulator.faults import KINDS, Faults, read_fault
from server.simulator.profile import load_profile, profile_names
from server.simulator.service import Service, Settings
from server.simulator.startlog import copy_to, say, start_lines, uvicorn_log_config

PR_SET_PDEATHSIG = 1
EXAMPLES = """\
examples:
  a bf16 server as on the seed's card, on port 8001
      python -m server.sim --profile rtx-6000-ada --precision bf16 --port 8001
  an fp8 server on a port of the system's choice, told in a file once it serves
      python -m server.sim --profile h100 --precision fp8 --port 0 --port-file fp8.port
  every tenth answer torn, and the GPU half as fast after a minute
      python -m server.sim --fault truncate:10 --fault throttle:2:60

faults:
"""


def parser() -> argparse.ArgumentParser:
    faults = "\n".join(f"  {text}" for text in KINDS.values())
    p = argparse.ArgumentParser(
        prog="python -m server.sim",
        description="A simulated vLLM server: real sockets, vLLM's wire forms, modelled time. No GPU, no model.",
        epilog=EXAMPLES + faults,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--profile", choices=profile_names(), default="rtx-6000-ada", help="the card (default: %(default)s)")
    p.add_argument("--precision", choices=("bf16", "fp8"), default="bf16", help="(default: %(default)s)")
    p.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    p.add_argument("--port", type=int, default=8000, help="0: the system chooses (default: %(default)s)")
    p.add_argument("--port-file", type=Path, metavar="FILE", help="the port is written here once the server serves")
    p.add_argument("--log-file", type=Path, metavar="FILE", help="append the log to this file too")
    p.add_argument("--seed", type=int, default=0, help="of timing noise and answers (default: %(default)s)")
    p.add_argument("--model", metavar="NAME", help="served model name (default: the profile's)")
    p.add_argument("--gpu-memory-utilization", type=float, metavar="SHARE", help="(default: the profile's)")
    p.add_argument("--max-model-len", type=int, default=4096, metavar="TOKENS", help="(default: %(default)s)")
    p.add_argument(
        "--start-seconds", type=float, default=1.5, metavar="S", help="length of the start-up (default: %(default)s)"
    )
    p.add_argument(
        "--time-scale", type=float, default=1.0, metavar="X", help="0.1: ten times as fast (default: %(default)s)"
    )
    p.add_argument(
        "--api-key",
        metavar="KEY",
        help="asked for under /v1 (default: $VLLM_API_KEY)",
        default=os.environ.get("VLLM_API_KEY"),
    )
    p.add_argument("--no-enable-prefix-caching", action="store_true")
    p.add_argument(
        "--mm-processor-cache-gb", type=float, default=4.0, metavar="GIB", help="0: off (default: %(default)s)"
    )
    p.add_argument("--enable-prompt-tokens-details", action="store_true", help="usage tells cached tokens")
    p.add_argument(
        "--answer-form",
        choices=FORMS,
        default="unit",
        help="[x, y, x, y] in 0..1, or the 0..1000 grid (default: %(default)s)",
    )
    p.add_argument("--fault", action="append", default=[], metavar="KIND[:ARG…]", help="may be repeated; see below")
    p.add_argument(
        "--die-with-parent", action="store_true", help="end when the process that started this one ends (Linux)"
    )
    return p


def read_settings(p: argparse.ArgumentParser, args: argparse.Namespace) -> Settings:
    try:
        faults = Faults(tuple(read_fault(text) for text in args.fault))
    except ValueError as error:
        p.error(str(error))
    profile = load_profile(args.profile, args.precision)
    utilization = profile.card.utilization if args.gpu_memory_utilization is None else args.gpu_memory_utilization
    if not 0 < utilization <= 1:
        p.error("--gpu-memory-utilization: a share above 0 and up to 1 is needed")
    if args.time_scale <= 0 or args.start_seconds < 0:
        p.error("--time-scale must be above 0, --start-seconds not below 0")
    if profile.kv_blocks(utilization) * profile.model.block_size < args.max_model_len:
        p.error(
            f"no room: at utilization {utilization} the KV cache does not hold one request of {args.max_model_len} tokens; raise it"
        )
    return Settings(
        profile=profile,
        served=args.model or profile.model.name,
        seed=args.seed,
        utilization=utilization,
        max_model_len=args.max_model_len,
        time_scale=args.time_scale,
        api_key=args.api_key,
        prefix_caching=not args.no_enable_prefix_caching,
        processor_cache_gb=args.mm_processor_cache_gb,
        prompt_details=args.enable_prompt_tokens_details,
        answer_form=args.answer_form,
        faults=faults,
    )


class Server(uvicorn.Server):
    """Writes the port file at the moment at which connections are answered."""

    def __init__(self, config: uvicorn.Config, port: int, port_file: Path | None) -> None:
        super().__init__(config)
        self._port = port
        self._port_file = port_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._port_file is not None:
            aside = self._port_file.with_name(self._port_file.name + ".part")
            aside.write_text(f"{self._port}\n")
            aside.replace(self._port_file)


async def serve(settings: Settings, sock: socket.socket, args: argparse.Namespace) -> None:
    slow = settings.faults.get("slow-start")
    seconds = args.start_seconds + (slow.arguments[0] if slow else 0)
    passed = 0.0
    lines = start_lines(
        settings.profile, settings.utilization, args.max_model_len, settings.served, settings.prefix_caching
    )
    for share, line in lines:
        await asyncio.sleep((share - passed) * seconds)
        passed = share
        say(*line)
    await asyncio.sleep((1 - passed) * seconds)
    port = sock.getsockname()[1]
    say("APIServer", "api_server.py:602", f"Starting vLLM server on http://{args.host}:{port}")
    config = uvicorn.Config(
        build_app(Service(settings)),
        log_config=uvicorn_log_config(),
        headers=[("x-halfweight-simulated", settings.profile.name)],
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        ws="none",
        backlog=4096,
    )
    await Server(config, port, args.port_file).serve(sockets=[sock])


def die_with_parent() -> None:
    parent = int(
        os.environ.get("HALFWEIGHT_PARENT") or os.getppid()
    )  # the parent may have gone while this module was imported
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    settings = read_settings(p, args)
    if args.die_with_parent:
        die_with_parent()
    if args.log_file is not None:
        try:
            copy_to(args.log_file)
        except OSError as error:
            p.error(f"--log-file {args.log_file}: {error.strerror}")
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((args.host, args.port))
    except OSError as error:
        p.error(f"cannot listen on {args.host}:{args.port}: {error.strerror}; choose another --port, or 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(settings, sock, args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
