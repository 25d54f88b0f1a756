"""`python -m client.score` on files: figures, comparison, messages, and text that must not reach a terminal as it is."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.score import main

SHARED = Path(os.environ.get("HALFWEIGHT_SHARED") or Path(__file__).parents[2] / ".." / "shared")


def save(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    return path


def rows(number: int = 40, **more: object) -> list[dict[str, object]]:
    return [
        {
            "image_id": f"image {k}",
            "prediction": f"table({100 + k},200),(500,{600 + k % 3})",
            "gt_boxes": [[0.2, 0.1 + k / 1000, 0.6, 0.5]],
            **more,
        }
        for k in range(number)
    ]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_scores_a_file_of_either_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    code, out, _ = run(capsys, save(tmp_path / f"answers.{ending}", rows()), "--truth-order", "yxyx", "--json")
    report = json.loads(out)
    scores = report["files"][0]["quality"]["scores"]
    assert code == 0
    assert report["frame"] == "grid1000"
    assert scores["mean_iou"]["value"] == pytest.approx((14 + 13 * (400 / 401) + 13 * (400 / 402)) / 40)
    assert scores["precision"]["value"] == scores["recall"]["value"] == scores["f1"]["value"] == 1.0
    assert report["parity"] is None


def test_the_published_files_give_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    folder = SHARED / "data" / "openfoodfacts"
    if not folder.is_dir():
        pytest.skip(f"needs the third-party files in {folder} (set HALFWEIGHT_SHARED)")
    baseline, tuned = folder / "baseline_predictions.csv", folder / "finetuned_predictions.csv"
    code, out, _ = run(capsys, baseline, tuned, "--truth-order", "yxyx", "--box-frame", "grid1000")
    assert code == 0
    for figure in ("0.590405", "0.661417", "0.646154", "0.653696", "0.766073", "0.926829", "0.876923", "0.901186"):
        assert figure in out
    assert "=> better: More accurate" in out


def test_compares_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = [{**row, "prediction": "table(100,200),(500,400)"} for row in rows()]
    paths = save(tmp_path / "bf16.csv", rows()), save(tmp_path / "fp8.jsonl", worse)
    code, out, _ = run(capsys, *paths, "--truth-order", "yxyx")
    assert code == 0
    assert "=> worse: Less accurate: over 40 images" in out
    assert "bf16.csv" in out
    assert "fp8.jsonl" in out


def test_pixel_frames_need_sizes_and_use_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, save(tmp_path / "a.csv", rows()), "--box-frame", "pixels")
    assert code == 2
    assert "40 of 40 rows do not give it" in err
    sized = [{**row, "gt_boxes": [[100, 200, 500, 600]], "width": 1000, "height": 1000} for row in rows()]
    code, out, _ = run(
        capsys, save(tmp_path / "b.csv", sized), "--box-frame", "pixels", "--truth-frame", "pixels", "--json"
    )
    assert code == 0
    assert json.loads(out)["files"][0]["quality"]["scores"]["recall"]["value"] == 1.0


def test_warns_when_the_true_boxes_seem_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned = [{**row, "prediction": "t(100,600),(500,700)", "gt_boxes": [[0.6, 0.1, 0.7, 0.5]]} for row in rows()]
    path = save(tmp_path / "a.csv", turned)
    _, out, _ = run(capsys, path)
    assert "is --truth-order xyxy right?" in out
    _, out, _ = run(capsys, path, "--truth-order", "yxyx")
    assert "WARNING" not in out


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eno table\x9b31m\u200b\r\n\x00here"


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_no_control_character_of_an_answer_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: list[str]
) -> None:
    bad = [*rows(), {**rows(1)[0], "image_id": f"x{HOSTILE}", "prediction": HOSTILE}]
    _, out, _ = run(capsys, save(tmp_path / "a.jsonl", bad), "--truth-order", "yxyx", *as_json)
    assert all(char.isprintable() or char == "\n" for char in out)
    if not as_json:
        assert "no table" in out
        assert "1 of 41 answers hold no readable box" in out


def test_no_control_character_of_a_file_reaches_the_terminal_in_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.jsonl", [{f"pre{HOSTILE}": "x", "gt_boxes": []}])
    code, _, err = run(capsys, path)
    assert code == 2
    assert "no column 'prediction'" in err
    assert all(char.isprintable() or char == "\n" for char in err)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "", "holds no answers"),
        ("a.csv", "prediction,gt_boxes\n", "holds no answers"),
        ("a.csv", "text,gt_boxes\nx,[]\n", "line 2: no column 'prediction'; there are: text, gt_boxes"),
        ("a.csv", "prediction,gt_boxes\nx,nonsense\n", "line 2, gt_boxes: JSON is malformed"),
        ("a.csv", "prediction,gt_boxes\nx," + "[" * 5000 + "\n", "line 2, gt_boxes:"),
        ("a.csv", 'prediction,gt_boxes\nx,"[[0.1, 0.2, 0.1, 0.4]]"\n', "has no area or does not fit unit"),
        ("a.csv", 'prediction,gt_boxes\nx,"[[10, 20, 100, 400]]"\n', "--truth-frame unit, grid1000 or pixels"),
        ("a.csv", 'prediction,gt_boxes\nx,"[[0.1, 0.2, 0.3]]"\n', "is not a box of four numbers"),
        ("a.csv", 'prediction,gt_boxes\nx,"[[0.1, 0.2, true, 0.4]]"\n', "is not a box of four numbers"),
        ("a.csv", "prediction,gt_boxes,width\nx,[],wide\n", "width is 'wide'"),
        ("a.jsonl", '{"prediction": "x", "gt_boxes": []}\n{"pred', "line 2: Input data was truncated"),
        ("a.jsonl", '{"prediction": 7, "gt_boxes": []}\n', "'prediction' must be text"),
        ("a.jsonl", '{"prediction": "x", "gt_boxes": {}}\n', "not a list"),
        ("a.jsonl", "[1, 2]\n", "line 1: Expected `object`"),
        ("a.txt", "x", "Give a .csv or a .jsonl file"),
    ],
)
def test_errors_name_the_place_and_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, told: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    code, out, err = run(capsys, path)
    assert (code, out) == (2, "")
    assert err.startswith(f"halfweight: {path}")
    assert told in err
    assert err.count("\n") == 1


def test_missing_files_folders_and_wrong_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read: No such file" in run(capsys, tmp_path / "none.csv")[2]
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be read: Is a directory" in run(capsys, tmp_path / "folder.csv")[2]
    (tmp_path / "latin.csv").write_bytes(b"prediction,gt_boxes\n\xe9t\xe9,[]\n")
    assert "is not UTF-8 text" in run(capsys, tmp_path / "latin.csv")[2]
    (tmp_path / "latin.jsonl").write_bytes(b'{"prediction": "\xe9t\xe9", "gt_boxes": []}\n')
    code, _, err = run(capsys, tmp_path / "latin.jsonl")
    assert code == 2
    assert "line 1" in err


def test_answers_cut_at_the_limit_and_absent_answers_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = rows(38, finish_reason="stop")
    given.append({**given[0], "image_id": "cut", "prediction": "table(100,200),(500,6", "finish_reason": "length"})
    given.append({**given[0], "image_id": "none", "prediction": None})
    _, out, _ = run(capsys, save(tmp_path / "a.jsonl", given), "--truth-order", "yxyx")
    assert "2 of 40 answers hold no readable box" in out
    assert "1 of 40 answers were cut off" in out
    assert "image none: (no answer)" in out


def test_runs_as_a_module(tmp_path: Path) -> None:
    path = save(tmp_path / "answers.csv", rows())
    done = subprocess.run(
        [sys.executable, "-m", "client.score", str(path), "--truth-order", "yxyx"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "mean IoU per true box" in done.stdout
    helped = subprocess.run([sys.executable, "-m", "client.score", "--help"], capture_output=True, text=True)
    assert "examples:" in helped.stdout
    assert "gt_boxes" in helped.stdout
