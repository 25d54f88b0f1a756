"""`python -m client.compare` over two run directories as they lie on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import made
import msgspec
import numpy as np
import pytest
import report_runs

from client.compare import main
from client.core.across import joined
from client.core.analysis import analyse
from client.core.evidence import Evidence, GpuEvidence
from client.core.findings import Estimate, Word
from client.core.measured import measured_in
from client.core.plan import Design, Timeouts
from client.core.records import GpuSample, ImageFact, Outcome, Phase, PhaseWindow, RequestRecord
from client.reports import markdown, tables, terminal
from client.rundir import Manifest, RunDir


def saved(base: Path, records: list[RequestRecord], evidence: Evidence) -> Path:
    run = RunDir.create(base)
    run.write_manifest(Manifest(run_id=run.run_id, started_utc=evidence.started_utc, plan=evidence.plan, complete=True))
    for record in records:
        run.append("requests", record)
    for server in evidence.servers.values():
        run.write_server(server)
    run.close()
    return run.path


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    made_of = (made.campaign(1), made.campaign(2, fp8_ttft=0.7, fp8_tpot=0.7))
    first, second = (
        saved(tmp_path / name, records, made.evidence(records)) for name, records in zip("ab", made_of, strict=True)
    )
    return first, second


def test_two_run_directories(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(
        [
            *map(str, runs),
            "--target-a",
            "bf16",
            "--target-b",
            "fp8",
            "--json",
            str(tmp_path / "out.json"),
            "--fail-if",
            "b.e2e_p50 > a.e2e_p50",
        ]
    )
    told = capsys.readouterr().out
    assert code == 0
    assert "faster −3" in told
    assert b'"word": "faster"' in (tmp_path / "out.json").read_bytes()


def test_a_threshold_that_fails_has_its_code(runs: tuple[Path, Path]) -> None:
    assert main([*map(str, runs), "--target-b", "fp8", "--fail-if", "b.e2e_p50 < a.e2e_p50"]) == 5


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--target-b", "int4"], "no target 'int4'"),
        (["--fail-if", "b.e2e_p50 >"], "^"),
        (["--min-effect", "lots"], "cannot be read"),
    ],
)
def test_bad_questions_are_refused(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert main([*map(str, runs), *more]) == 2
    assert words in capsys.readouterr().err


def test_the_labels_are_explained(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """'Keep a' alone tells nobody what to keep."""
    assert main([*map(str, runs), "--target-b", "fp8"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"Two saved runs. a: bf16 of {runs[0].name}, b: fp8 of {runs[1].name}."


def test_one_run_is_not_two(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs[0]), str(runs[0])]) == 2
    assert "compared with itself" in capsys.readouterr().err
    assert main([str(runs[0]), str(runs[0]), "--target-b", "fp8"]) == 2
    assert "client.report" in capsys.readouterr().err


def test_the_order_of_the_runs_turns_the_words(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    main([*map(str, runs), "--target-b", "fp8"])
    there = capsys.readouterr().out
    main([*map(str, reversed(runs)), "--target-a", "fp8", "--target-b", "bf16"])
    back = capsys.readouterr().out
    assert "b is faster than a: −29." in there
    assert "b is slower than a: +42." in back


def test_findings_that_cannot_be_written_are_said_before_the_table(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert main([*map(str, runs), "--json", "/nonexistent/findings.json"]) == 6
    told = capsys.readouterr()
    assert "/nonexistent/findings.json cannot be written" in told.err


def later(**changes: object) -> Evidence:
    return made.evidence(made.campaign(2), **({"run_id": "later"} | changes))


def facts(shade: str) -> dict[str, ImageFact]:
    names = [f"synthetic-{k:06d}" for k in range(32)]
    return {name: ImageFact(image_id=name, width=9, height=9, sent_bytes=9, sha256=f"{shade}{name}") for name in names}


@pytest.mark.parametrize(
    ("here", "there", "paired"),
    [
        ({}, {}, True),
        ({}, {"plan": made.plan(seed=7)}, False),
        ({"images": facts("x")}, {"images": facts("x")}, True),
        ({"images": facts("x")}, {"images": facts("x"), "plan": made.plan(seed=7)}, True),
        ({"images": facts("x")}, {"images": facts("y")}, False),
    ],
)
def test_pictures_that_share_a_name_only_are_not_paired(here: dict[str, Any], there: dict[str, Any], paired: bool) -> None:  # fmt: skip
    findings = analyse(joined(made.evidence(made.campaign(1), **here), later(**there)))
    assert findings.valid
    assert findings.comparison is not None
    assert findings.comparison.notes[1].startswith("Requests are paired" if paired else "Requests are not paired")
    told = next(gate.fact for gate in findings.gates if gate.code == "two_runs")
    assert ("Pairing by image takes out the pictures only" in told) == paired, (
        "no pairing is claimed where there is none"
    )


def test_a_simulated_server_is_not_compared_with_a_real_one() -> None:
    found = analyse(joined(made.evidence(made.campaign(1)), later(plan=made.plan(simulate="h100"))))
    assert "a real one / a simulated server" in found.invalid_reasons[0]
    assert found.workload.endswith("temperature 0 (as a was asked)")


def test_limits_matter_where_one_was_reached() -> None:
    short = made.plan(timeouts=Timeouts(total_s=1.0))
    assert analyse(joined(made.evidence(made.campaign(1)), later(plan=short))).valid
    records = made.campaign(2)
    records[3] = made.failed(
        "bf16", 3, records[3].intended_ns / made.MS, Outcome.TIMEOUT_TOTAL, image_id=records[3].image_id
    )
    cut = made.evidence(records, plan=short, run_id="later")
    found = analyse(joined(made.evidence(made.campaign(1)), cut, targets=("bf16", "bf16")))
    assert "time-out total_s 600 / 1" in found.invalid_reasons[0]


def test_a_crash_in_one_of_the_runs_is_not_excused() -> None:
    """Both arms of the joined plan pass for stays of a serial design, and a restart within one of them went unseen."""
    crashed = {
        "bf16": made.server("bf16", after=made.page(start=2000.0, prefix_queries=9.0)),
        "fp8": made.server("fp8"),
    }
    found = analyse(joined(made.evidence(made.campaign(1)), later(servers=crashed)))
    assert "b was restarted" in found.invalid_reasons[0]
    on_purpose = later(servers=crashed, plan=made.plan(design=Design.SERIAL))
    assert analyse(joined(made.evidence(made.campaign(1)), on_purpose)).valid


def clocked(mhz: int, **changes: object) -> Evidence:
    """With the GPU's clock over the whole run, shared by both servers."""
    span = (1_000_000_000, 20_000_000_000)
    samples = tuple(GpuSample(mono_ns=t, wall_ns=t, sm_mhz=mhz, used_v2=9, power_mw=300_000) for t in range(span[0], span[1], 100_000_000))  # fmt: skip
    windows = tuple(PhaseWindow(target=n, phase=Phase.MEASURE, start_ns=span[0], end_ns=span[1]) for n in ("bf16", "fp8"))  # fmt: skip
    gpu = (GpuEvidence(samples=samples, shared_by=("bf16", "fp8"), info={"name": "H100"}),)
    return later(gpu=gpu, windows=windows, **changes)


def test_clocks_of_two_runs_are_compared_and_memory_of_a_shared_gpu_is_not() -> None:
    pair = joined(clocked(1980, run_id="first"), clocked(1500))
    findings = analyse(pair, measured_in(pair))
    assert "gpu_clocks" in [gate.code for gate in findings.gates]
    assert not findings.valid
    assert findings.targets["b"].memory.whole_gpu_peak_gib is None
    assert findings.targets["b"].energy.get("joules_per_request", Estimate()).value is None
    same = joined(clocked(1980, run_id="first"), clocked(1980))
    assert analyse(same, measured_in(same)).valid


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert main([str(tmp_path), str(tmp_path)]) == 6


@pytest.mark.parametrize(("here", "there"), [((), ()), ((0, 1), ()), ((0,), (1,))])
def test_where_no_picture_was_answered_in_both_runs_accuracy_is_not_compared(here: tuple[int, ...], there: tuple[int, ...]) -> None:  # fmt: skip
    """`here` and `there`: which pictures were answered, by whether their number is odd."""
    photos = {name: msgspec.structs.replace(fact, boxes=((0.2, 0.3, 0.6, 0.7),)) for name, fact in facts("x").items()}
    runs = []
    for run_id, answered in (("first", here), ("later", there)):
        records = [
            msgspec.structs.replace(r, text="[0.2, 0.3, 0.6, 0.7]")
            if r.index % 2 in answered
            else made.failed(r.target, r.index, r.intended_ns / made.MS, Outcome.HTTP_ERROR, image_id=r.image_id, block=r.block, status=500)
            for r in made.campaign(1)
        ]  # fmt: skip
        runs.append(made.evidence(records, images=photos, run_id=run_id))
    pair = joined(*runs)
    findings = analyse(pair, measured_in(pair))
    assert findings.comparison is not None
    assert findings.comparison.parity.word is Word.NOT_MEASURED
    told = terminal.render(findings)
    assert "0.0000" not in told
    why = "Accuracy was not compared (there is no picture that both answered)."
    assert findings.comparison.parity.sentence == why
    assert why in markdown.render(findings)


def test_room_is_counted_in_requests_of_one_size_in_the_table_and_in_the_text() -> None:
    """The table counted each run's own requests, 284 and 77, and the text those of the first: 284 instead of 284."""
    small = report_runs.normal()
    longer = small.records.ints | {"prompt_tokens": np.full(len(small.records), 4000)}
    large = msgspec.structs.replace(small, run_id="later", records=dataclasses.replace(small.records, ints=longer))
    pair = joined(small, large, targets=("bf16", "fp8"))
    findings = analyse(pair, measured_in(pair))
    assert findings.comparison is not None
    row = next(row for row in tables.main_rows(findings) if row[0].startswith("Requests of"))
    assert row == ["Requests of 1,120 tokens at once", "282", "394", "+40 %"]
    told = " ".join(findings.comparison.memory_story)
    assert "room for 394 requests of up to 1,120 tokens at once instead of 282, 112 more" in told
    assert "about 110 of its own fit at once" in " ".join(findings.targets["b"].memory.notes)
    assert "of its own" not in " ".join(findings.targets["a"].memory.notes)
    alike = joined(small, msgspec.structs.replace(small, run_id="later"))
    rows = tables.main_rows(analyse(alike, measured_in(alike)))
    assert [row[1:] for row in rows if row[0] == "Requests that fit at once"] == [["282", "282", "0.0 %"]]
