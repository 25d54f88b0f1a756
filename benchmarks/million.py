"""A million records of 20 chunks each: how long the analysis takes, and how much memory.

.venv/bin/python -m benchmarks.million [--records N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.plan import LoadProfile, RunPlan, Target
from client.core.table import RecordTable

CHUNKS = 20
HEAD = (
    b'{"target":"%s","phase":"measure","index":%d,"image_id":"synthetic-%08d","outcome":"ok","intended_ns":%d,"block":%d,"sent_ns":%d,'
    b'"uploaded_ns":%d,"headers_ns":%d,"first_byte_ns":%d,"role_ns":%d,"first_token_ns":%d,"first_text_ns":%d,"last_token_ns":%d,"done_ns":%d,'
    b'"chunk_ns":[%s],"recv_lag_ns":12345,"status":200,"finish_reason":"stop","prompt_tokens":1085,"completion_tokens":20,"body_bytes":412780,'
    b'"answer_bytes":4123}'
)


def lines(n: int) -> Iterator[bytes]:
    """Two arms in ABBA blocks; made on the way, as they would come from a file."""
    rng = np.random.default_rng(1)
    per_block = n // 8
    now = 213_110_122_100
    order = ((b"bf16", 0), (b"fp8", 0), (b"fp8", 1), (b"bf16", 1), (b"bf16", 2), (b"fp8", 2), (b"fp8", 3), (b"bf16", 3))
    for arm, block in order:
        noise = np.exp(rng.normal(0, 0.1, per_block))
        for place in range(per_block):
            index = block * per_block + place
            first = now + int(122e6 * noise[place])
            step = int((6.2e6 if arm == b"bf16" else 4.1e6) * noise[place])
            chunks = b",".join([b"%d" % (first + step * k) for k in range(CHUNKS)])
            last = first + step * (CHUNKS - 1)
            yield HEAD % (
                arm,
                index,
                index,
                now,
                block,
                now,
                now,
                now,
                first,
                first,
                first,
                first,
                last,
                last + 999,
                chunks,
            )
            now += 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.million", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    begin, made = time.process_time(), 0.0
    for _ in lines(asked.records // 10):
        pass
    made = (time.process_time() - begin) * 10  # making the lines is not part of reading them
    wall, cpu = time.perf_counter(), time.process_time()
    table, torn = RecordTable.from_lines(lines(asked.records))
    read_s = time.process_time() - cpu - made
    cpu = time.process_time()
    pair = (Target(name="bf16", base_url="http://a"), Target(name="fp8", base_url="http://b"))
    plan = RunPlan(targets=pair, load=LoadProfile(requests=asked.records // 2, concurrency=64))
    findings = analyse(
        Evidence(run_id="million", started_utc="2026-11-25T00:00:00Z", plan=plan, records=table, torn_lines=torn)
    )
    found = {
        "records": len(table),
        "read_cpu_s": round(read_s, 1),
        "analyse_cpu_s": round(time.process_time() - cpu, 1),
        "wall_s_with_making": round(time.perf_counter() - wall, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "headline": findings.headline,
    }
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
