"""docs/findings.schema.json is what the types say, and what a report writes obeys it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import msgspec
import report_runs

from client.core.analysis import analyse
from client.core.findings import Findings, to_json
from client.core.measured import measured_in

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = ROOT / "docs" / "findings.schema.json"


def test_the_published_schema_is_fresh() -> None:
    fresh = runpy.run_path(str(ROOT / "scripts" / "findings_schema.py"))["schema"]()
    assert PUBLISHED.read_text() == fresh, "run: python scripts/findings_schema.py > docs/findings.schema.json"


def test_every_number_is_described() -> None:
    found: dict[str, Any] = json.loads(PUBLISHED.read_text())
    assert found["$defs"]["Estimate"]["description"].startswith("`value` with its interval")
    evidence = report_runs.simulated()
    findings = analyse(evidence, measured_in(evidence))
    written = json.loads(to_json(findings))
    assert set(written) <= set(found["$defs"]["Findings"]["properties"])
    assert msgspec.json.decode(to_json(findings), type=Findings) == findings
