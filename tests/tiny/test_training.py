"""The training script on a CPU, for a few steps. Runs where torch and transformers are installed; they are not in the lock."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from client.make_images import run as make_images  # noqa: E402
from server.tiny import lesson, network, train  # noqa: E402
from server.tiny.shelf import Bin, Shelf, follow  # noqa: E402


def test_the_faster_network_gives_what_transformers_gives() -> None:
    torch.manual_seed(0)
    model, words = network.new_model().eval(), train.Words("cpu")
    pixels, boxes = torch.rand(2, 3, 112, 140), torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.3, 0.123, 0.4567, 0.9997]])
    answers = lesson.spell(boxes, words.template, words.digits)
    image = model.config.image_token_id
    ids = torch.cat([words.before.expand(2, -1), torch.full((2, 20), image), words.after.expand(2, -1), answers], dim=1)
    rows = network.patches(pixels).view(2, -1, 3, 1, 14, 14).expand(-1, -1, -1, 2, -1, -1).reshape(-1, 1176)
    with torch.no_grad():
        ours = network.predict(model, network.see(model, pixels), (4, 5), words.before, words.after, answers)
        theirs = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=rows,
            image_grid_thw=torch.tensor([[1, 8, 10]] * 2),
            mm_token_type_ids=(ids == image).int(),
        ).logits[:, -len(words.template) - 1 : -1]
    assert (ours - theirs).abs().max() < 1e-4


def test_answers_are_spelt_as_they_are_read() -> None:
    words = train.Words("cpu")
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.0004, 0.1239, 0.4567, 0.9997]])
    texts = [
        words.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        for ids in lesson.spell(boxes, words.template, words.digits)
    ]
    assert texts == ["[0.100, 0.200, 0.500, 0.900]", "[0.000, 0.124, 0.457, 1.000]"]


def test_an_altered_picture_keeps_its_box_on_the_table() -> None:
    torch.manual_seed(3)
    pixels = torch.zeros(64, 3, 84, 112, dtype=torch.uint8)
    pixels[:, :, 20:50, 30:80] = 255
    boxes = torch.tensor([[30 / 112, 20 / 84, 80 / 112, 50 / 84]]).expand(64, -1)
    image, moved = lesson.altered(pixels, boxes)
    for picture, box in zip(image, moved.tolist(), strict=True):
        bright = picture[0] > (picture[0].min() + picture[0].max()) / 2
        columns, rows = bright.any(0).nonzero().flatten(), bright.any(1).nonzero().flatten()
        seen = (columns[0] / 112, rows[0] / 84, (columns[-1] + 1) / 112, (rows[-1] + 1) / 84)
        assert [float(v) for v in seen] == pytest.approx(box, abs=0.015)


def test_the_best_answer_has_the_least_loss() -> None:
    words, boxes = train.Words("cpu"), torch.tensor([[0.123, 0.2, 0.5, 0.9]])
    answers = lesson.spell(boxes, words.template, words.digits)

    def loss(said: object) -> float:
        logits = (
            torch.nn.functional.one_hot(lesson.spell(torch.tensor([said]), words.template, words.digits), 1024) * 8.0
        )
        return float(lesson.digit_loss(logits, boxes, answers, words.digits))

    assert (
        loss([0.123, 0.2, 0.5, 0.9])
        < loss([0.125, 0.2, 0.5, 0.9])
        < loss([0.129, 0.2, 0.5, 0.9])
        < loss([0.323, 0.2, 0.5, 0.9])
    )


def test_coverage_is_the_covered_part_of_each_cell() -> None:
    covered = lesson.coverage(torch.tensor([[0.25, 0.0, 0.75, 0.5]]), 2, 2)
    assert covered.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_a_bin_forgets_the_oldest() -> None:
    import numpy as np

    kept = Bin((28, 28), 5, "cpu")
    for start in range(0, 12, 3):
        pixels = np.stack([np.full((3, 28, 28), start + k, dtype=np.uint8) for k in range(3)])
        kept.add(pixels, [(0.0, 0.0, 1.0, (start + k) / 100) for k in range(3)])
    pixels, boxes = kept.draw(200, np.random.default_rng(0))
    assert sorted({int(p[0, 0, 0]) for p in pixels}) == [7, 8, 9, 10, 11]
    assert (pixels[:, 0, 0, 0] / 100 - boxes[:, 3]).abs().max() < 1e-6


def test_a_growing_folder_is_followed(tmp_path: Path) -> None:
    stop, seen = threading.Event(), []
    truth = tmp_path / "truth.jsonl"
    coming = follow(tmp_path, stop)
    with truth.open("w") as file:
        file.write('{"image": "0.jpg", "boxes": [[0, 0, 1, 1]]}\n{"image": "1.j')
        file.flush()
        seen += next(coming)
        file.write('pg", "boxes": [[0, 0, 1, 1]]}\n')
        file.flush()
        seen += next(coming)
    stop.set()
    assert [path.name for path, _ in seen] == ["0.jpg", "1.jpg"]
    assert list(coming) == []


def test_a_shelf_without_pictures_gives_up(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 200_704, 10, "cpu", 1)
    with pytest.raises(RuntimeError, match="gave 0 pictures of 4"):
        shelf.wait_for(4, patience_s=0.3)
    shelf.close()


def test_a_few_steps_train_stop_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("held", "1"), ("train", "2")):
        make_images(["--out", str(tmp_path / name), "--count", "12", "--size", "112x84", "--seed", seed, "--jobs", "1"])
    common = [
        "--pictures",
        str(tmp_path / "train"),
        "--held-out",
        str(tmp_path / "held"),
        "--out",
        str(tmp_path / "out"),
    ]
    common += [
        "--batch",
        "4",
        "--start-with",
        "12",
        "--held-out-count",
        "3",
        "--warm-steps",
        "2",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    train.main([*common, "--steps", "3"])
    first = capsys.readouterr().out
    assert "from step 0" in first
    assert "saved" in first
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "preprocessor_config.json",
    }
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 20_000_000
    train.main([*common, "--steps", "2"])
    assert "from step 3" in capsys.readouterr().out
    from transformers import Qwen2VLForConditionalGeneration

    loaded = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert sum(p.numel() for p in loaded.parameters()) < 10_000_000
