"""Reads back the findings of all runs in a folder, for the page over all of them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from client.core.findings import Findings
from client.errors import RunDirError

SKIPPED = 50_000_000
"""A findings.json of more bytes is none of ours."""


def read_summaries(folder: Path) -> tuple[tuple[tuple[str, Findings], ...], tuple[str, ...]]:
    """(folder name, findings) of each run, oldest first, and the folders that look like a run but have no findings to read.

    Raises RunDirError when `folder` is no folder.
    """
    if not folder.is_dir():
        raise RunDirError(f"{folder} is no folder.", "Give the folder that holds your runs, for example results/.")
    runs: list[tuple[str, Findings]] = []
    passed_over: list[str] = []
    decoder = msgspec.json.Decoder(Findings)
    for manifest in sorted(folder.glob("*/manifest.json")):
        name = manifest.parent.name
        file = manifest.parent / "findings.json"
        try:
            if file.stat().st_size > SKIPPED:
                raise ValueError("too large")
            runs.append((name, decoder.decode(file.read_bytes())))
        except (OSError, ValueError, RecursionError):
            passed_over.append(name)
    return tuple(sorted(runs, key=lambda run: (run[1].started_utc, run[0]))), tuple(passed_over)
