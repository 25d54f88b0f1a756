"""`python -m client.report RUN_DIR`: writes the reports of a saved run again. The same run gives the same bytes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from client.core.analysis import analyse
from client.core.findings import Findings, to_json
from client.core.measured import measured_in
from client.errors import HalfweightError
from client.reports import markdown, terminal
from client.rundir import RunDir, read_run

HELP = """\
examples:
  python -m client.report results/20261125T020230Z-a1b2c3
  python -m client.report results/20261125T020230Z-a1b2c3 --json
"""


def write_reports(path: Path) -> Findings:
    """Analyses the run directory and writes `findings.json` and `report.md` into it. Raises RunDirError."""
    evidence = read_run(path)
    findings = analyse(evidence, measured_in(evidence))
    run_dir = RunDir(path)
    run_dir.write_file("findings.json", to_json(findings))
    run_dir.write_file("report.md", markdown.render(findings))
    return findings


def exit_code(findings: Findings) -> int:
    """The documented code of a finished run: interrupted, then invalid, then thresholds."""
    if findings.interrupted:
        return 130
    if not findings.valid:
        return 4
    if any(threshold.result != "pass" for threshold in findings.thresholds):
        return 5
    return 0


def show(findings: Findings, path: Path) -> None:
    print(terminal.render(findings))
    print(f"\nEverything is in {path}/ (report.md, findings.json, requests.jsonl)")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m client.report",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a folder that client.bench wrote")
    parser.add_argument("--json", action="store_true", help="print findings.json instead of the table")
    arguments = parser.parse_args(argv)
    try:
        findings = write_reports(arguments.run_dir)
    except HalfweightError as error:
        print(f"halfweight: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        sys.stdout.buffer.write(to_json(findings))
    else:
        show(findings, arguments.run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
