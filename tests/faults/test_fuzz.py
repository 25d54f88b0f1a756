"""Every reader of foreign bytes: seeds replayed, a little new fuzzing each time, and time that grows with the length alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fuzz import READERS, SEEDS, fuzz, seeds_of

SECONDS = float(os.environ.get("HALFWEIGHT_FUZZ_SECONDS", "2"))
SMALL = 40_000
"""Bytes. Four times as many may take eight times as long; the square would take sixteen times."""


@pytest.mark.parametrize("name", READERS)
def test_seeds_are_read_or_refused(name: str) -> None:
    found = seeds_of(name)
    assert len(found) >= 5
    for data in found:
        READERS[name](data)
        READERS[name](data[: len(data) // 2])


def test_every_folder_of_seeds_has_its_reader() -> None:
    assert {folder.name for folder in SEEDS.iterdir()} == set(READERS)


@pytest.mark.timeout(120 + 3 * SECONDS)
@pytest.mark.parametrize("name", READERS)
def test_a_few_new_inputs_are_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed is in the message of a failure, and the input in a file: pytest keeps the folder."""
    monkeypatch.chdir(tmp_path)
    seed = time.time_ns() % 2**32
    print(f"seed {seed}, folder {tmp_path}")
    tried, _ = fuzz(name, SECONDS, seed)
    assert tried > 0


def test_the_fuzzer_finds_what_a_reader_chokes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chokes(data: bytes) -> None:
        if b"vllm:prefix_cache_hits_totalNaN" in data:
            raise KeyError("found")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(READERS, "page", chokes)
    with pytest.raises(KeyError, match="found"):
        fuzz("page", 60, seed=1)
    assert b"vllm:prefix_cache_hits_totalNaN" in (tmp_path / "crash-page").read_bytes()


@pytest.mark.parametrize("name", READERS)
def test_no_seed_repeated_costs_more_than_its_length(name: str) -> None:
    def cost(data: bytes, size: int) -> float:
        body = data[1:] if name == "run" else data
        many = (body * (size // max(1, len(body)) + 1))[:size]
        started = time.process_time()
        READERS[name](data[:1] + many if name == "run" else many)
        return time.process_time() - started

    slow = []
    for data in seeds_of(name):
        large = cost(data, 4 * SMALL)
        if large > 0.25 and large > 8 * min(cost(data, SMALL) for _ in range(3)):
            again = min(cost(data, 4 * SMALL) for _ in range(2)), min(cost(data, SMALL) for _ in range(3))
            slow += [again] if again[0] > 8 * again[1] else []
    assert slow == []
