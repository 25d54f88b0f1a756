"""Pages of made runs, once for all tests, and one browser to look at them."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_runs
from chrome import Chrome

from client.core.analysis import analyse
from client.core.evidence import Evidence
from client.core.findings import Findings
from client.core.measured import measured_in
from client.core.series import series_of
from client.reports import charts, html, index

AXE = "4.14.1"
CACHE = Path(__file__).parent.parent.parent / ".cache"


def page_of(evidence: Evidence, script: str) -> str:
    measured = measured_in(evidence)
    findings = analyse(evidence, measured)
    return html.render(
        findings, series_of(evidence, measured.memory), html.Gallery(note="No picture is shown."), script
    )


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of run -> its report.html."""
    folder, script = tmp_path_factory.mktemp("pages"), charts.script()
    found = {}
    for name, make in {**report_runs.RUNS, "large": report_runs.large}.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(page_of(make(), script))
    found["index"] = folder / "index.html"
    found["index"].write_text(index_of(script))
    return found


def index_of(script: str) -> str:
    runs = [(f"run-{name}", findings_of(make())) for name, make in report_runs.RUNS.items()]
    return index.render(runs, ("half",), index.trend(runs), script)


def findings_of(evidence: Evidence) -> Findings:
    return analyse(evidence, measured_in(evidence))


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser = Chrome(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which npm fetches once into the cache folder."""
    kept = CACHE / f"axe-core-{AXE}.tgz"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        command = ["npm", "pack", f"axe-core@{AXE}", "--pack-destination", str(CACHE), "--silent"]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    with tarfile.open(kept) as package:
        file = package.extractfile("package/axe.min.js")
        assert file is not None, "the package axe-core has no axe.min.js"
        return file.read().decode()
