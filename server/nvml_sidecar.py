"""Watches the GPUs of this host through NVML: JSON lines to a file, and a small HTTP side for the client and for Prometheus."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import uvicorn

from server.gpu import replay
from server.gpu.about import About
from server.gpu.hub import Hub
from server.gpu.poller import Poller, Threads
from server.gpu.reader import Library, NoGpu
from server.gpu.web import energy_of, make_app, recorded_energy
from server.gpu.wire import Info, Sample, info_line, line, now

EXIT_USAGE, EXIT_NO_GPU, EXIT_FILE = 2, 3, 6
EXAMPLES = """examples:
  python -m server.nvml_sidecar                                  all GPUs at 10 Hz, http://127.0.0.1:9401
  python -m server.nvml_sidecar --gpu 0 --memory-rate 50 --out gpu.jsonl
  python -m server.nvml_sidecar --gpu GPU-8f2c… --gpu 1 --host 0.0.0.0
  python -m server.nvml_sidecar --once                           print what can be read here, and leave
  python -m server.nvml_sidecar --fake tests/golden/gpu/bf16.gpu.jsonl    no GPU: replay a recording, marked so

routes: /info /clock /samples?since=<mono_ns>[&limit=N] /energy /metrics /health
exit codes: 0 ended as asked, 2 usage, 3 no GPU can be read, 6 the file or the port cannot be opened, 130 interrupted
"""


def _rate(low: float, high: float) -> Any:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in {low:g}..{high:g} Hz")
        return value

    return parse


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m server.nvml_sidecar",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--rate",
        type=_rate(0.1, 20),
        default=10.0,
        metavar="HZ",
        help="full samples a second (default 10; NVML refreshes most fields at 10 Hz)",
    )
    p.add_argument(
        "--memory-rate",
        type=_rate(0.1, 100),
        default=None,
        metavar="HZ",
        help="memory-only samples in between, up to 100 Hz (default: as --rate)",
    )
    p.add_argument(
        "--gpu",
        action="append",
        metavar="WHICH",
        help="all, an index, or a UUID (MIG-… too); may be repeated (default all)",
    )
    p.add_argument(
        "--energy-every",
        type=float,
        default=None,
        metavar="S",
        help="also read the energy counter every S seconds (at least 1; default: only when /energy is asked)",
    )
    _add_ways_out(p)
    args = p.parse_args(argv)
    args.memory_rate = max(args.rate, args.memory_rate or args.rate)
    if args.energy_every is not None and args.energy_every < 1:
        p.error("--energy-every is at least 1 s: one read costs milliseconds of driver time")
    return args


def _add_ways_out(p: argparse.ArgumentParser) -> None:
    p.add_argument("--out", metavar="FILE", help="append every line to FILE; - is standard output")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    p.add_argument(
        "--port", type=int, default=9401, help="port to listen on; 0 takes a free one and prints it (default 9401)"
    )
    p.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    p.add_argument("--fake", metavar="FILE", help="replay a recording instead of reading a GPU; every line says so")
    p.add_argument("--once", action="store_true", help="print the info line and one sample of each GPU, and leave")


def binding() -> Any:
    """The NVML binding, loaded only when a GPU is really to be read."""
    import pynvml

    return pynvml


def open_out(name: str | None) -> BinaryIO | None:
    """Unbuffered: each line is one write, so that a kill tears at most the last one."""
    if name is None:
        return None
    if name == "-":
        return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab", buffering=0)


def listen(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


def serve(app: Any, sock: socket.socket, duration: float | None) -> None:
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))

    async def run() -> None:
        if duration is not None:
            asyncio.get_running_loop().call_later(duration, setattr, server, "should_exit", True)
        await server.serve(sockets=[sock])

    asyncio.run(run())


def once(library: Library, args: argparse.Namespace, out: BinaryIO) -> None:
    def show(sample: Sample) -> None:
        out.write(line(sample))

    pollers = [Poller(library, device, show) for device in library.devices(args.gpu or ("all",))]
    out.write(info_line(About(library, pollers, args.rate, args.memory_rate)()))
    for poller in pollers:
        poller.slow()
        poller.step()
        poller.energy()


def watch(args: argparse.Namespace, nvml: Any, out: BinaryIO | None, sock: socket.socket) -> None:
    """The real thing, until a signal or `--duration`."""
    library = Library(nvml)
    library.start()
    try:
        hub = Hub(out)
        pollers = [Poller(library, device, hub.emit) for device in library.devices(args.gpu or ("all",))]
        about = About(library, pollers, args.rate, args.memory_rate, lambda info: hub.note(info_line(info)))
        hub.note(info_line(about()))
        threads = Threads(args.rate, args.memory_rate, args.energy_every)
        threads.start(pollers)
        announce(about(), sock)
        try:
            serve(make_app(hub, about, energy_of(pollers)), sock, args.duration)
        finally:
            threads.stop()
    finally:
        library.stop()


def play(args: argparse.Namespace, recording: replay.Recording, out: BinaryIO | None, sock: socket.socket) -> None:
    hub = Hub(out)
    show = replay.Replay(recording, now())
    info = show.info(args.rate, args.memory_rate, socket.gethostname())
    hub.note(info_line(info))
    player = replay.Player(show, hub.emit)
    player.start()
    announce(info, sock)
    try:
        serve(make_app(hub, lambda: info, recorded_energy(hub)), sock, args.duration)
    finally:
        player.stop()


def announce(info: Info, sock: socket.socket) -> None:
    host, port = sock.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    what = ", ".join(f"{g.gpu}: {g.name or 'unnamed GPU'}" for g in info.gpus)
    kind = "REPLAYS A RECORDING (not this host's GPU)" if info.fake else "watches"
    print(f"nvml sidecar {kind} {what} on http://{host}:{port}", file=sys.stderr, flush=True)


def fail(code: int, text: str) -> int:
    print(f"nvml sidecar: {text}", file=sys.stderr)
    return code


NO_GPU_HINT = (
    "Run it on the host of the GPU (in a container: with the NVIDIA runtime and NVIDIA_DRIVER_CAPABILITIES=utility), "
    "or replay a recording with --fake FILE."
)


def main(argv: Sequence[str] | None = None, nvml: Any = None) -> int:
    args = parse(argv)
    try:
        recording = replay.read(Path(args.fake)) if args.fake else None
        if args.once:
            return show_once(args, nvml, recording)
        out, sock = open_out(args.out), listen(args.host, args.port)
        if recording is not None:
            play(args, recording, out, sock)
        else:
            watch(args, nvml or binding(), out, sock)
    except NoGpu as error:
        return fail(EXIT_NO_GPU, f"{error} {NO_GPU_HINT}")
    except replay.BadRecording as error:
        return fail(EXIT_USAGE, str(error))
    except OSError as error:
        return fail(EXIT_FILE, f"{error.filename or f'{args.host}:{args.port}'} cannot be opened: {error.strerror}.")
    except KeyboardInterrupt:
        return 130
    return 0


def show_once(args: argparse.Namespace, nvml: Any, recording: replay.Recording | None) -> int:
    out = sys.stdout.buffer
    if recording is not None:
        show = replay.Replay(recording, now())
        out.write(info_line(show.info(args.rate, args.memory_rate, socket.gethostname())) + line(show.at(0)))
        return 0
    library = Library(nvml or binding())
    library.start()
    try:
        once(library, args, out)
    finally:
        library.stop()
    return 0


def _end(*_: object) -> None:
    """`docker stop` is an end as asked for: NVML is shut down and the exit code is 0."""
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
