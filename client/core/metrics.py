"""The one definition of each latency and throughput, over the measured requests of one arm.

    TTFT      sent -> first chunk that carries a token
    TPOT      (last token - first token) / (server's token count - 1); not defined for a single token
    ITL       gaps between successive token chunks of one answer (a chunk may hold several tokens)
    E2E       sent -> last token
    response  intended -> last token: a late generator cannot hide queueing (coordinated omission, Tene 2013)

A request that timed out is censored: it is known to last longer than its limit. It ranks after every answered request (infinity
inside this package) and is never dropped. Other failures have no latency; the error rate speaks of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.core.plan import Slo, Timeouts
from client.core.records import Outcome, Phase
from client.core.table import NEVER, OUTCOMES, Codes, Ints, Mask, RecordTable

Floats = npt.NDArray[np.float64]
MS = 1e6
_NO_FAULT = (Outcome.CANCELLED, Outcome.LOST)
"""Outcomes that say nothing about the server: neither answered nor failed."""
_LIMITS = {
    Outcome.TIMEOUT_CONNECT: "connect_s",
    Outcome.TIMEOUT_WRITE: "write_s",
    Outcome.TIMEOUT_FIRST_BYTE: "first_byte_s",
    Outcome.TIMEOUT_IDLE: "idle_s",
    Outcome.TIMEOUT_TOTAL: "total_s",
}


def _codes(outcomes: tuple[Outcome, ...]) -> list[int]:
    return [OUTCOMES.index(outcome) for outcome in outcomes]


@dataclass(frozen=True, slots=True)
class Arm:
    """The measured requests of one target, in the order in which they were sent. Latencies in ms: NaN not defined, inf timed out."""

    target: str
    rows: Ints
    image: Codes
    block: Ints
    index: Ints
    start_ns: Ints
    """sent, or intended where nothing was sent."""
    end_ns: Ints
    """last stamp of the request; NEVER where there is none."""
    ok: Mask
    counted: Mask
    """Says something of the server: all but cancelled and lost."""
    censored: Mask
    tokens: Ints
    prompt_tokens: Ints
    cached_tokens: Ints
    latency: dict[str, Floats]
    gaps: Floats
    """All gaps between token chunks of answered requests, ms."""
    gap_owner: Codes
    """Position in this arm that each gap belongs to."""
    limit_ms: float | None
    """The largest time that a timed-out request was waited for; None when none timed out."""

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, keep: Mask) -> Arm:
        """The same arm, only where `keep`."""
        place = (np.cumsum(keep) - 1).astype(np.int32)
        gap_keep = keep[self.gap_owner]
        return Arm(
            self.target, self.rows[keep], self.image[keep], self.block[keep], self.index[keep], self.start_ns[keep],
            self.end_ns[keep], self.ok[keep], self.counted[keep], self.censored[keep], self.tokens[keep],
            self.prompt_tokens[keep], self.cached_tokens[keep], {name: values[keep] for name, values in self.latency.items()},
            self.gaps[gap_keep], place[self.gap_owner[gap_keep]], self.limit_ms,
        )  # fmt: skip


def arm(
    table: RecordTable,
    target: str,
    timeouts: Timeouts,
    *,
    phase: Phase = Phase.MEASURE,
    level: int | None = None,
    with_gaps: bool = True,
) -> Arm:
    """The requests of `target` in `phase`, all levels of a sweep or one of them. Without gaps it is made in a fraction of the time."""
    rows = table.where(target, phase, level=level)
    start = np.where(table["sent_ns"][rows] == NEVER, table["intended_ns"][rows], table["sent_ns"][rows])
    rows = rows[np.argsort(start, kind="stable")]
    start = np.sort(start, kind="stable")
    outcome = table.outcome[rows]
    ok = outcome == OUTCOMES.index(Outcome.OK)
    censored = np.isin(outcome, _codes(tuple(o for o in OUTCOMES if o.censored)))
    last = np.maximum.reduce([table[name][rows] for name in ("last_token_ns", "done_ns", "first_byte_ns")])
    latency, limit = _latencies(table, rows, ok, censored, timeouts)
    gaps, owner = _gaps(table, rows, ok if with_gaps else np.zeros_like(ok))
    return Arm(
        target=target,
        rows=rows,
        image=table.image[rows],
        block=table["block"][rows],
        index=table["index"][rows],
        start_ns=start,
        end_ns=last,
        ok=ok,
        counted=~np.isin(outcome, _codes(_NO_FAULT)),
        censored=censored,
        tokens=table["completion_tokens"][rows],
        prompt_tokens=table["prompt_tokens"][rows],
        cached_tokens=table["cached_tokens"][rows],
        latency=latency,
        gaps=gaps,
        gap_owner=owner,
        limit_ms=limit,
    )


def _span_ms(later: Ints, earlier: Ints) -> Floats:
    """later - earlier in ms, NaN where either never happened."""
    known = (later != NEVER) & (earlier != NEVER)
    return np.where(known, (later - earlier) / MS, np.nan)


def _latencies(
    table: RecordTable, rows: Ints, ok: Mask, censored: Mask, timeouts: Timeouts
) -> tuple[dict[str, Floats], float | None]:
    sent, intended = table["sent_ns"][rows], table["intended_ns"][rows]
    first, last, done = table["first_token_ns"][rows], table["last_token_ns"][rows], table["done_ns"][rows]
    end = np.where(last == NEVER, done, last)  # a server that does not stream: the whole answer is its last token
    tokens = table["completion_tokens"][rows]
    several = np.where(tokens > 1, tokens - 1, 1)
    found = {
        "ttft": _span_ms(first, sent),
        # An answer that came in one piece (a proxy that buffers, a late reader) tells nothing of its pace: not defined, never 0.
        "tpot": np.where((tokens > 1) & (last > first), _span_ms(last, first) / several, np.nan),
        "e2e": _span_ms(end, sent),
        "response": _span_ms(end, intended),
    }
    for name, values in found.items():
        values[~ok] = np.nan
        if name != "tpot":  # a time-out says nothing of the pace of the tokens that did come
            values[censored] = np.inf
    seen = censored & (first != NEVER)
    found["ttft"][seen] = _span_ms(first, sent)[seen]  # timed out later: its first token had come and counts
    return found, _limit_ms(table, rows, censored, timeouts)


def _limit_ms(table: RecordTable, rows: Ints, censored: Mask, timeouts: Timeouts) -> float | None:
    if not censored.any():
        return None
    waited = _span_ms(table["done_ns"][rows], table["sent_ns"][rows])[censored]
    set_limits = [getattr(timeouts, _LIMITS[OUTCOMES[code]]) * 1e3 for code in table.outcome[rows][censored].tolist()]
    return float(np.max(np.where(np.isnan(waited), np.array(set_limits), waited)))


def _gaps(table: RecordTable, rows: Ints, ok: Mask) -> tuple[Floats, Codes]:
    """Gaps in ms and the position in `rows` that each belongs to. Written for few copies: a long run has ten million gaps."""
    start, stop = table.chunk_start[rows], table.chunk_start[rows + 1]
    sizes = np.where(ok, np.maximum(stop - start - 1, 0), 0)
    place = np.repeat(start - (np.cumsum(sizes) - sizes), sizes)
    place += np.arange(len(place))
    earlier = table.chunk_ns[place]
    place += 1
    gaps = table.chunk_ns[place]
    del place
    gaps -= earlier
    del earlier
    return gaps / MS, np.repeat(np.arange(len(rows), dtype=np.int32), sizes)


def meets(arm_: Arm, slos: tuple[Slo, ...]) -> Mask:
    """Answered requests that met every objective. For `itl` the largest gap counts; a single token meets any `tpot`.

    Only where `unknown_of` says that each can be judged.
    """
    good = arm_.ok.copy()
    for slo in slos:
        if slo.metric == "itl":
            worst = np.zeros(len(arm_))
            np.maximum.at(worst, arm_.gap_owner, arm_.gaps)
            good &= worst <= slo.limit_ms
        else:
            values = arm_.latency[slo.metric]
            good &= np.isnan(values) | (values <= slo.limit_ms)
    return good


def unknown_of(arm_: Arm, slos: tuple[Slo, ...]) -> str | None:
    """The first objective that some answered request cannot be held against: what is not known is not met, and not missed either."""
    for slo in slos:
        if slo.metric == "itl":
            judged = (np.bincount(arm_.gap_owner, minlength=len(arm_)) > 0) | (arm_.tokens == 1)
        else:
            judged = ~np.isnan(arm_.latency[slo.metric])
            judged |= (slo.metric == "tpot") & (arm_.tokens == 1)
        if bool((arm_.ok & ~judged).any()):
            return slo.metric
    return None


def batch_rates(arm_: Arm, weights: Floats, least: int = 4) -> tuple[Floats, Floats]:
    """Sums of `weights` over ended requests, and seconds, for each measured block: first measured send to last measured end.

    Edges (lead-in and lead-out) are other records and not counted. Blocks are cut into equal runs of completions where there are
    fewer than `least` blocks, so that an interval can be made.
    """
    blocks = np.unique(arm_.block)
    pieces = max(1, -(-least // max(len(blocks), 1)))
    sums: list[float] = []
    seconds: list[float] = []
    for block in blocks:
        inside = np.flatnonzero((arm_.block == block) & (arm_.end_ns != NEVER))
        if not len(inside):
            continue
        inside = inside[np.argsort(arm_.end_ns[inside], kind="stable")]
        begin = int(arm_.start_ns[inside].min())
        for chunk in np.array_split(inside, min(pieces, len(inside))):
            end = int(arm_.end_ns[chunk].max())
            if end > begin:
                sums.append(float(weights[chunk].sum()))
                seconds.append((end - begin) / 1e9)
            begin = end
    return np.array(sums), np.array(seconds)


def throughput_weights(arm_: Arm, slos: tuple[Slo, ...]) -> dict[str, Floats]:
    """What each request adds to a throughput; a token count that the server did not give leaves tokens/s out."""
    found = {"requests_per_s": arm_.ok.astype(np.float64)}
    if len(arm_) and bool((arm_.tokens[arm_.ok] != NEVER).all()):
        found["output_tokens_per_s"] = np.where(arm_.ok, arm_.tokens, 0).astype(np.float64)
    if slos and unknown_of(arm_, slos) is None:
        found["goodput_per_s"] = meets(arm_, slos).astype(np.float64)
    return found
