"""Folders, single pictures, manifests and synthetic series; bodies built ahead. Real files, real threads and processes."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.core.blocks import arm_plan
from client.core.cases import ImageCase
from client.core.pictures import synthetic
from client.core.plan import LoadProfile, Workload
from client.errors import UsageError
from client.workload import Bodies, BodyStore, SyntheticPictures, open_pictures
from client.workload.manifest import MAX_LINE
from client.workload.spill import Encoded, Spill
from client.workload.truth import GivenBoxes, boxes_as_sent

ROOT = Path(__file__).parents[2]
SIZE = (96, 72)


def photo(number: int, size: tuple[int, int] = SIZE) -> bytes:
    return synthetic(9, number, *size).jpeg


def write(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        place = folder / name.replace("__", "/").replace("_jpg", ".jpg").replace("_txt", ".txt").replace("_png", ".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def lines(folder: Path, *entries: object) -> Path:
    place = folder / "list.jsonl"
    place.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    return place


def decoded(case: ImageCase) -> bytes:
    return Image.open(io.BytesIO(case.jpeg)).convert("RGB").tobytes()


def test_a_folder_is_read_sorted_with_its_folders_and_without_hidden_files(tmp_path: Path) -> None:
    write(tmp_path, b_jpg=photo(1), a__z_jpg=photo(2), c_jpg=photo(3), notes_txt=b"hello")
    (tmp_path / ".hidden.jpg").write_bytes(b"no picture")
    pictures = open_pictures(Workload(images=str(tmp_path)), 0, 3)
    assert [pictures.case(i).image_id for i in range(3)] == ["a/z.jpg", "b.jpg", "c.jpg"]
    assert pictures.case(1).jpeg == photo(1)
    assert (len(pictures), pictures.distinct) == (3, 3)
    assert pictures.note == "3 distinct pictures (1 file without a picture's name left out)"


def test_too_few_pictures_go_on_as_variants_and_the_number_is_told(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1), b_jpg=photo(2))
    pictures = open_pictures(Workload(images=str(tmp_path)), 0, 7)
    cases = [pictures.case(i) for i in range(7)]
    assert len({decoded(case) for case in cases}) == 7
    assert [case.source for case in cases] == ["file"] * 2 + ["variant"] * 5
    assert pictures.distinct == 2
    assert pictures.note.startswith("2 distinct pictures for 7 requests: the others are variants")


def test_copies_of_one_file_are_not_taken_for_different_pictures(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1), b_jpg=photo(1), c_jpg=photo(2))
    pictures = open_pictures(Workload(images=str(tmp_path)), 0, 9)
    assert pictures.distinct == 2
    assert len({decoded(pictures.case(i)) for i in range(9)}) == 9


def test_a_repeated_image_is_one_and_the_same(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1), b_jpg=photo(2))
    for images in (str(tmp_path), "synthetic"):
        pictures = open_pictures(Workload(images=images, repeat_image=True, width=96, height=72), 0, 5)
        assert pictures.case(4) == pictures.case(0)
        assert pictures.distinct == 1
        assert "repeated" in pictures.note


def test_a_number_of_pictures_that_is_a_mere_bound_is_not_told(tmp_path: Path) -> None:
    drawn = open_pictures(Workload(width=64, height=64), 0, 10**9, counted=False)
    assert drawn.note == "a different synthetic picture in each request, 64x64, seed 0"
    write(tmp_path, a_jpg=photo(1))
    found = open_pictures(Workload(images=str(tmp_path)), 0, 10**9, counted=False)
    assert found.note.startswith(
        "1 distinct picture for as many requests as there is time for: the others are variants"
    )


def test_a_single_picture_and_a_synthetic_series(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1))
    one = open_pictures(Workload(images=str(tmp_path / "a.jpg")), 0, 3)
    assert (one.distinct, one.case(0).jpeg, one.case(0).boxes) == (1, photo(1), None)
    series = open_pictures(Workload(width=96, height=72), 4, 3)
    assert series.case(2) == synthetic(4, 2, 96, 72)
    assert (series.distinct, series.note) == (3, "3 different synthetic pictures, 96x72, seed 4")


def test_a_manifest_gives_boxes_in_every_frame_and_order(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1, (200, 100)))
    place = lines(
        tmp_path,
        {"image": "a.jpg", "boxes": [[0.1, 0.2, 0.5, 0.9]]},
        "",
        {"image": "a.jpg", "boxes": [[100, 200, 500, 900]], "frame": "grid1000"},
        {"image": "a.jpg", "boxes": [[20, 20, 100, 90]], "frame": "pixels"},
        {"image": "a.jpg", "boxes": [[0.2, 0.1, 0.9, 0.5]], "order": "yxyx"},
        {"image": "a.jpg", "boxes": []},
        {"image": "a.jpg"},
    )
    pictures = open_pictures(Workload(images=str(place), max_side=64), 0, 6)
    cases = [pictures.case(i) for i in range(6)]
    assert all(case.boxes == ((0.1, 0.2, 0.5, 0.9),) for case in cases[:4])
    assert [case.boxes for case in cases[4:]] == [(), None]
    assert {(case.width, case.height) for case in cases} == {(64, 32)}
    assert pictures.distinct == 1
    assert len({decoded(case) for case in cases}) == 6


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_of_the_stored_pixels_turn_with_the_picture(turn: int) -> None:
    """A white patch on black: where it is displayed must be where its box goes."""
    stored = Image.new("L", (80, 40))
    stored.paste(255, (8, 4, 40, 12))
    exif = Image.Exif()
    exif[0x0112] = turn
    out = io.BytesIO()
    stored.save(out, "PNG", exif=exif)
    from PIL import ImageOps

    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue())))) > 127
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    height, width = shown.shape
    seen = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
    given = GivenBoxes(((8, 4, 40, 12),), "pixels", "xyxy", True, "here")
    (box,) = boxes_as_sent(given, (80, 40), (width, height), turn)
    assert box == pytest.approx(seen)
    shown_already = GivenBoxes((seen,), "unit", "xyxy", False, "here")
    assert boxes_as_sent(shown_already, (80, 40), (width, height), turn)[0] == pytest.approx(seen)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("{broken", "line 2: the line: .*JSON"),
        ('{"boxes": []}', "line 2: image: Field required"),
        ('{"image": "a.jpg", "boxs": []}', "line 2: boxs: Extra"),
        ('{"image": "a.jpg", "boxes": [[1, 2, 3]]}', "line 2: boxes.0"),
        ('{"image": "a.jpg", "frame": "mm"}', "line 2: frame"),
        ('{"image": "a.jpg", "boxes": [[0.5, 0.1, 0.2, 0.9]]}', "line 2: the box .* swapped"),
        ('{"image": "a.jpg", "boxes": [[12, 10, 30, 40]]}', "line 2: the box .* not inside"),
        ('{"image": "../secret.jpg"}', "line 2: ../secret.jpg lies outside"),
        ('{"image": "/etc/passwd"}', "line 2: /etc/passwd lies outside"),
        ('{"image": "link.jpg"}', "line 2: link.jpg lies outside"),
        ('{"image": "https://example.org/a.jpg"}', "line 2: .* web address"),
        ('{"image": "missing.jpg"}', "line 2: there is no file"),
        ('{"image": "a\\u0000.jpg"}', "line 2: the image path has a zero byte"),
        ("[" * 100_000, "line 2: the line"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, fact: str) -> None:
    inner = write(tmp_path / "inner", a_jpg=photo(1))
    write(tmp_path, secret_jpg=photo(2))
    (inner / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    place = lines(inner, {"image": "a.jpg"}, line)
    with pytest.raises(UsageError, match=fact) as raised:
        open_pictures(Workload(images=str(place)), 0, 9)
    assert raised.value.hint or "zero byte" in fact


def test_outside_its_folder_a_manifest_may_point_only_when_told(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write(tmp_path, secret_jpg=photo(2))
    place = lines(inner, {"image": "../secret.jpg"})
    assert open_pictures(Workload(images=str(place)), 0, 1, allow_outside=True).case(0).jpeg == photo(2)


def test_an_endless_line_is_refused_without_being_read(tmp_path: Path) -> None:
    place = tmp_path / "huge.jsonl"
    with place.open("wb") as file:
        file.truncate(1 << 30)  # a gigabyte of zeros, sparse on the disk
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="line 1 is longer"):
            open_pictures(Workload(images=str(place)), 0, 1)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE
    finally:
        tracemalloc.stop()


def test_only_what_is_needed_of_a_manifest_is_read(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1))
    place = lines(tmp_path, {"image": "a.jpg"}, "{broken")
    assert len(open_pictures(Workload(images=str(place)), 0, 1)) == 1


@pytest.mark.parametrize(
    ("files", "fact"),
    [
        ({}, "has nothing in it"),
        ({"a_txt": b"x", "b_txt": b"y"}, "has 2 files, none of them a picture"),
        ({"a_jpg": b"<html>"}, "a.jpg is no image"),
        ({"a_jpg": b""}, "a.jpg is empty"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, files: dict[str, bytes], fact: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(UsageError, match=fact) as raised:
        open_pictures(Workload(images=str(tmp_path)), 0, 4)
    assert raised.value.hint


def test_a_missing_path_and_impossible_sizes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_pictures(Workload(images=str(tmp_path / "nothing")), 0, 1)
    with pytest.raises(UsageError, match="10x10"):
        open_pictures(Workload(width=10, height=10), 0, 1)
    with pytest.raises(UsageError, match="lists no picture"):
        open_pictures(Workload(images=str(lines(tmp_path, ""))), 0, 1)


async def test_a_truncated_picture_stops_the_preparation_and_is_named(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1), b_jpg=photo(2)[:-900])
    bodies = Bodies(open_pictures(Workload(images=str(tmp_path)), 0, 2), Workload(), "m")
    with pytest.raises(UsageError, match=r"b\.jpg cannot be decoded"):
        await bodies.prepare(range(2))
    bodies.close()


def sent_picture(body: bytes) -> bytes:
    url = json.loads(body)["messages"][0]["content"][0]["image_url"]["url"]
    return base64.b64decode(url.partition(",")[2], validate=True)


async def test_bodies_hold_the_pictures_and_targets_share_them(tmp_path: Path) -> None:
    pictures = SyntheticPictures(5, *SIZE, count=6)
    store = BodyStore(pictures)
    first, second = (Bodies(pictures, Workload(), name, store=store) for name in ("bf16", "fp8"))
    await first.prepare(range(6))
    held = store.held_bytes
    for i in range(6):
        a, b = await first.get(i), await second.get(i)
        case = pictures.case(i)
        assert sent_picture(a.body) == sent_picture(b.body) == case.jpeg
        assert (json.loads(a.body)["model"], json.loads(b.body)["model"]) == ("bf16", "fp8")
        assert (a.image_id, a.image) == (case.image_id, i)
    assert store.held_bytes == held
    assert list(second.drain()) == [pictures.case(i).fact() for i in range(6)], "once, whatever the targets"
    assert list(first.drain()) == []
    first.close()


@pytest.mark.parametrize("spill", [0, 1 << 20])
async def test_memory_stays_within_its_limit_and_nothing_is_lost(spill: int) -> None:
    pictures = SyntheticPictures(5, *SIZE, count=30)
    store = BodyStore(pictures, memory_bytes=20_000, spill_bytes=spill)
    bodies = Bodies(pictures, Workload(), "m", window=2, store=store)
    await bodies.prepare(range(30))
    for i in [*range(30), 3, 29, 0]:
        assert sent_picture((await bodies.get(i)).body) == pictures.case(i).jpeg
        largest = 8_000
        assert store.held_bytes <= 20_000 + 8 * largest
    bodies.close()


async def test_bodies_are_built_ahead_of_the_one_asked_for() -> None:
    pictures = SyntheticPictures(5, *SIZE, count=10)
    bodies = Bodies(pictures, Workload(), "m", window=3)
    await bodies.get(0)
    for _ in range(200):
        if all(bodies.store.ready(i) for i in (1, 2, 3)):
            break
        await asyncio.sleep(0.02)
    assert [bodies.store.ready(i) for i in range(6)] == [True] * 4 + [False] * 2
    bodies.close()


async def test_of_a_long_block_the_likely_ones_and_the_lead_out_are_built_and_the_rest_as_it_goes_on() -> None:
    pictures = SyntheticPictures(5, *SIZE, count=10**12)
    bodies = Bodies(pictures, Workload(), "m", window=3)
    await bodies.prepare(range(10**9), 3, range(10**9, 10**9 + 2))
    assert [bodies.store.ready(i) for i in (0, 5, 6, 10**9, 10**9 + 1)] == [True, True, False, True, True]
    for i in range(9):
        await bodies.get(i)
        for _ in range(400):
            if bodies.store.ready(i + 3):
                break
            await asyncio.sleep(0.01)
        assert [bodies.store.ready(k) for k in (i + 1, i + 2, i + 3)] == [True] * 3, i
        assert not bodies.store.ready(max(6, i + 4))
        assert not bodies.store.busy(max(6, i + 4))
    bodies.close()


async def test_a_repeated_picture_is_built_once_however_long_the_block() -> None:
    pictures = SyntheticPictures(5, *SIZE, count=10**12, repeat=True)
    bodies = Bodies(pictures, Workload(), "m")
    await bodies.prepare(range(10**9), 10**8)
    assert (await bodies.get(10**9 - 1)).image == 0
    assert len(list(bodies.drain())) == 1
    bodies.close()


async def test_memory_is_the_same_for_a_few_pictures_and_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file, and read back without a task switch. What must leave memory inside a block was written before it began."""
    written: list[int] = []
    real = Spill.write
    pictures = SyntheticPictures(5, *SIZE, count=60)
    store = BodyStore(pictures, memory_bytes=30_000)
    bodies = Bodies(pictures, Workload(), "m", store=store)
    await bodies.prepare(range(60))
    assert all(store.ready(i) for i in range(60))

    def write(spill: Spill, number: int, encoded: Encoded) -> bool:
        if number not in spill:
            written.append(number)
        return real(spill, number, encoded)

    monkeypatch.setattr(Spill, "write", write)
    for i in range(60):
        found = bodies.get(i)
        with pytest.raises(StopIteration) as got:
            found.send(None)
        assert sent_picture(got.value.value.body) == pictures.case(i).jpeg
        assert store.held_bytes <= 30_000
    assert not written
    assert [fact.image_id for fact in bodies.drain()] == [pictures.case(i).image_id for i in range(60)]
    bodies.close()


@pytest.mark.parametrize(("folder", "error", "at_hand"), [(None, errno.EAGAIN, False), ("/dev/shm", None, True)])
def test_the_file_is_read_without_waiting_where_that_is_sure(
    folder: str | None, error: int | None, at_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", folder)
    spill = Spill(1 << 20)
    case = SyntheticPictures(5, *SIZE, count=1).case(0)
    encoded = Encoded(case.fact(), b"text")
    assert spill.write(0, encoded)
    if error is not None:

        def preadv(*_: object) -> int:
            raise OSError(error, "")

        monkeypatch.setattr("os.preadv", preadv)
    assert (spill.read(0, wait=False) == encoded) is at_hand
    assert spill.read(0) == encoded
    spill.close()


async def test_where_no_file_can_be_written_pictures_are_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**named: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    pictures = SyntheticPictures(5, *SIZE, count=30)
    bodies = Bodies(pictures, Workload(), "m", store=BodyStore(pictures, memory_bytes=20_000))
    await bodies.prepare(range(30))
    assert all(bodies.store.ready(i) for i in range(30))
    assert sent_picture((await bodies.get(29)).body) == pictures.case(29).jpeg
    bodies.close()


async def test_many_synthetic_pictures_are_drawn_by_processes() -> None:
    pictures = SyntheticPictures(6, *SIZE, count=26)
    bodies = Bodies(pictures, Workload(), "m")
    await bodies.prepare(range(26))
    assert all(bodies.store.ready(i) for i in range(26))
    assert sent_picture((await bodies.get(25)).body) == pictures.case(25).jpeg
    bodies.close()


def test_a_helper_whose_parent_went_before_it_came_up_ends_too() -> None:
    code = "import time; from client.workload.store import become_helper; become_helper({}); time.sleep(30)"

    def helper(parent: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code.format(parent)], cwd=ROOT)

    with helper(os.getpid()) as cared_for, helper(1 << 30) as orphan:
        try:
            assert orphan.wait(20) == 1
            with pytest.raises(subprocess.TimeoutExpired):
                cared_for.wait(1)
        finally:
            cared_for.kill()
            orphan.kill()


async def test_the_loop_is_free_while_bodies_are_built() -> None:
    pictures = SyntheticPictures(7, 640, 480, count=12)
    bodies = Bodies(pictures, Workload(), "m")
    task = asyncio.create_task(bodies.prepare(range(12)))
    turns = 0
    while not task.done():
        await asyncio.sleep(0.005)
        turns += 1
    await task
    assert turns > 5
    bodies.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, a_jpg=photo(1))
    (tmp_path / "a.jpg").chmod(0)
    with pytest.raises(UsageError, match=r"a\.jpg cannot be read"):
        open_pictures(Workload(images=str(tmp_path)), 0, 1)


async def test_a_prepared_block_draws_nothing_of_the_next_one() -> None:
    """Found on a GPU host: pictures of later blocks were drawn inside the block that was measured, and the load generator was late."""
    pictures = open_pictures(Workload(width=64, height=64), 0, 200)
    bodies = Bodies(pictures, Workload(width=64, height=64), "m")
    of_the_other_target = Bodies(pictures, Workload(width=64, height=64), "n", store=bodies.store)
    try:
        await bodies.prepare(range(8))
        for number in range(8):
            await bodies.get(number)
            await of_the_other_target.get(number)
        assert [number for number in range(8, 200) if bodies.store.busy(number) or bodies.store.ready(number)] == []
    finally:
        bodies.close()


def test_no_file_comes_back_while_another_is_unused(tmp_path: Path) -> None:
    """Numbers were set aside for a second start that never came: the pictures of the warm-up came back as `p000.jpg~1` instead."""
    for k in range(10):
        (tmp_path / f"p{k:03}.jpg").write_bytes(photo(k))
    stages = arm_plan(LoadProfile(requests=6, warmup=3))
    order = [slot.image for slots in (*stages.cold, *stages.warmup, *stages.levels[0]) for slot in slots]
    for seed in (0, 3):
        pictures = open_pictures(Workload(images=str(tmp_path)), seed, stages.images)
        names = [pictures.case(number).image_id for number in order]
        assert [name.partition("~")[0] for name in names] == [f"p{k:03}.jpg" for k in range(10)]
        assert seed or not any("~" in name for name in names)
    more = arm_plan(LoadProfile(requests=9, warmup=3))
    pictures = open_pictures(Workload(images=str(tmp_path)), 0, more.images)
    numbers = [slot.image for slots in (*more.cold, *more.warmup, *more.levels[0]) for slot in slots]
    assert [pictures.case(n).image_id for n in numbers][10:] == ["p000.jpg~1", "p001.jpg~1", "p002.jpg~1"]
