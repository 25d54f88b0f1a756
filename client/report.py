"""`python -m client.report RUN_DIR`: writes the reports of a saved run again. The same run gives the same bytes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.findings import Findings, to_json
from client.core.measured import measured_in
from client.core.series import Series, series_of
from client.errors import HalfweightError, RunDirError
from client.reports import charts, export, gallery, html, index, markdown, terminal
from client.rundir import RunDir, read_run
from client.summaries import read_summaries

HELP = """\
examples:
  python -m client.report results/20261125T020230Z-a1b2c3
  python -m client.report results/20261125T020230Z-a1b2c3 --json
  python -m client.report results/20261125T020230Z-a1b2c3 --export csv
  python -m client.report --index results/
"""


def write_reports(path: Path) -> Findings:
    """Analyses the run directory and writes its reports into it: findings.json, report.md, report.html, pictures. Raises RunDirError."""
    evidence = read_run(path)
    measured = measured_in(evidence)
    findings = analyse(evidence, measured)
    series = series_of(evidence, measured.memory)
    run_dir = RunDir(path)
    run_dir.write_file("findings.json", to_json(findings))
    drawn = charts.available()
    if not drawn:
        print(
            "halfweight: the reports have no charts: the package vl-convert-python is not installed here. "
            f"Install it and run: python -m client.report {path}",
            file=sys.stderr,
        )
    images = write_charts(run_dir, findings, series) if drawn else ()
    run_dir.write_file("report.md", markdown.render(findings, images))
    run_dir.write_file(
        "report.html",
        html.render(findings, series, write_gallery(run_dir, evidence, series), charts.script() if drawn else ""),
    )
    return findings


def write_charts(run_dir: RunDir, findings: Findings, series: Series) -> tuple[markdown.Image, ...]:
    """The few charts that report.md shows, as PNG beside it."""
    shown = [chart for chart in charts.charts(findings, series) if chart.key.startswith(charts.IN_MARKDOWN)]
    images = []
    for chart in shown:
        name = f"charts/{gallery.safe_name(chart.key)}.png"
        run_dir.write_file(name, charts.png(chart))
        images.append(markdown.Image(file=name, title=chart.title, sentence=chart.sentence))
    return tuple(images)


def write_gallery(run_dir: RunDir, evidence: Evidence, series: Series) -> html.Gallery:
    """Pictures on which two targets differ most, as far as the photos that were sent can be had again."""
    photos: list[html.Photo] = []
    notes: list[str] = []
    for item in series.overlaps:
        if not item.worst:
            continue
        from client.workload import jpegs_again

        names = {"baseline": item.baseline, "candidate": item.candidate}
        jpegs, note = jpegs_again(evidence.plan, evidence.images, [worst.image_id for worst in item.worst])
        notes += [note] if note else []
        shown = [worst for worst in item.worst if worst.image_id in jpegs]
        for worst, (name, png) in zip(shown, gallery.gallery(shown, jpegs.get, **names), strict=True):
            file = f"pictures/{gallery.safe_name(item.candidate)}/{name}"
            run_dir.write_file(file, png)
            photos.append(html.Photo(image=gallery.small(png), told=gallery.told(worst, **names), file=file))
    return html.Gallery(photos=tuple(photos), note=" ".join(dict.fromkeys(notes)))


def write_export(run_dir: Path, kind: str) -> None:
    """Writes requests.csv or requests.parquet. Raises RunDirError, and UsageError without pyarrow."""
    path, records = run_dir / f"requests.{kind}", read_run(run_dir).records
    try:
        if kind == "parquet":
            with path.open("wb") as binary:
                export.write_parquet(records, binary)
        else:
            with path.open("w", newline="", encoding="utf-8") as text:
                text.writelines(export.csv_lines(records))
    except OSError as error:
        raise RunDirError(f"{path} cannot be written: {error.strerror}.", "Free space or change its rights.") from error


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
    try:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(terminal.render(findings, width))
        print(f"\nEverything is in {path}/ (report.html, report.md, findings.json, requests.jsonl)", flush=True)
    except (
        BrokenPipeError
    ):  # the reader (head, less) has seen enough; the interpreter's last flush must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m client.report",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("run_dir", type=Path, nargs="?", metavar="RUN_DIR", help="a folder that client.bench wrote")
    what.add_argument(
        "--index", type=Path, metavar="FOLDER", help="write FOLDER/index.html: one page over all runs in it"
    )
    made.add_argument("--json", action="store_true", help="print findings.json instead of the table")
    made.add_argument(
        "--export",
        choices=["csv", "parquet"],
        help="also write requests.csv or requests.parquet: every request, one a line (parquet needs pyarrow)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        if arguments.index is not None:
            return write_index(arguments.index)
        if arguments.export == "parquet":
            export.arrow()  # says what is missing before minutes are spent
        findings = write_reports(arguments.run_dir)
        if arguments.export is not None:
            write_export(arguments.run_dir, arguments.export)
    except HalfweightError as error:
        print(f"halfweight: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        sys.stdout.buffer.write(to_json(findings))
    else:
        show(findings, arguments.run_dir)
    return 0


def write_index(folder: Path) -> int:
    """Writes the page over all runs of a folder; returns the exit code. Raises RunDirError."""
    runs, passed_over = read_summaries(folder)
    drawn = index.trend(runs) if charts.available() else None
    page = index.render(runs, passed_over, drawn, charts.script() if drawn is not None else "")
    path = RunDir(folder).write_file("index.html", page)
    print(f"{path}: {len(runs)} run{'s' if len(runs) != 1 else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
