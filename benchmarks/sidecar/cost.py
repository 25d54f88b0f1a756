"""What the sidecar costs: CPU of its own process, in per cent of one core, with a scripted NVML or (--real) the one of this host.

    python benchmarks/sidecar/cost.py [--real] [--seconds 20]

Start-up (imports, NVML's own start) is measured apart and taken off: each case runs once short and once long, and the difference counts.
A client pulls /samples twice a second meanwhile, as in a run.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CHILD = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from server.nvml_sidecar import main
if {real}:
    nvml = None
else:
    from scripted_nvml import ScriptedNvml, gpu
    class Uncounted(list):
        def append(self, _): pass
    nvml = ScriptedNvml(*[gpu(n) for n in range({gpus})])
    nvml.calls = Uncounted()
sys.exit(main(sys.argv[1:], nvml))
"""
SHORT_S = 2.0


def pull(url: str, stop: threading.Event) -> None:
    while not stop.wait(0.5):
        try:
            urllib.request.urlopen(f"{url}/samples?since={time.monotonic_ns() - 2_500_000_000}", timeout=5).read()
        except OSError:
            return  # the sidecar has ended


def cpu_s(seconds: float, real: bool, gpus: int, argv: list[str]) -> float:
    """CPU time of a sidecar that ran for `seconds`."""
    code = CHILD.format(root=str(ROOT), tests=str(ROOT / "tests" / "rooms"), real=real, gpus=gpus)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(
        [sys.executable, "-c", code, "--port", "0", "--out", os.devnull, "--duration", str(seconds), *argv],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = child.stderr.readline()
    stop = threading.Event()
    puller = threading.Thread(target=pull, args=(said.split()[-1], stop))
    puller.start()
    rest = child.stderr.read()
    code_out = child.wait()
    stop.set()
    puller.join()
    if code_out != 0:
        raise SystemExit(f"the sidecar ended with {code_out}: {said}{rest}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="this host's NVML instead of a scripted one")
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    cases: list[tuple[str, int, list[str]]] = [
        ("1 GPU, 10 Hz", 1, []),
        ("1 GPU, 10 Hz, memory 50 Hz", 1, ["--memory-rate", "50"]),
        ("1 GPU, 10 Hz, memory 100 Hz", 1, ["--memory-rate", "100"]),
    ]
    if not args.real:
        cases.append(("8 GPUs, 10 Hz", 8, []))
    print(f"{'case':32} {'CPU, % of a core':>18}")
    for name, gpus, argv in cases:
        short = cpu_s(SHORT_S, args.real, gpus, argv)
        long = cpu_s(SHORT_S + args.seconds, args.real, gpus, argv)
        print(f"{name:32} {100 * (long - short) / args.seconds:18.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
