"""What the documents promise is there: every outcome is explained, every test that is named exists, every package is listed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from rig import ROOT

from client.core.records import Outcome

RELIABILITY = (ROOT / "docs/reliability.md").read_text()


def test_every_outcome_is_explained_and_no_other() -> None:
    table = RELIABILITY.partition("## Outcome classes")[2].partition("## The server")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == [str(outcome) for outcome in Outcome]


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:tests/\w+/)?test_\w+\.py)::(test_\w+)`", RELIABILITY))
    assert len(named) > 30
    missing = []
    for file, name in sorted(named):
        path = ROOT / (file if file.startswith("tests/") else f"tests/faults/{file}")
        if not path.exists() or not re.search(rf"^(?:async )?def {name}\(", path.read_text(), re.M):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_fault_has_its_test_and_every_test_its_fault() -> None:
    tables = RELIABILITY.partition("## The server")[2]
    rows = [
        line
        for line in tables.splitlines()
        if line.startswith("| ") and not line.startswith(("| fault |", "| place |", "| input |"))
    ]
    assert len(rows) > 50
    assert [row for row in rows if "::test_" not in row.rsplit(" | ", 1)[1]] == []
    here = {
        f"{file.name}::{name}"
        for file in (ROOT / "tests/faults").glob("test_*.py")
        if file.name != "test_documents.py"
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.M)
    }
    unnamed = {test for test in here if f"`{test}`" not in RELIABILITY}
    assert unnamed <= {
        "test_fuzz.py::test_every_folder_of_seeds_has_its_reader",  # of the campaign itself
        "test_fuzz.py::test_the_fuzzer_finds_what_a_reader_chokes_on",
    }, unnamed


def test_every_package_of_the_lock_is_listed_with_its_licence() -> None:
    text = (ROOT / "docs/dependencies.md").read_text()
    listed = {
        name.strip() for row in re.findall(r"^\| ([a-z][\w, -]*) \|.*\| [A-Z]", text, re.M) for name in row.split(",")
    }
    locked = set(re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    assert listed - {"package"} == locked


def audited(tmp_path: Path, *reports: object, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    files = [tmp_path / f"{number}.json" for number in range(len(reports))]
    for file, report in zip(files, reports, strict=True):
        file.write_text(report if isinstance(report, str) else json.dumps(report))
    command = [sys.executable, str(ROOT / "scripts/audit_report.py"), *map(str, files), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_an_audit_that_could_not_be_made_is_never_taken_for_a_clean_one(tmp_path: Path) -> None:
    skipped = {"dependencies": [{"name": "pillow", "skip_reason": "not found"}]}
    clean = {"dependencies": [{"name": "pillow", "version": "13.0.0", "vulns": []}]}
    weak = {"id": "PYSEC-1", "fix_versions": ["13.0.1"], "description": "x"}
    bad = {"dependencies": [{"name": "pillow", "version": "13.0.0", "vulns": [weak]}]}
    for nothing in (("",), (skipped,), ("", skipped, '{"dependencies": null}')):
        done = audited(tmp_path, *nothing)
        assert (done.returncode, "NOT MADE" in done.stdout) == (0, True), done
        assert audited(tmp_path, *nothing, flags=("--strict",)).returncode == 2
    assert "1 of 1 packages looked up, 0 known weaknesses" in audited(tmp_path, clean, skipped).stdout
    found = audited(tmp_path, clean, bad, bad)
    assert (found.returncode, found.stdout.count("PYSEC-1")) == (0, 1)
    assert "pillow 13.0.0: PYSEC-1, mended in 13.0.1" in found.stdout
    assert audited(tmp_path, bad, flags=("--strict",)).returncode == 1
