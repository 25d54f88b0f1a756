"""Synthetic photographs as files, with their true boxes: to look at, to train on, to measure other tools with.

    python -m client.make_images --out pictures --count 24
    python -m client.make_images --out train --count 20000 --size 1024x759,759x1024,800x600 --jobs 16

Picture i is photo i of the series --seed, in the sizes of --size by turns. Next to the files, truth.jsonl lists them with width, height
and box ([x_min, y_min, x_max, y_max] in 0..1), and is itself a manifest for `--images`. It is written line by line, each after its file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from client.core.pictures import synthetic
from client.errors import HalfweightError, RunDirError, UsageError

Size = tuple[int, int]


def make_one(out: Path, seed: int, sizes: Sequence[Size], number: int) -> str:
    """Writes one picture and gives its line of truth.jsonl."""
    width, height = sizes[number % len(sizes)]
    case = synthetic(seed, number, width, height)
    name = f"{number:06d}.jpg"
    (out / name).write_bytes(case.jpeg)
    boxes = [[round(v, 6) for v in box] for box in case.boxes or ()]
    return json.dumps({"image": name, "boxes": boxes, "width": width, "height": height})


def lines(out: Path, seed: int, sizes: Sequence[Size], numbers: Iterator[int], jobs: int) -> Iterator[str]:
    """The lines in order, made by `jobs` processes (1: in this one)."""
    make = partial(make_one, out, seed, sizes)
    if jobs == 1:
        yield from map(make, numbers)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        # In portions: `map` would queue every number at once.
        while portion := list(islice(numbers, 64 * jobs)):
            yield from pool.map(make, portion, chunksize=8)


def parse_sizes(text: str) -> list[Size]:
    sizes = []
    for part in text.split(","):
        width, _, height = part.strip().partition("x")
        if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
            raise UsageError(f"--size {text}: {part!r} is not WIDTHxHEIGHT.", "Example: --size 1024x759,759x1024")
        sizes.append((int(width), int(height)))
        if not all(56 <= side <= 8192 for side in sizes[-1]):
            raise UsageError(f"--size {text}: sides go from 56 to 8192 pixels.", "")
    return sizes


def run(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m client.make_images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures; made when it is not there")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="number of the first picture (default 0)")
    parser.add_argument("--size", default="1024x759", help="one or more WIDTHxHEIGHT, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each core)")
    asked = parser.parse_args(argv)
    sizes = parse_sizes(asked.size)
    if asked.count < 1 or asked.first < 0 or asked.seed < 0 or asked.jobs < 1:
        raise UsageError("--count and --jobs start at 1, --first and --seed at 0.", "")
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
        with (asked.out / "truth.jsonl").open("a" if asked.first else "w", encoding="utf-8", buffering=1) as truth:
            numbers = iter(range(asked.first, asked.first + asked.count))
            for done, line in enumerate(lines(asked.out, asked.seed, sizes, numbers, asked.jobs), 1):
                truth.write(line + "\n")
                if done % 1000 == 0:
                    print(f"{done} of {asked.count} pictures", file=sys.stderr, flush=True)
    except OSError as error:
        raise RunDirError(f"{asked.out} cannot be written: {error.strerror}.", "Choose another --out.") from None
    print(f"{asked.count} pictures and truth.jsonl in {asked.out}")


def main() -> int:
    try:
        run()
    except HalfweightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
