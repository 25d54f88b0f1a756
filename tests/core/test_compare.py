"""`python -m client.compare` over two run directories as they lie on disk."""

from __future__ import annotations

from pathlib import Path

import made
import pytest

from client.compare import main
from client.core.evidence import Evidence
from client.core.records import RequestRecord
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


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert main([str(tmp_path), str(tmp_path)]) == 6
