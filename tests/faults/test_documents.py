"""What the documents promise is there: every outcome is explained, every test that is named exists, every package is listed."""

from __future__ import annotations

import re

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


def test_every_package_of_the_lock_is_listed_with_its_licence() -> None:
    text = (ROOT / "docs/dependencies.md").read_text()
    listed = {
        name.strip() for row in re.findall(r"^\| ([a-z][\w, -]*) \|.*\| [A-Z]", text, re.M) for name in row.split(",")
    }
    locked = set(re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    assert listed - {"package"} == locked
