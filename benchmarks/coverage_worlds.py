"""Does the analysis keep its promises? Thousands of campaigns with a known answer, and how often its intervals and words were right.

    benchmarks/coverage [--json FILE] [--campaigns N] [--seed S] [--quick]

Rows: world, design, metric, n per arm, true effect, coverage of the 95 % interval, wrong-word rate, power. `naive A then B` is what a
plain benchmark does with the same worlds. A wrong word is a direction where there is no effect, the opposite direction, or `equivalent`
for an effect above 3 %. Power is the share that named the right direction; at no effect, the share that said `equivalent` or `no difference`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import time
import zlib
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.worlds import WORLDS, World, campaign, naive_interval, plan
from client.core.findings import Word
from client.core.names import NAMES
from client.core.plan import Design
from client.core.steady import LEAST
from client.core.verdict import judge, word_of

EFFECTS = (0.0, 0.01, 0.03, 0.10, 0.30)
MIN_EFFECT = 0.03
BEGIN, END = "<!-- coverage -->", "<!-- /coverage -->"
RIGHT_AT_ZERO = (Word.EQUIVALENT, Word.NO_DIFFERENCE)


class Question(NamedTuple):
    world: World
    design: str
    metric: str
    n: int
    effect: float
    campaigns: int
    seed: int


def questions(campaigns: int, seed: int, quick: bool) -> list[Question]:
    """Costly rows first, so that no process is left alone with one. Campaigns of 30 requests cost little: twice as many of them. A stay in
    which no end of a warm-up can be found (fewer than LEAST requests) is not asked about."""
    found = []
    for world in WORLDS:
        for n in world.sizes:
            for effect in EFFECTS[::3] if quick else EFFECTS:
                found += [
                    Question(world, design, "e2e_p50", n, effect, campaigns * (2 if n == 30 else 1), seed)
                    for design in ("interleaved", "serial", "naive A then B")
                    if not (any(world.cold) and design == "serial" and n // 2 < LEAST)
                ]
        if not quick:
            found += [
                Question(world, "interleaved", metric, 120, 0.0, campaigns, seed)
                for metric in ("e2e_mean", "e2e_p95", "requests_per_s")
                if metric == "e2e_p95" or world.tail is None
            ]
    return sorted(found, key=lambda question: (-question.n, question.design.startswith("naive")))


def answer(question: Question) -> dict[str, Any]:
    world, design, metric, n, effect, campaigns, seed = question
    stream = zlib.crc32(f"{world.name}|{design}|{metric}|{n}|{effect}".encode())
    truth = math.log1p(effect) * (-1 if metric == "requests_per_s" else 1)
    covered = wrong = right = bounded = 0
    widths = []
    for number in range(campaigns):
        rng = np.random.default_rng([seed, stream, number])
        low, high, word = (
            _naive(world, n, effect, rng)
            if design.startswith("naive")
            else _ours(world, Design(design), metric, n, effect, rng)
        )
        bounded += math.isfinite(low)
        covered += low <= truth <= high
        widths.append((high - low) / 2)
        wrong += _is_wrong(word, effect)
        right += word in RIGHT_AT_ZERO if effect == 0 else word in (Word.SLOWER, Word.LOWER)
    share = 1 / campaigns
    return {
        "world": world.name, "design": design, "metric": metric, "n": n, "true_effect": effect, "coverage": covered * share,
        "wrong_word_rate": wrong * share, "power": right * share, "half_width": round(float(np.median(widths)), 5), "campaigns": campaigns,
        "promised": world.promised and not design.startswith("naive"), "bounded": bounded * share,
    }  # fmt: skip


def _ours(
    world: World, design: Design, metric: str, n: int, effect: float, rng: np.random.Generator
) -> tuple[float, float, Word]:
    both = campaign(world, design, n, effect, rng)
    judged = judge(both, metric, plan(design, int(rng.integers(2**31)), world.in_flight))
    log = judged.found.log
    if log is None:
        return -math.inf, math.inf, Word.INCONCLUSIVE
    return log.low, log.high, word_of(log, NAMES[metric], MIN_EFFECT, judged.floor)


def _naive(world: World, n: int, effect: float, rng: np.random.Generator) -> tuple[float, float, Word]:
    low, high = naive_interval(world, n, effect, rng)
    word = Word.SLOWER if low > 0 else Word.FASTER if high < 0 else Word.NO_DIFFERENCE
    return low, high, word


def _is_wrong(word: Word, effect: float) -> bool:
    if effect == 0:
        return word in (Word.SLOWER, Word.FASTER, Word.HIGHER, Word.LOWER)
    return word in (Word.FASTER, Word.HIGHER) or (word is Word.EQUIVALENT and effect > MIN_EFFECT)


def table(rows: list[dict[str, Any]]) -> str:
    head = "| world | design | metric | n | true effect | coverage | wrong word | power | ± half width |\n|---|---|---|---|---|---|---|---|---|"
    lines = [
        f"| {r['world']} | {r['design']} | {r['metric']} | {r['n']} | {r['true_effect']:.0%} | {r['coverage']:.1%} | {r['wrong_word_rate']:.1%} | {r['power']:.1%} | {r['half_width']:.1%} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def compact(rows: list[dict[str, Any]]) -> str:
    """One line for each world, design, metric and n: what docs/statistics.md shows."""
    head = "| world | design | metric | n | coverage, mean (least) | wrong word at 0 % | power at 3 / 10 / 30 % | ± half width |\n|---|---|---|---|---|---|---|---|"
    lines = []
    for key, group in groupby(sorted(rows, key=_place), key=_place):
        found = {row["true_effect"]: row for row in group}
        covered = [row["coverage"] for row in found.values()]
        power = " / ".join(f"{found[effect]['power']:.0%}" for effect in (0.03, 0.10, 0.30) if effect in found) or "–"
        zero = found[0.0]
        lines.append(
            f"| {' | '.join(map(str, key[1:]))} | {sum(covered) / len(covered):.1%} ({min(covered):.1%}) | {zero['wrong_word_rate']:.1%} | {power} | {zero['half_width']:.1%} |"
        )
    return "\n".join([head, *lines])


def _place(row: dict[str, Any]) -> tuple[int, str, str, str, int]:
    order = [world.name for world in WORLDS]
    return order.index(row["world"]), row["world"], row["design"], row["metric"], row["n"]


def into_docs(path: Path, text: str) -> None:
    """Puts the table between the two marks in a Markdown file."""
    before, rest = path.read_text().split(BEGIN)
    path.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks/coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    parser.add_argument(
        "--campaigns",
        type=int,
        default=400,
        metavar="N",
        help="campaigns for each row (default 400), twice as many for n = 30",
    )
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="put the compact table between its marks in this Markdown file"
    )
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="take the rows of an earlier --json instead of running"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="at once (default: one for each CPU)"
    )
    parser.add_argument("--world", metavar="NAME", help="this one alone")
    parser.add_argument("--quick", action="store_true", help="two effects and the median only")
    asked = parser.parse_args()
    if asked.campaigns < 1 or asked.processes < 1:
        parser.error("--campaigns and --processes: at least 1")
    if asked.world not in (None, *(world.name for world in WORLDS)):
        parser.error(f"--world: one of {', '.join(world.name for world in WORLDS)}")
    for file in (asked.json, asked.docs):
        if file is not None and not file.parent.is_dir():
            parser.error(f"{file.parent} is no folder")
    if asked.rows:
        saved = json.loads(asked.rows.read_text())
        print(table(saved["rows"]))
        if asked.docs:
            into_docs(asked.docs, compact(saved["rows"]))
        return
    begin = time.perf_counter()
    asks = [one for one in questions(asked.campaigns, asked.seed, asked.quick) if asked.world in (None, one.world.name)]
    rows = answers(asks, asked.processes)
    print(table(rows))
    seconds = time.perf_counter() - begin
    some = "" if len(rows) == len(asks) else f" Interrupted: {len(rows)} of {len(asks)} rows."
    print(
        f"\n{asked.campaigns} campaigns a row, twice as many for n = 30, seed {asked.seed}, {seconds:.0f} s with {asked.processes} processes.{some}"
    )
    if asked.docs and not some:
        into_docs(asked.docs, compact(rows))
    if asked.json:
        told = {"campaigns": asked.campaigns, "seed": asked.seed, "seconds": round(seconds, 1), "complete": not some}
        asked.json.write_text(json.dumps(told | {"rows": rows}, indent=1) + "\n")


def answers(asks: list[Question], processes: int) -> list[dict[str, Any]]:
    """A row for each question, in the order of `_place`. Ctrl-C keeps what is answered."""
    rows: list[dict[str, Any]] = []
    columns = (TextColumn("campaigns"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        multiprocessing.get_context("spawn").Pool(processes, _leave_interrupts) as pool,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("", total=sum(question.campaigns for question in asks))
        try:
            for row in pool.imap_unordered(answer, asks):
                rows.append(row)
                bar.advance(task, row["campaigns"])
        except KeyboardInterrupt:
            pool.terminate()
    return sorted(rows, key=lambda row: (*_place(row), row["true_effect"]))


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
