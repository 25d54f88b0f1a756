"""Makes a recording small enough to keep: memory-only lines that repeat the one before are left out, then the end is cut off.

python benchmarks/sidecar/trim.py RECORDING.jsonl KEPT.jsonl [--limit 300000]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

STAMPS = ("mono_ns", "wall_ns")


def trim(lines: list[bytes], limit: int) -> list[bytes]:
    """Full lines, energy lines and every change of memory stay, in order, up to `limit` bytes."""
    kept, size, before = list[bytes](), 0, dict[tuple[object, object], object]()
    for text in lines:
        value = json.loads(text)
        key = (value.get("gpu"), value.get("uuid"))
        memory = [value.get(name) for name in ("used_v1", "used_v2", "reserved", "total")]
        partial = set(value) <= {*STAMPS, "gpu", "uuid", "used_v1", "used_v2", "reserved", "total"}
        if partial and "info" not in value and memory == before.get(key):
            continue
        if "used_v1" in value or "used_v2" in value:
            before[key] = memory
        size += len(text) + 1
        if size > limit:
            break
        kept.append(text)
    return kept


def nameless(text: bytes) -> bytes:
    """The info line without the names of the host and its boot: a recording is kept for its numbers."""
    if not text.startswith(b'{"info"'):
        return text
    info = json.loads(text)["info"] | {"host": "gpu-host", "boot_id": None}
    return json.dumps({"info": info}, separators=(",", ":")).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--limit", type=int, default=300_000, help="bytes (default 300000)")
    args = parser.parse_args()
    lines = [nameless(text) for text in args.recording.read_bytes().split(b"\n") if text.strip()]
    kept = trim(lines, args.limit)
    args.kept.write_bytes(b"\n".join(kept) + b"\n")
    print(f"{len(kept)} of {len(lines)} lines kept, {args.kept.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
