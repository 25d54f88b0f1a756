"""Prints the JSON Schema of findings.json, made from the types that write it: `python scripts/findings_schema.py > docs/findings.schema.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from client.core.findings import SCHEMA_VERSION, Findings


def schema() -> str:
    """JSON Schema 2020-12, with stable order."""
    made: dict[str, Any] = msgspec.json.schema(Findings)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Halfweight findings.json, version {SCHEMA_VERSION}",
    }
    return msgspec.json.format(msgspec.json.encode({**head, **made}, order="sorted"), indent=1).decode() + "\n"


if __name__ == "__main__":
    print(schema(), end="")
