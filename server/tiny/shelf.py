"""Training pictures in device memory, ordered by size, growing while they are still being made.

A folder of `python -m client.make_images` is followed: its truth.jsonl gains a line after each picture is written. Pictures are decoded
by threads (Pillow lets go of the interpreter while it works), seen at the size of the server's image processor, and kept as bytes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from server.tiny.task import Box, seen_size

Size = tuple[int, int]
_PORTION = 64


def load(path: Path, max_pixels: int) -> tuple[Size, Any]:
    """A picture as the model sees it: its size (width, height) and its bytes, channels first."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    size = seen_size(rgb.width, rgb.height, max_pixels)
    pixels = np.asarray(rgb.resize(size, Image.Resampling.BICUBIC))
    return size, np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_truth(folder: Path) -> list[tuple[Path, Box]]:
    """All pictures of a finished folder with their one box."""
    lines = (folder / "truth.jsonl").read_text().splitlines()
    return [(folder / entry["image"], tuple(entry["boxes"][0])) for entry in map(json.loads, lines)]


def follow(folder: Path, stop: threading.Event) -> Iterator[list[tuple[Path, Box]]]:
    """Pictures in portions as they come; waits for more until told to stop."""
    truth = folder / "truth.jsonl"
    while not truth.exists() and not stop.is_set():
        time.sleep(0.2)
    pending = ""
    with truth.open() as file:
        while not stop.is_set():
            chunk = file.read(65536)
            if not chunk:
                time.sleep(0.1)
                continue
            *lines, pending = (pending + chunk).split("\n")
            entries = [json.loads(line) for line in lines]
            for first in range(0, len(entries), _PORTION):
                portion = entries[first : first + _PORTION]
                yield [(folder / entry["image"], tuple(entry["boxes"][0])) for entry in portion]


class Bin:
    """Pictures of one size and their boxes; the oldest give way when `capacity` is reached."""

    def __init__(self, size: Size, capacity: int, device: str) -> None:
        self.size, self.capacity, self.device = size, capacity, device
        self.filled = self.added = 0
        self._pixels = torch.empty((0, 3, size[1], size[0]), dtype=torch.uint8, device=device)
        self._boxes = torch.empty((0, 4), device=device)

    def add(self, pixels: Any, boxes: list[Box]) -> None:
        """`pixels`: bytes of several pictures, fewer than `capacity`."""
        count, room = len(boxes), len(self._pixels)
        if self.filled + count > room and room < self.capacity:
            more = min(self.capacity, max(256, 2 * room, self.filled + count)) - room
            self._pixels = torch.cat([self._pixels, self._pixels.new_empty((more, *self._pixels.shape[1:]))])
            self._boxes = torch.cat([self._boxes, self._boxes.new_empty((more, 4))])
        at = torch.arange(self.added, self.added + count, device=self.device) % self.capacity
        self._pixels[at] = torch.from_numpy(pixels).to(self.device)
        self._boxes[at] = torch.tensor(boxes, device=self.device)
        self.added += count
        self.filled = min(self.added, self.capacity)

    def draw(self, count: int, source: Any) -> tuple[Any, Any]:
        """`count` pictures (bytes) and boxes, by chance."""
        at = torch.from_numpy(source.integers(0, self.filled, count)).to(self.device)
        return self._pixels[at], self._boxes[at]


class Shelf:
    """Every picture so far, in a bin for each size. Filled by a background thread."""

    def __init__(self, folder: Path, max_pixels: int, capacity: int, device: str, threads: int) -> None:
        self._folder, self._max_pixels, self._capacity, self._device = folder, max_pixels, capacity, device
        self.bins: dict[Size, Bin] = {}
        self.error: BaseException | None = None
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = threads
        self._filler = threading.Thread(target=self._fill, daemon=True)
        self._filler.start()

    def __len__(self) -> int:
        return sum(b.filled for b in self.bins.values())

    @property
    def added(self) -> int:
        return sum(b.added for b in self.bins.values())

    def draw(self, count: int, source: Any) -> tuple[Any, Any]:
        """A batch of one size; sizes come in proportion to what they hold."""
        with self._lock:
            sizes = sorted(self.bins)
            weights = np.array([self.bins[size].filled for size in sizes], dtype=np.float64)
            chosen = self.bins[sizes[source.choice(len(sizes), p=weights / weights.sum())]]
            return chosen.draw(count, source)

    def wait_for(self, count: int, patience_s: float = 180.0) -> None:
        """Until so many pictures are there. RuntimeError when filling failed or takes longer than `patience_s`."""
        give_up = time.monotonic() + patience_s
        while len(self) < count:
            if self.error is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{self._folder} gave {len(self)} pictures of {count}") from self.error
            time.sleep(0.1)

    def close(self) -> None:
        self._stop.set()
        self._filler.join()

    def _fill(self) -> None:
        try:
            with ThreadPoolExecutor(self._threads) as pool:
                for portion in follow(self._folder, self._stop):
                    loaded = list(pool.map(lambda item: (*load(item[0], self._max_pixels), item[1]), portion))
                    self._shelve(loaded)
        except BaseException as error:  # handed to the training loop, which would wait for ever
            self.error = error

    def _shelve(self, loaded: list[tuple[Size, Any, Box]]) -> None:
        sizes = {size for size, _, _ in loaded}
        for size in sizes:
            pixels = np.stack([p for s, p, _ in loaded if s == size])
            with self._lock:
                known = self.bins.get(size)
                if known is None:
                    known = self.bins[size] = Bin(size, self._capacity, self._device)
                known.add(pixels, [box for s, _, box in loaded if s == size])
