"""Whole reports, word for word; and the same run gives the same bytes today and tomorrow."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import report_runs
from PIL import Image

from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.findings import Findings
from client.core.measured import measured_in
from client.core.series import Series, series_of
from client.report import main, write_reports
from client.reports import charts, html, index, markdown, terminal
from client.reports.charts.look import LIGHT
from client.reports.page import DRAW, STYLE, data_block, safe
from client.rundir import Manifest, RunDir

Compare = Callable[[str, str], None]
SHOWN = ("normal", "simulated", "invalid", "one-target", "all-failed", "sweep", "sizes")


def found(evidence: Evidence) -> tuple[Findings, Series]:
    measured = measured_in(evidence)
    return analyse(evidence, measured), series_of(evidence, measured.memory)


def page(evidence: Evidence) -> str:
    return html.render(*found(evidence), html.Gallery(note="No picture is shown."), "")


def saved(evidence: Evidence, folder: Path, name: str = "run") -> Path:
    """The evidence as a run directory."""
    run = RunDir(folder / name)
    (run.path / "servers").mkdir(parents=True)
    run.write_manifest(
        Manifest(run_id=evidence.run_id, started_utc=evidence.started_utc, plan=evidence.plan, complete=True)
    )
    for window in evidence.windows:
        run.append("phases", window)
    for image in evidence.images.values():
        run.append("images", image)
    for number, gpu in enumerate(evidence.gpu):
        for sample in gpu.samples:
            run.append(f"gpu-{number}", sample)
        run.write_file(f"gpu-{number}.json", msgspec.json.encode(msgspec.structs.replace(gpu, samples=())))
    for server in evidence.servers.values():
        run.write_server(server)
    run.close()
    return run.path


def saved_run(folder: Path, name: str = "run") -> Path:
    """A small simulated run with synthetic pictures that can be drawn again."""
    from client.core.pictures import synthetic

    records = report_runs._whole(report_runs.made.campaign(3, per_block=3))
    pictures = {f"synthetic-{k:06d}": synthetic(0, k, 320, 240) for k in range(12)}
    records = [
        msgspec.structs.replace(r, image_id=pictures[r.image_id].image_id) if r.image_id in pictures else r
        for r in records
    ]
    work = report_runs.Workload(width=320, height=240)
    evidence = report_runs.run(records, plan=report_runs.made.plan(simulate="h100", workload=work))
    evidence = msgspec.structs.replace(evidence, images={case.image_id: case.fact() for case in pictures.values()})
    path = saved(evidence, folder, name)
    run = RunDir(path)
    for record in records:
        run.append("requests", record)
    run.close()
    return path


@pytest.mark.parametrize("kind", SHOWN)
def test_the_words_of_a_report(kind: str, golden: Compare) -> None:
    findings, _ = found(report_runs.RUNS[kind]())
    golden(f"{kind}.txt", terminal.render(findings) + "\n")
    golden(f"{kind}.md", markdown.render(findings))


@pytest.mark.parametrize("kind", ["simulated", "all-failed"])
def test_the_page(kind: str, golden: Compare) -> None:
    """Without its style sheet and its drawing script, which the browser tests look at."""
    golden(f"{kind}.html", page(report_runs.RUNS[kind]()).replace(STYLE, "").replace(DRAW, ""))


@pytest.mark.parametrize("kind", SHOWN)
def test_every_chart_says_what_to_see(kind: str, golden: Compare) -> None:
    findings, series = found(report_runs.RUNS[kind]())
    told = [
        f"{chart.key}: {chart.title}\n  {chart.sentence}\n  {chart.note}\n" + "".join(f"  {' | '.join(row)}\n" for row in (chart.head, *chart.rows))
        for chart in charts.charts(findings, series)
    ]  # fmt: skip
    golden(f"{kind}.charts.txt", "\n".join(told))


def test_a_chart_is_the_same_picture_every_time() -> None:
    drawn = charts.charts(*found(report_runs.simulated()))
    first = next(chart for chart in drawn if chart.key == "memory")
    assert charts.png(first) == charts.png(first)
    assert charts.png(first).startswith(b"\x89PNG")


def test_a_saved_run_is_reported_byte_for_byte_again(tmp_path: Path) -> None:
    path = saved_run(tmp_path)
    write_reports(path)
    first = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    assert {"report.html", "report.md", "findings.json"} <= {file.name for file in first}
    assert any(file.parent.name == "charts" for file in first)
    write_reports(path)
    assert {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()} == first


def test_pictures_of_disagreements_are_drawn_again(tmp_path: Path) -> None:
    path = saved_run(tmp_path)
    write_reports(path)
    files = sorted(path.glob("pictures/fp8/*.png"))
    text = (path / "report.html").read_text()
    assert 1 <= len(files) <= 8
    assert text.count("data:image/webp;base64,") == len(files)
    assert all(file.relative_to(path).as_posix() in text for file in files)


def test_pictures_that_changed_are_not_shown(tmp_path: Path) -> None:
    path = saved_run(tmp_path)
    lines = (path / "images.jsonl").read_text()
    (path / "images.jsonl").write_text(re.sub(r'"sha256":"[0-9a-f]+"', f'"sha256":"{"0" * 64}"', lines))
    write_reports(path)
    assert not list(path.glob("pictures/*/*.png"))
    assert "no longer what was sent" in (path / "report.html").read_text()


def test_a_simulated_run_says_so_everywhere(tmp_path: Path) -> None:
    findings, series = found(report_runs.simulated())
    for text in (terminal.render(findings), markdown.render(findings), page(report_runs.simulated())):
        assert "SIMULATED" in text
    for chart in charts.charts(findings, series):
        for panel in chart.panels(LIGHT):
            assert panel["title"]["text"].startswith("SIMULATED"), chart.key


def test_an_invalid_run_marks_its_charts() -> None:
    for chart in charts.charts(*found(report_runs.invalid())):
        for panel in chart.panels(LIGHT):
            assert panel["title"]["text"].startswith("INVALID"), chart.key


def test_hostile_text_stays_text() -> None:
    findings, series = found(report_runs.hostile())
    text = html.render(findings, series, html.Gallery(), "")
    assert "<img src=x" not in text
    assert "\x1b" not in text
    # Only the page's own two scripts and its data blocks open one.
    opened = re.findall(r"<script[^>]*>", text)
    assert [
        tag
        for tag in opened
        if tag != "<script>" and not re.fullmatch(r'<script type="application/json" id="[a-z0-9-]+">', tag, re.I)
    ] == []
    assert opened.count("<script>") == 2
    assert "<img" not in markdown.render(findings)


def test_text_cannot_end_its_place() -> None:
    assert safe('<b>"&\x07') == "&lt;b&gt;&quot;&amp; "
    block = data_block("x", {"a": "</script><!--\u2028"})
    assert block.count("</script>") == 1
    assert json.loads(block[block.index(">") + 1 : block.rindex("<")]) == {"a": "</script><!--\u2028"}


def test_points_are_few_however_many_requests() -> None:
    evidence = report_runs.large(20_000)
    _, series = found(evidence)
    assert all(len(dots.ms) <= 1000 < dots.of for dots in series.latency)
    assert all(len(tail.ms) <= 240 for tail in series.tails)
    # The slowest request is drawn, whatever is left out.
    table = evidence.records
    for dots in series.latency:
        rows = table.where(dots.target)
        assert max(dots.ms) == pytest.approx(
            (table["last_token_ns"][rows] - table["sent_ns"][rows]).max() / 1e6, abs=0.01
        )


def test_memory_parts_add_up_to_the_card() -> None:
    findings, series = found(report_runs.normal())
    for name, parts in series.memory.items():
        total = findings.targets[name].memory.total_gib
        assert total is not None
        assert sum(part.gib for part in parts) == pytest.approx(total, abs=0.01)


def test_a_run_without_a_report_does_not_pay_for_charts() -> None:

    code = "import sys, client.bench, client.report; sys.exit('vl_convert' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_requests_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved_run(tmp_path)
    main([str(path), "--export", "csv"])
    capsys.readouterr()
    with (path / "requests.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (path / "requests.jsonl").read_text().splitlines()
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        record = json.loads(line)
        assert row["target"] == record["target"]
        assert row["outcome"] == record["outcome"]
        assert row["first_token_ns"] == str(record["first_token_ns"])
        assert row["cached_tokens"] == ""


def test_requests_are_exported_as_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The columns of the CSV, nothing for what never happened, and every chunk's stamp."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an optional extra")
    path = saved_run(tmp_path)
    assert main([str(path), "--export", "parquet"]) == 0
    main([str(path), "--export", "csv"])
    capsys.readouterr()
    rows = parquet.read_table(path / "requests.parquet").to_pylist()
    records = [json.loads(line) for line in (path / "requests.jsonl").read_text().splitlines()]
    assert len(rows) == len(records) > 0
    for row, record in zip(rows, records, strict=True):
        for name in (
            "target",
            "phase",
            "image_id",
            "outcome",
            "first_token_ns",
            "done_ns",
            "text",
            "chunk_ns",
            "block",
        ):
            assert row[name] == record.get(name, [] if name == "chunk_ns" else None), name
        assert row["cached_tokens"] is None
        assert row["finish_reason"] == "stop"
    with (path / "requests.csv").open(newline="") as file:
        head = next(csv.reader(file))
    assert list(rows[0]) == [*head, "text", "chunk_ns"]
    first = (path / "requests.parquet").read_bytes()
    main([str(path), "--export", "parquet"])
    assert (path / "requests.parquet").read_bytes() == first


def test_parquet_without_its_package_says_how_to_get_it(tmp_path: Path) -> None:
    """In a process where pyarrow cannot be imported, and before anything is written."""

    path = saved_run(tmp_path)
    code = "import sys; sys.modules['pyarrow'] = None; from client.report import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), "--export", "parquet"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{sys.executable} -m pip install 'pyarrow>=22'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (path / "findings.json").exists()


def test_an_export_that_cannot_be_written_is_an_error_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved_run(tmp_path)
    (path / "requests.csv").mkdir()
    assert main([str(path), "--export", "csv"]) == 6
    assert "requests.csv cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SHOWN)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_terminal_of_any_width_is_not_overrun(kind: str, width: int) -> None:
    findings, _ = found(report_runs.RUNS[kind]())
    lines = terminal.render(findings, width).splitlines()
    assert max(map(len, lines)) <= width
    # No number is lost on the way to a narrower table.
    numbers = sorted(re.findall(r"\d[\d.,]*", terminal.render(findings)))
    assert sorted(re.findall(r"\d[\d.,]*", terminal.render(findings, width))) == numbers


def test_a_number_stays_with_its_unit() -> None:
    for kind in SHOWN:
        for line in terminal.render(found(report_runs.RUNS[kind]())[0]).splitlines():
            assert not re.match(r"\s*(%|ms|GiB)(?![A-Za-z])", line), line


def test_an_index_over_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b <c>"):
        write_reports(saved_run(tmp_path, name))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{}")
    (tmp_path / "broken" / "findings.json").write_text("{")
    assert main(["--index", str(tmp_path)]) == 0
    assert "2 runs" in capsys.readouterr().out
    text = (tmp_path / "index.html").read_text()
    assert 'href="a/report.html"' in text
    assert 'href="b%20%3Cc%3E/report.html"' in text
    assert "Without readable findings: broken" in text


def test_an_index_of_nothing_is_still_a_page() -> None:
    assert "No finished run" in index.render((), (), None, "")


def test_an_index_of_no_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--index", str(tmp_path / "none")]) == 6
    assert "is no folder" in capsys.readouterr().err


def test_a_host_without_the_charting_library_still_gets_its_verdict(tmp_path: Path) -> None:
    """Found on a GPU host that had only what measuring needs: the run was measured, and its report was a traceback."""
    path = saved_run(tmp_path)
    code = "import sys; sys.modules['vl_convert'] = None; from client.report import main; sys.exit(main([sys.argv[1]]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vl-convert-python is not installed" in done.stderr
    assert "Latency (E2E)" in done.stdout
    assert "Latency (E2E)" in (path / "report.html").read_text()
    assert ".png" not in (path / "report.md").read_text()


def test_a_chart_is_white_where_nothing_is_drawn_and_small() -> None:
    evidence = report_runs.simulated()
    measured = measured_in(evidence)
    findings = analyse(evidence, measured)
    for chart in charts.charts(findings, series_of(evidence, measured.memory))[:2]:
        drawn = charts.png(chart)
        picture = Image.open(io.BytesIO(drawn))
        assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", (255, 255, 255))
        assert len(drawn) < 100_000
