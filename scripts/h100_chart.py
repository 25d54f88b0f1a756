"""Draws docs/pictures/h100-effects.png from our recordings of a real H100 (tests/golden/h100): `python scripts/h100_chart.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "core")]

import h100  # noqa: E402

from client.core.analysis import analyse  # noqa: E402
from client.core.measured import measured_in  # noqa: E402
from client.core.series import series_of  # noqa: E402
from client.reports import charts  # noqa: E402


def main() -> None:
    evidence = h100.evidence("unique_a", "unique_a2")
    measured = measured_in(evidence)
    drawn = charts.charts(analyse(evidence, measured), series_of(evidence, measured.memory))
    chart = next(chart for chart in drawn if chart.key == "effects-fp8")
    (ROOT / "docs" / "pictures" / "h100-effects.png").write_bytes(charts.png(chart))
    print(chart.sentence)


if __name__ == "__main__":
    main()
