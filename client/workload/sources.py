"""`synthetic`, a folder, one picture, a JSONL manifest or Parquet files, opened as a numbered series of pictures."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from client.core.cases import Box, ImageCase
from client.core.images import MAX_BYTES, clean_jpeg, displayed_size, open_picture, orientation, variant
from client.core.pictures import synthetic
from client.core.plan import Workload
from client.errors import UsageError
from client.workload.parquet import SUFFIX as PARQUET
from client.workload.parquet import Row, read_image, read_rows
from client.workload.truth import GivenBoxes, boxes_as_sent

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".avifs"}
    | {".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi", ".heic", ".heif", ".psd", ".pcx"}
)
MANIFEST_SUFFIXES = (".jsonl", ".ndjson")
SEED_STRIDE = 1_000_003
"""Between the variants of two seeds: more than a run has of one picture."""
CHECKED_AT_ONCE = 256
"""So many files are opened (not decoded) before anything is sent; the others when their turn comes."""


class Pictures(Protocol):
    """Pictures by number, without end. `len` is how many the run asked for, `distinct` how many different originals they come from."""

    @property
    def distinct(self) -> int: ...

    @property
    def note(self) -> str:
        """One sentence for the person who started the run."""

    @property
    def repeat(self) -> bool:
        """One picture is sent again and again."""

    def __len__(self) -> int: ...

    def number(self, i: int) -> int:
        """The number under which picture `i` is kept: 0 always when one picture is repeated."""

    def case(self, i: int) -> ImageCase:
        """May raise UsageError: a file can be damaged or gone."""


@dataclass(frozen=True, slots=True)
class SyntheticPictures:
    """Photos drawn from a seed; a different one for each number."""

    seed: int
    width: int
    height: int
    count: int
    repeat: bool = False
    counted: bool = True
    """Whether `count` is how many will be sent, and no mere bound."""

    @property
    def distinct(self) -> int:
        return 1 if self.repeat else self.count

    @property
    def note(self) -> str:
        kind = "1 synthetic picture, repeated"
        if not self.repeat:
            kind = (
                f"{self.count} different synthetic pictures"
                if self.counted
                else "a different synthetic picture in each request"
            )
        return f"{kind}, {self.width}x{self.height}, seed {self.seed}"

    def __len__(self) -> int:
        return self.count

    def number(self, i: int) -> int:
        return 0 if self.repeat else i

    def case(self, i: int) -> ImageCase:
        return synthetic(self.seed, self.number(i), self.width, self.height)


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture file, or one row of a Parquet file, whose content is known by its digest then.

    `copy` counts earlier entries with the same content: such a picture starts as a variant.
    """

    path: Path
    name: str
    boxes: GivenBoxes | None = None
    copy: int = 0
    row: Row | None = None
    digest: bytes | None = None

    def read(self) -> bytes:
        """The bytes of the picture. UsageError when it cannot be read."""
        return read_file(self.path, self.name) if self.row is None else read_image(self.path, self.row, self.name)


@dataclass(frozen=True, slots=True)
class FilePictures:
    """Files, used in order and again from the start: from then on as variants with other pixels."""

    entries: tuple[Entry, ...]
    max_side: int
    count: int
    repeat: bool = False
    skipped: int = 0
    """Files of a folder that are no pictures by their names."""
    seed: int = 0
    """Makes the variants of one run other pictures than those of another: a server remembers the last run's."""
    counted: bool = True
    """Whether `count` is how many will be sent, and no mere bound."""

    @property
    def distinct(self) -> int:
        if self.repeat:
            return 1
        return sum(1 for entry in self.entries[: self.count] if entry.copy == 0)

    @property
    def note(self) -> str:
        if self.repeat:
            return f"1 picture, repeated ({self.entries[0].name})"
        text = f"{self.distinct} distinct picture{'s' if self.distinct != 1 else ''}"
        if self.count > self.distinct:
            requests = f"{self.count} requests" if self.counted else "as many requests as there is time for"
            text += f" for {requests}: the others are variants whose pixels differ, so that no cache can answer them"
        if self.skipped:
            text += f" ({self.skipped} file{'s' if self.skipped > 1 else ''} without a picture's name left out)"
        return text

    def __len__(self) -> int:
        return self.count

    def number(self, i: int) -> int:
        return 0 if self.repeat else i

    def case(self, i: int) -> ImageCase:
        turn, index = divmod(self.number(i), len(self.entries))
        entry = self.entries[index]
        data = entry.read()
        boxes = self._boxes(entry, data)
        jpeg, width, height = clean_jpeg(data, self.max_side, entry.name)
        case = ImageCase(image_id=entry.name, jpeg=jpeg, width=width, height=height, boxes=boxes, source="file")
        # Copies of one file are 0, 1, 2 ... in the first turn; the second turn goes on after the last of them.
        number = entry.copy + turn * (1 + max((e.copy for e in self.entries), default=0))
        return variant(case, number + SEED_STRIDE * self.seed) if number or self.seed else case

    def check(self, index: int) -> None:
        """Opens the header of one file; UsageError when it is no picture or its boxes cannot be."""
        entry = self.entries[index]
        data = entry.read()
        self._boxes(entry, data)

    def _boxes(self, entry: Entry, data: bytes) -> tuple[Box, ...] | None:
        picture = open_picture(data, entry.name)
        if entry.boxes is None:
            return None
        return boxes_as_sent(entry.boxes, picture.size, displayed_size(picture), orientation(picture))


def read_file(path: Path, name: str) -> bytes:
    """The bytes of a picture file, one more than may be read of a longer one. UsageError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None


def open_pictures(
    workload: Workload, seed: int, count: int, *, allow_outside: bool = False, counted: bool = True
) -> FilePictures | SyntheticPictures:
    """The pictures that `workload.images` names, for `count` requests. Every error is a UsageError that names the place.

    Only as much is read as `count` needs; `counted` False: it is a bound, for a load that ends by time. `allow_outside` lets a manifest name files outside its own folder.
    """
    if workload.images == "synthetic":
        try:
            pictures = SyntheticPictures(seed, workload.width, workload.height, count, workload.repeat_image, counted)
            synthetic(seed, 0, workload.width, workload.height)
        except ValueError as error:
            raise UsageError(
                f"Synthetic pictures of {workload.width}x{workload.height}, seed {seed}: {error}.", ""
            ) from None
        return pictures
    place = Path(workload.images).expanduser()
    wanted = 1 if workload.repeat_image else max(1, count)
    skipped = 0
    if place.is_dir():
        entries, skipped = _folder(place, wanted)
    elif place.suffix.lower() in MANIFEST_SUFFIXES and place.exists():
        from client.workload.manifest import read_manifest  # brings pydantic, which a folder does not need

        lines = read_manifest(place, wanted, allow_outside=allow_outside)
        entries = [Entry(line.path, line.name, line.boxes) for line in lines]
    elif place.suffix.lower() == PARQUET and place.exists():
        entries = _rows([place], wanted)
    elif place.exists():
        entries = [Entry(place, place.name)]
    else:
        raise UsageError(
            f"--images {workload.images}: there is no such file or folder.",
            "Give `synthetic`, a folder of pictures, one picture, a manifest ending in .jsonl, or a .parquet file.",
        )
    opened = FilePictures(_counted(entries), workload.max_side, count, workload.repeat_image, skipped, seed, counted)
    for index in range(min(len(entries), CHECKED_AT_ONCE)):
        opened.check(index)
    return opened


def _folder(place: Path, wanted: int) -> tuple[list[Entry], int]:
    """The first pictures of a folder and all folders in it, sorted by path; hidden ones are left out."""
    found: list[str] = []
    tables: list[str] = []
    others = 0

    def unreadable(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions.")

    for folder, folders, files in os.walk(place, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES:
                found.append(path.relative_to(place).as_posix())
                continue
            others += 1
            if path.suffix.lower() == PARQUET:
                tables.append(path.relative_to(place).as_posix())
    if not found and tables:
        return _rows([place / name for name in sorted(tables)], wanted), others - len(tables)
    if not found:
        what = f"{others} files, none of them a picture by its name" if others else "nothing in it"
        raise UsageError(
            f"The folder {place} has {what}.", "Point --images at a folder with .jpg, .png or .webp files."
        )
    found.sort()
    return [Entry(place / name, name) for name in found[:wanted]], others


def _rows(files: list[Path], wanted: int) -> list[Entry]:
    return [Entry(row.path, row.name, row.boxes, 0, row.row, row.digest) for row in read_rows(files, wanted)]


def _counted(entries: list[Entry]) -> tuple[Entry, ...]:
    """Numbers the entries that show the same picture: same file, or same bytes (looked at only where sizes are equal)."""
    if any(entry.digest is not None for entry in entries):
        return _numbered([(entry, entry.digest) for entry in entries])
    try:
        sizes = [entry.path.stat().st_size for entry in entries]
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from None
    alike = Counter(sizes)
    digests: dict[Path, bytes] = {}
    for entry, size in zip(entries, sizes, strict=True):
        if alike[size] > 1 and entry.path not in digests:
            digests[entry.path] = hashlib.sha256(entry.read()).digest()
    return _numbered([(entry, digests.get(entry.path)) for entry in entries])


def _numbered(keyed: list[tuple[Entry, bytes | None]]) -> tuple[Entry, ...]:
    """Each entry with the count of earlier ones of the same key; None: no other has its content."""
    seen: Counter[bytes] = Counter()
    counted = []
    for entry, key in keyed:
        counted.append(entry if key is None else replace(entry, copy=seen[key]))
        if key is not None:
            seen[key] += 1
    return tuple(counted)
