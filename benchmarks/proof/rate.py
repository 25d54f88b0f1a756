"""The arrival rate of an open loop as a share of capacity: `python benchmarks/proof/rate.py RUN_DIR 0.6` prints requests/s.

Capacity is the best throughput of the slower arm over the levels of that sweep: one rate for both arms, that each can finish.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def rate(findings: dict[str, Any], share: float) -> float:
    """Requests/s, to two digits. Raises ValueError when a level or an arm has no throughput."""
    best: dict[str, float] = {}
    for level in findings["levels"]:
        for target, metrics in level["metrics"].items():
            value = metrics["requests_per_s"]["value"]
            if value is not None:
                best[target] = max(value, best.get(target, 0.0))
    if set(best) != set(findings["targets"]) or not best:
        raise ValueError("the sweep has no throughput for every arm")
    return float(f"{share * min(best.values()):.2g}")


if __name__ == "__main__":
    print(rate(json.loads((Path(sys.argv[1]) / "findings.json").read_text()), float(sys.argv[2])))
