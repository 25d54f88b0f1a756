"""Where samples go: a bounded ring for /samples, the newest state for /metrics, and the file, which has all."""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import BinaryIO

import msgspec

from server.gpu.wire import EVERYTHING, Sample, line

RING_NS = 15 * 60 * 1_000_000_000
RING_BYTES = 64 * 1024 * 1024
DISORDER_NS = 5_000_000_000
"""Lines of several threads may enter a little out of order; a search from the end goes this far past what it looks for."""


MEMORY = frozenset({"used_v1", "used_v2", "reserved", "total"})


def _kind(s: Sample) -> str:
    if s.energy_mj is not None:
        return "energy"
    other = (s.sm_mhz, s.power_mw, s.gpu_util, s.temp_c, s.reasons)
    partial = other == (None,) * len(other) and s.absent.keys() <= MEMORY
    return "memory" if partial else "full"


def _merged(lines: list[Sample]) -> Sample:
    """`lines` oldest first: each adds what it has, and takes away what it says is absent."""
    fields: dict[str, object] = {}
    for sample in lines:
        found = msgspec.structs.asdict(sample)
        fields |= {k: v for k, v in found.items() if v is not None or k not in fields or k in sample.absent}
    return msgspec.convert(fields, Sample)


class Hub:
    """Thread-safe. Memory is bounded by age and by bytes, whatever comes in."""

    def __init__(self, out: BinaryIO | None = None, ring_ns: int = RING_NS, ring_bytes: int = RING_BYTES) -> None:
        self._out, self._ring_ns, self._ring_bytes = out, ring_ns, ring_bytes
        self._ring: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._newest: dict[tuple[int, str | None], dict[str, Sample]] = {}
        self.lines = 0
        self.dropped_until_ns = 0
        """Stamp of the newest line that has left the ring; 0 while it still holds everything."""
        self.write_error: str | None = None

    def emit(self, sample: Sample) -> None:
        data = line(sample)
        with self._lock:
            self._ring.append((sample.mono_ns, data))
            self._bytes += len(data)
            self.lines += 1
            self._trim(sample.mono_ns)
            self._keep(sample)
            self._write(data)

    def note(self, data: bytes) -> None:
        """A line for the file alone."""
        with self._lock:
            self._write(data)

    def _trim(self, newest_ns: int) -> None:
        while self._ring and (self._bytes > self._ring_bytes or self._ring[0][0] < newest_ns - self._ring_ns):
            stamp, data = self._ring.popleft()
            self._bytes -= len(data)
            self.dropped_until_ns = max(self.dropped_until_ns, stamp)

    def _keep(self, sample: Sample) -> None:
        """The newest line of each kind, for /metrics. A lost GPU's line wipes what was known before."""
        kinds = self._newest.setdefault((sample.gpu, sample.uuid), {})
        if EVERYTHING in sample.absent:
            kinds.clear()
        kinds[_kind(sample)] = sample

    def _write(self, data: bytes) -> None:
        if self._out is None or self.write_error is not None:
            return
        try:
            self._out.write(data)
        except OSError as error:
            self.write_error = str(error)
            print(f"nvml sidecar: the file can no longer be written ({error}); HTTP goes on.", file=sys.stderr)

    def since(self, mono_ns: int, limit: int | None = None) -> bytes:
        """Lines stamped after `mono_ns`, oldest first; with `limit`, the oldest so many of them, so that a reader can page."""
        found = []
        with self._lock:
            for stamp, data in reversed(self._ring):
                if stamp <= mono_ns - DISORDER_NS:
                    break
                if stamp > mono_ns:
                    found.append((stamp, data))
        found.sort(key=lambda item: item[0])
        return b"".join(data for _, data in found[:limit])

    def newest(self) -> list[Sample]:
        """One merged sample for each GPU: its newest full reading, renewed by later partial ones (memory, energy)."""
        with self._lock:
            every = [list(kinds.values()) for kinds in self._newest.values()]
        return [_merged(sorted(lines, key=lambda s: s.mono_ns)) for lines in every]

    @property
    def held_bytes(self) -> int:
        return self._bytes
