"""python -m client.compare RUN_A RUN_B: the analysis of a campaign for two saved runs, another day or another host apart."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from client.core.across import joined
from client.core.analysis import analyse
from client.core.effect_size import HELP
from client.core.findings import to_json
from client.core.measured import measured_in
from client.errors import HalfweightError, MeasurementInvalid, RunDirError, ThresholdFailed
from client.reports import terminal
from client.rundir import read_run

EXAMPLES = """examples:
  python -m client.compare results/20261124T101500Z-aa11bb results/20261125T093000Z-cc22dd
  python -m client.compare OLD NEW --target-a bf16 --target-b fp8
  python -m client.compare OLD NEW --fail-if "b.e2e_p50 > a.e2e_p50 * 1.05" --json findings.json
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m client.compare", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    made.add_argument("run_a", type=Path, metavar="RUN_A", help="run directory of the baseline")
    made.add_argument("run_b", type=Path, metavar="RUN_B", help="run directory of the candidate")
    made.add_argument("--target-a", metavar="NAME", help="which target of RUN_A (default: its first)")
    made.add_argument(
        "--target-b", metavar="NAME", help="which target of RUN_B (default: the one named as in RUN_A, else its first)"
    )
    made.add_argument("--min-effect", metavar="SHARE", help=HELP.format(default="as in RUN_A"))
    made.add_argument(
        "--fail-if", action="append", default=[], metavar="CONDITION", help="names are a.METRIC and b.METRIC"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the findings here as well")
    return made


def main(argv: list[str] | None = None) -> int:
    asked = parser().parse_args(argv)
    try:
        evidence = joined(
            read_run(asked.run_a), read_run(asked.run_b), targets=(asked.target_a, asked.target_b),
            min_effect=asked.min_effect, fail_if=tuple(asked.fail_if),
        )  # fmt: skip
        findings = analyse(evidence, measured_in(evidence))
        if asked.json is not None:
            _write(asked.json, to_json(findings))
    except HalfweightError as error:
        print(f"halfweight: {error}", file=sys.stderr)
        return error.exit_code
    print(terminal.plain(f"Two saved runs. {evidence.run_id}."))
    print(terminal.render(findings))
    if not findings.valid:
        return MeasurementInvalid.exit_code
    return ThresholdFailed.exit_code if any(t.result != "pass" for t in findings.thresholds) else 0


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RunDirError(
            f"--json {path} cannot be written: {error.strerror}.", "Give a file in a folder that is there."
        ) from None


if __name__ == "__main__":
    sys.exit(main())
