"""A temporary file of encoded pictures: each is written once, and read back without waiting where the kernel still has it."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import tempfile
import threading

import msgspec

from client.core.body import mime_type
from client.core.records import ImageFact
from client.errors import UsageError
from client.workload.sources import Pictures

_NOWAIT = getattr(os, "RWF_NOWAIT", None)


class Encoded(msgspec.Struct, frozen=True):
    """A picture as it stands inside a body, and what is written down of it."""

    fact: ImageFact
    text: bytes


def build(pictures: Pictures, number: int) -> Encoded:
    """Draws, or reads and cleans, one picture. Runs in a thread or in a process."""
    case = pictures.case(number)
    if (
        kind := mime_type(case.jpeg)
    ) != "image/jpeg":  # the data URI of every body says JPEG: it must be true of the bytes
        raise UsageError(f"{case.image_id} came out as {kind}, not as a JPEG.", "Please report this picture.")
    return Encoded(case.fact(), base64.b64encode(case.jpeg))


class Spill:
    """Up to `limit` bytes. The file has no name, so that nothing is left behind whatever happens."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._file: int | None = None
        self._places: dict[int, tuple[int, int, int]] = {}
        self._end = 0
        self._broken = False
        self._lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._places

    @property
    def used(self) -> bool:
        return self._file is not None

    @property
    def full(self) -> bool:
        return self._end >= self._limit

    @property
    def broken(self) -> bool:
        """No file can be written here: the disk is full, or nothing may be written to it."""
        return self._broken

    def write(self, number: int, encoded: Encoded) -> bool:
        """Whether the picture is in the file now. From any thread."""
        if number in self._places:
            return True
        fact = msgspec.json.encode(encoded.fact)
        size = len(encoded.text) + len(fact)
        with self._lock:
            if self._end + size > self._limit:
                return False
            if self._file is None and not self._open():
                return False
            file, at = self._file, self._end
            self._end += size
        try:
            assert file is not None
            os.pwritev(file, [encoded.text, fact], at)
        except OSError:
            self._break()  # no room on the disk
            return False
        self._places[number] = (at, len(encoded.text), len(fact))
        return True

    def read(self, number: int, *, wait: bool = True) -> Encoded | None:
        """None when it is not in the file, or when it is and `wait` is False, but only the disk has it."""
        place = self._places.get(number)
        if place is None or self._file is None:
            return None
        at, size, more = place
        if not wait and not self._at_hand(at, size + more):
            return None
        data = os.pread(self._file, size + more, at)
        return Encoded(msgspec.json.decode(data[size:], type=ImageFact), data[:size])

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None
        self._places.clear()

    def _open(self) -> bool:
        try:
            with tempfile.TemporaryFile(prefix="halfweight-bodies-") as file:
                self._file = os.dup(file.fileno())
        except OSError:
            self._break()
            return False
        return True

    def _break(self) -> None:
        """From here on pictures are held in memory, or built again."""
        self._limit, self._broken = 0, True

    def _at_hand(self, at: int, size: int) -> bool:
        """Whether both ends are in the page cache: a file that was just written is there as a whole, or has begun to leave it."""
        if _NOWAIT is None or self._file is None:
            return False
        try:
            ends = [os.preadv(self._file, [bytearray(1)], place, _NOWAIT) for place in (at, at + size - 1)]
        except OSError as error:  # a file system that cannot tell is most often a tmpfs, which is memory
            return error.errno == errno.EOPNOTSUPP
        return ends == [1, 1]
