"""The one file that the sidecar's side and the client's side both read: they may not import one another, so this holds the contract."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from client.core.records import GpuProcess, GpuSample
from server.gpu.wire import Process, Sample, line

GOLDEN = Path(__file__).parent.parent / "golden" / "gpu"
LINES = (GOLDEN / "contract.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("side", [Sample, GpuSample])
def test_each_side_reads_every_line_and_writes_it_back_the_same(side: type[msgspec.Struct]) -> None:
    for text in LINES:
        assert line(msgspec.json.decode(text, type=side)) == text


@pytest.mark.parametrize(("sample", "process"), [(Sample, Process), (GpuSample, GpuProcess)])
def test_the_first_line_has_every_field_of_each_side(
    sample: type[msgspec.Struct], process: type[msgspec.Struct]
) -> None:
    full = msgspec.json.decode(LINES[0])
    assert list(full) == list(sample.__struct_fields__)
    assert list(full["processes"][0]) == list(process.__struct_fields__)


def test_zero_and_absent_are_told_apart() -> None:
    memory = msgspec.json.decode(LINES[1], type=GpuSample)
    assert memory.used_v2 == 0
    assert memory.power_mw is None
    assert msgspec.json.decode(LINES[4], type=GpuSample).processes == ()


@pytest.mark.parametrize("name", ["bf16", "fp8"])
def test_the_recording_of_a_real_h100_is_in_this_form(name: str) -> None:
    texts = (GOLDEN / f"{name}.gpu.jsonl").read_bytes().splitlines()
    samples = [msgspec.json.decode(text, type=GpuSample) for text in texts]
    assert len(samples) > 300
    assert {s.used_v1 - s.used_v2 - s.reserved for s in samples if s.used_v1 and s.used_v2 and s.reserved} == {0}
