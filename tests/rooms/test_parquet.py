"""Parquet files in the layout of openfoodfacts/nutrition-table-detection, written here with our own pictures."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.core.pictures import synthetic
from client.core.plan import Workload
from client.errors import UsageError
from client.workload import open_pictures

SCHEMA = pa.schema([
    ("image_id", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ("width", pa.int64()), ("height", pa.int64()),
    ("meta", pa.struct([("barcode", pa.string())])),
    ("objects", pa.struct([("bbox", pa.list_(pa.list_(pa.float32()))), ("category_id", pa.list_(pa.int64())), ("category_name", pa.list_(pa.string()))])),
])  # fmt: skip


def row(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "image_id": f"00{number}_1", "image": {"bytes": synthetic(9, number, 96, 72).jpeg, "path": None}, "width": 96, "height": 72,
        "meta": {"barcode": "1"},
        "objects": {"bbox": [[0.1, 0.25, 0.5, 0.75]], "category_id": [0], "category_name": ["nutrition-table"]},
    } | changed  # fmt: skip


def table(path: Path, rows: list[dict[str, Any]], rows_in_group: int = 2) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=rows_in_group)
    return path


def refused(place: Path, match: str, count: int = 5) -> None:
    with pytest.raises(UsageError, match=match):
        open_pictures(Workload(images=str(place)), 0, count)


def test_pictures_come_in_order_with_their_boxes_turned_to_x_first(tmp_path: Path) -> None:
    place = table(tmp_path / "val.parquet", [row(n) for n in range(5)])
    pictures = open_pictures(Workload(images=str(place)), 0, 5)
    cases = [pictures.case(i) for i in (4, 0, 1, 2, 3)]  # out of order, across row groups
    assert [case.image_id for case in cases] == ["004_1", "000_1", "001_1", "002_1", "003_1"]
    assert [case.jpeg for case in cases] == [synthetic(9, n, 96, 72).jpeg for n in (4, 0, 1, 2, 3)]
    assert cases[0].boxes == ((0.25, pytest.approx(0.1), 0.75, 0.5),)
    assert pictures.note == "5 distinct pictures"


def test_a_folder_of_parquet_files_is_one_series_and_only_what_is_needed_is_read(tmp_path: Path) -> None:
    table(tmp_path / "train-00000-of-00002.parquet", [row(n) for n in range(3)])
    table(tmp_path / "train-00001-of-00002.parquet", [row(3), row(4, image=None)])
    (tmp_path / "README.md").write_text("")
    pictures = open_pictures(Workload(images=str(tmp_path)), 0, 4)
    assert [pictures.case(i).image_id for i in range(4)] == ["000_1", "001_1", "002_1", "003_1"]
    refused(tmp_path, r"00001.*row 1: the picture itself is not in the file")


def test_the_same_bytes_under_two_ids_and_two_rows_of_one_id_are_told_apart(tmp_path: Path) -> None:
    place = table(tmp_path / "a.parquet", [row(0), row(0, image_id="copy"), row(1, image_id="000_1")])
    pictures = open_pictures(Workload(images=str(place)), 0, 3)
    assert pictures.distinct == 2
    names = [pictures.case(i).image_id for i in range(3)]
    assert len(set(names)) == 3
    assert len({pictures.case(i).jpeg for i in range(3)}) == 3, "a copy is varied, so that no cache answers it"


def test_a_worker_process_gets_places_and_not_pictures(tmp_path: Path) -> None:
    place = table(tmp_path / "a.parquet", [row(n) for n in range(4)])
    pictures = open_pictures(Workload(images=str(place)), 0, 4)
    sent = pickle.dumps(pictures)
    assert len(sent) < 2_000 < len(pictures.case(0).jpeg)
    assert pickle.loads(sent).case(3).jpeg == pictures.case(3).jpeg


def test_a_table_without_a_picture_table_is_known_to_show_none(tmp_path: Path) -> None:
    empty = {"bbox": [], "category_id": [], "category_name": []}
    place = table(tmp_path / "a.parquet", [row(0, objects=empty), row(1, objects=None)])
    assert [open_pictures(Workload(images=str(place)), 0, 2).case(i).boxes for i in range(2)] == [(), ()]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("this is no table")
    refused(tmp_path / "text.parquet", r"text\.parquet cannot be read as Parquet")
    pq.write_table(pa.table({"image_id": ["a"], "image": [{"bytes": b"x"}]}), tmp_path / "other.parquet")
    refused(tmp_path / "other.parquet", r"no column objects\.bbox")
    refused(table(tmp_path / "none.parquet", []), "has no rows")
    three = {"bbox": [[0.1, 0.2, 0.3]], "category_id": [0], "category_name": ["x"]}
    refused(table(tmp_path / "three.parquet", [row(0, objects=three)]), "has not four numbers")
    outside = {"bbox": [[0.1, 0.2, 7.0, 0.9]], "category_id": [0], "category_name": ["x"]}
    refused(table(tmp_path / "out.parquet", [row(0, objects=outside)]), r"out\.parquet, 000_1: the box")
    refused(table(tmp_path / "junk.parquet", [row(0, image={"bytes": b"junk", "path": None})]), "000_1")
    whole = table(tmp_path / "torn.parquet", [row(n) for n in range(4)]).read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[:200] + b"\0" * 5000 + whole[5200:])
    refused(tmp_path / "torn.parquet", r"torn\.parquet|000_1")


def test_without_the_package_the_next_step_is_a_command(tmp_path: Path) -> None:
    place = table(tmp_path / "a.parquet", [row(0)])
    code = f"""
import sys
sys.modules["pyarrow"] = None
from client.core.plan import Workload
from client.errors import UsageError
from client.workload import open_pictures
try:
    open_pictures(Workload(images={str(place)!r}), 0, 1)
except UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the package pyarrow" in done.stdout
    assert "pip install" in done.stdout


def test_a_run_without_parquet_does_not_load_the_package() -> None:
    code = "import sys, client.bench, client.report; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
