"""Sums up what pip-audit wrote (`-f json`, one file for each lock and database): what was looked up, and what is known to be weak.

python scripts/audit_report.py FILE... [--strict]     --strict: exit code 1 for a finding, 2 when nothing could be looked up
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def dependencies(file: Path) -> list[dict[str, Any]]:
    """What one file says of each package; nothing when the tool or the network was not there."""
    try:
        found = json.loads(file.read_text())["dependencies"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def weaknesses(found: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each advisory, without doubles."""
    lines = set()
    for item in found:
        for known in item.get("vulns") or ():
            mended = ", ".join(known.get("fix_versions") or ()) or "no version"
            lines.add(f"{item['name']} {item.get('version', '?')}: {known.get('id', '?')}, mended in {mended}")
    return sorted(lines)


def main(argv: list[str]) -> int:
    found = [item for name in argv if not name.startswith("--") for item in dependencies(Path(name))]
    packages = {item.get("name") for item in found}
    looked_up = {item.get("name") for item in found if "skip_reason" not in item}
    known = weaknesses(found)
    if not looked_up:
        print("audit: NOT MADE: no advisory database could be reached. Run scripts/audit again with the network on.")
        return 2 if "--strict" in argv else 0
    print(f"audit: {len(looked_up)} of {len(packages)} packages looked up, {len(known)} known weaknesses.")
    for line in known:
        print(f"  {line}")
    return 1 if known and "--strict" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
