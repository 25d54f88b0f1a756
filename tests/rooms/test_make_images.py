"""The command that writes synthetic pictures: its files, and the manifest that the client itself reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.core.pictures import synthetic
from client.core.plan import Workload
from client.errors import UsageError
from client.make_images import main, parse_sizes, run
from client.workload import open_pictures


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_pictures_and_their_truth(tmp_path: Path, jobs: str) -> None:
    run(["--out", str(tmp_path), "--count", "5", "--size", "96x72,72x96", "--seed", "3", "--jobs", jobs])
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert [(t["image"], t["width"], t["height"]) for t in truth[:2]] == [
        ("000000.jpg", 96, 72),
        ("000001.jpg", 72, 96),
    ]
    pictures = open_pictures(Workload(images=str(tmp_path / "truth.jsonl")), 0, 5)
    for number in range(5):
        made = synthetic(3, number, *((96, 72), (72, 96))[number % 2])
        case = pictures.case(number)
        assert case.jpeg == made.jpeg
        assert made.boxes is not None
        assert case.boxes is not None
        assert case.boxes[0] == pytest.approx(made.boxes[0], abs=1e-6)


def test_a_series_is_continued(tmp_path: Path) -> None:
    run(["--out", str(tmp_path), "--count", "2", "--size", "96x72", "--jobs", "1"])
    run(["--out", str(tmp_path), "--count", "2", "--first", "2", "--size", "96x72", "--jobs", "1"])
    names = [json.loads(line)["image"] for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert names == [f"{n:06d}.jpg" for n in range(4)]


@pytest.mark.parametrize("text", ["", "1024", "10x10", "1024x9999", "axb", "1024x759,", "-4x100", "１００x100"])
def test_a_size_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        parse_sizes(text)


def test_a_folder_that_cannot_be_written_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("sys.argv", ["make_images", "--out", str(tmp_path / "file" / "x"), "--count", "1"])
    assert main() == 6
    assert "cannot be written" in capsys.readouterr().err
