"""Makes run directories small enough to keep: `python benchmarks/proof/trim.py FROM TO [--hide PATH=NAME ...]`.

Left out: pages and pictures, raw answers of the quality pass, access and progress lines of the servers' logs, series of /metrics that are not
vLLM's. The reports are made again from what is left, so that they are what `python -m client.report` gives. Paths of the machine are hidden.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from client.report import write_reports  # noqa: E402  (the path comes first)

LEFT_OUT = shutil.ignore_patterns("report.html", "pictures", "answers.jsonl", "*.parquet", "*.csv")
NOISE = re.compile(rb"^(\(\w+ pid=\d+\) )?INFO:? .*(\"(GET|POST) /|loggers\.py:\d+\] Engine \d+: Avg)")
KEPT_SERIES = re.compile(rb"^(# (HELP|TYPE) )?(vllm:|process_start_time_seconds)")
BUCKET = re.compile(rb"^vllm:\w+_bucket\{")


def trimmed(path: Path, data: bytes, hidden: dict[bytes, bytes]) -> bytes:
    lines = data.split(b"\n")
    if path.name == "server.log":
        lines = [line for line in lines if not NOISE.match(line)]
    elif path.name.startswith("metrics-"):
        lines = [line for line in lines if KEPT_SERIES.match(line) and not BUCKET.match(line)]
    data = b"\n".join(lines)
    for path_bytes, name in hidden.items():
        data = data.replace(path_bytes, name)
    return data


def trim(run: Path, to: Path, hidden: dict[bytes, bytes]) -> int:
    """Copies one run directory and makes its reports again. Returns the bytes kept."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to, ignore=LEFT_OUT)
    for path in to.rglob("*"):
        if path.is_file() and path.suffix in (".log", ".txt", ".json", ".jsonl", ".md"):
            path.write_bytes(trimmed(path, path.read_bytes(), hidden))
    write_reports(to)
    (to / "report.html").unlink()
    shutil.rmtree(to / "pictures", ignore_errors=True)
    return sum(path.stat().st_size for path in to.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--hide", action="append", default=[], metavar="PATH=NAME")
    args = parser.parse_args()
    hidden = {path.encode(): name.encode() for path, _, name in (text.partition("=") for text in args.hide)}
    for run in sorted(
        p for p in args.source.iterdir() if (p / "manifest.json").exists() and not p.name.startswith(".")
    ):
        print(f"{run.name}: {trim(run, args.kept / run.name, hidden) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
