"""Server-sent events out of bytes, exact whatever the borders of the pieces.

Events are split on bytes, never on decoded text: JSON may hold U+2028, U+2029 and U+0085 raw, which `str.splitlines` would cut.
Grammar: WHATWG HTML, "Server-sent events", 9.2.6: lines end in LF, CRLF or CR; a leading BOM is dropped; `:` starts a comment.
Of the fields only `data` matters to a chat stream.
"""

from __future__ import annotations

LINE_LIMIT = 8 << 20
"""Bytes that one line, one event or one whole JSON answer may have."""

_BOM = b"\xef\xbb\xbf"


class LineTooLong(ValueError):
    """A line, or the data of one event, passed the limit."""


class SseReader:
    """Bytes in, payloads of complete events out. Linear in the number of bytes, however they are cut."""

    __slots__ = ("_after_cr", "_data", "_data_bytes", "_limit", "_rest", "_rest_bytes", "_started", "inside")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._started = False
        self.inside = True
        """Whether the stream stands inside a line or an event, or before its first byte. If not, the next piece begins with an event."""

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads of the events that this piece ends. Raises LineTooLong."""
        if not self._rest and not self._data and len(piece) <= self._limit:
            payloads = _whole_events(piece)
            if payloads is not None:
                self._started = True
                self.inside = False
                return payloads
        self.inside = True
        if not self._started:
            piece = self._start(piece)
        if self._after_cr and piece:
            self._after_cr = False
            if piece[0] == 10:
                piece = piece[1:]
        events: list[bytes] = []
        if b"\r" in piece:
            piece = self._without_cr(piece)
        lines = piece.split(b"\n")
        last = lines.pop()
        for line in lines:
            if self._rest:
                self._rest.append(line)
                line = b"".join(self._rest)
                self._rest.clear()
                self._rest_bytes = 0
            if not line:
                if self._data:
                    event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    self._data.clear()
                    self._data_bytes = 0
                    if event:
                        events.append(event)
            else:
                self._line(line)
        if last:
            self._rest.append(last)
            self._rest_bytes += len(last)
            if self._rest_bytes > self._limit:
                raise LineTooLong(f"a line of the stream is longer than {self._limit} bytes")
        return events

    def close(self) -> list[bytes]:
        """What an ended connection leaves: an event without its blank line. The standard drops it; a truncated answer is
        better told by what it held, and without its finish_reason it is no success anyway."""
        if self._rest:
            line = b"".join(self._rest)
            self._rest.clear()
            self._line(line)
        event = b"\n".join(self._data)
        self._data.clear()
        return [event] if event else []

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
        elif line == b"data":
            value = b""
        else:
            return
        self._data_bytes += len(value) + 1  # the line break that joins them
        if self._data_bytes > self._limit or len(line) > self._limit:
            raise LineTooLong(f"an event of the stream is longer than {self._limit} bytes")
        self._data.append(value)

    def _start(self, piece: bytes) -> bytes:
        """Drop a leading byte order mark, which may itself be cut."""
        if self._rest:
            piece = b"".join(self._rest) + piece
            self._rest.clear()
            self._rest_bytes = 0
        if len(piece) < 3 and _BOM.startswith(piece):
            if piece:
                self._rest.append(piece)
                self._rest_bytes = len(piece)
            return b""
        self._started = True
        return piece[3:] if piece.startswith(_BOM) else piece

    def _without_cr(self, piece: bytes) -> bytes:
        """CRLF and lone CR as LF. A CR at the very end may be half of a CRLF: its LF is dropped when it comes."""
        self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _whole_events(piece: bytes) -> list[bytes] | None:
    """What a piece says that holds nothing but whole events of one `data: ` line each, as nearly every piece does; else None."""
    if piece[-2:] != b"\n\n" or b"\r" in piece:
        return None
    payloads = []
    for block in piece[:-2].split(b"\n\n"):
        # An event without data is none: `feed` tells it apart line by line.
        if block[:6] != b"data: " or len(block) == 6 or b"\n" in block:
            return None
        payloads.append(block[6:])
    return payloads
