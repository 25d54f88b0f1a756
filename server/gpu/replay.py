"""A recording played again in real time, for demos and tests on a machine without a GPU. Every line says `fake`."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from server.gpu.wire import Clock, Emit, GpuInfo, Info, Sample, Stamp, boot_id, now

GAP_NS = 100_000_000
"""Pause between the end of the recording and its next round, and in place of a hole in it."""
HOLE_NS = 1_000_000_000


class BadRecording(Exception):
    pass


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """`samples` in order of time; `info` None when the file has no info line."""

    samples: tuple[Sample, ...]
    info: Info | None = None


def read(path: Path) -> Recording:
    """Raises BadRecording with the line that cannot be used. A torn last line is left out: recordings end by Ctrl-C."""
    samples: list[Sample] = []
    info: Info | None = None
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadRecording(f"{path} cannot be read: {error.strerror}.") from error
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            if text.startswith(b'{"info"'):
                info = msgspec.json.decode(text, type=dict[str, Info])["info"]
            else:
                samples.append(msgspec.json.decode(text, type=Sample))
        except msgspec.MsgspecError as error:
            if number == len(lines):
                break
            raise BadRecording(f"{path}:{number} is not a sample: {error}.") from error
    if not samples:
        raise BadRecording(f"{path} holds no sample.")
    return Recording(samples=tuple(sorted(samples, key=lambda s: s.mono_ns)), info=info)


def offsets(stamps: list[int]) -> list[int]:
    """Time of each sample from the first, with holes (a recording trimmed to its interesting parts) closed up."""
    found = [0]
    for before, after in pairwise(stamps):
        step = after - before
        found.append(found[-1] + (step if step <= HOLE_NS else GAP_NS))
    return found


class Replay:
    """Gives the samples of a recording again, stamped from `start` on; counters go on rising from round to round."""

    def __init__(self, recording: Recording, start: Stamp) -> None:
        self.recording, self.start = recording, start
        self._offsets = offsets([s.mono_ns for s in recording.samples])
        self.round_ns = self._offsets[-1] + GAP_NS
        self._energy: dict[tuple[int, str | None], list[int]] = {}
        for sample in recording.samples:
            if sample.energy_mj is not None:
                self._energy.setdefault((sample.gpu, sample.uuid), []).append(sample.energy_mj)

    def at(self, number: int) -> Sample:
        """Sample `number` of an endless series; its stamps say when it is due."""
        rounds, index = divmod(number, len(self.recording.samples))
        sample = self.recording.samples[index]
        offset = self._offsets[index] + rounds * self.round_ns
        changes: dict[str, Any] = {
            "mono_ns": self.start.mono_ns + offset,
            "wall_ns": self.start.wall_ns + offset,
            "fake": True,
        }
        if sample.energy_mj is not None:
            series = self._energy[(sample.gpu, sample.uuid)]
            changes["energy_mj"] = sample.energy_mj + rounds * max(0, series[-1] - series[0])
        return msgspec.structs.replace(sample, **changes)

    def info(self, rate: float, memory_rate: float, host: str) -> Info:
        """The recording's own info, marked; a bare one is made when the file has none."""
        base = self.recording.info
        gpus = base.gpus if base else tuple(self._bare())
        return Info(
            mono_ns=self.start.mono_ns,
            wall_ns=self.start.wall_ns,
            host=host,
            boot_id=boot_id(),
            driver=base.driver if base else None,
            nvml=base.nvml if base else None,
            rate_hz=base.rate_hz if base else rate,
            memory_rate_hz=base.memory_rate_hz if base else memory_rate,
            fake=True,
            gpus=gpus,
        )

    def _bare(self) -> list[GpuInfo]:
        seen = {(s.gpu, s.uuid): s for s in self.recording.samples if s.total is not None}
        return [
            GpuInfo(
                gpu=gpu,
                uuid=uuid,
                memory_apis=tuple(a for a, v in (("v1", s.used_v1), ("v2", s.used_v2)) if v is not None),
                total=s.total,
                reserved=s.reserved,
            )
            for (gpu, uuid), s in seen.items()
        ]


class Player:
    """Emits the replay when its samples are due, until `stop`."""

    def __init__(self, replay: Replay, emit: Emit, clock: Clock = now) -> None:
        self.replay, self.emit, self.clock = replay, emit, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while True:
            sample = self.replay.at(number)
            if self._stop.wait(max(0.0, (sample.mono_ns - self.clock().mono_ns) / 1e9)):
                return
            self.emit(sample)
            number += 1

    def stop(self, timeout_s: float = 2.0) -> None:
        self._stop.set()
        self._thread.join(timeout_s)
