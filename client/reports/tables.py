"""Findings -> rows of text, used alike by the terminal and by Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import floor

from client.core.cut import label_of
from client.core.findings import Comparison, Findings, Memory, Parity, TargetFindings, Word
from client.core.gates import about
from client.core.names import NAMES
from client.core.room import size_to_tell
from client.core.verdict import spoils
from client.reports.format import NOT_MEASURED, SECONDARY, change, estimate, exact_change, gib, percent

_WORTH = re.compile(r"are worth (\d+) independent")

Row = list[str]

LATENCIES = (
    ("Latency (E2E), median", "e2e_ms_p50", "e2e_p50"),
    ("Latency (E2E), p95", "e2e_ms_p95", "e2e_p95"),
    ("Latency (E2E), p99", "e2e_ms_p99", "e2e_p99"),
    ("Response (from intended), median", "response_ms_p50", "response_p50"),
    ("Response (from intended), p95", "response_ms_p95", "response_p95"),
    ("Time to first token, median", "ttft_ms_p50", "ttft_p50"),
    ("Time to first token, p95", "ttft_ms_p95", "ttft_p95"),
    ("Time to first token, p99", "ttft_ms_p99", "ttft_p99"),
    ("Time per output token, median", "tpot_ms_p50", "tpot_p50"),
    ("Throughput", "requests_per_s", "requests_per_s"),
    ("Output tokens", "output_tokens_per_s", "output_tokens_per_s"),
    ("Goodput", "goodput_per_s", "goodput_per_s"),
)


def headers(findings: Findings) -> Row:
    names = [target.name for target in findings.targets.values()]
    if not findings.comparisons:
        return ["", *names]
    if len(findings.comparisons) == 1:
        return ["", *names, "Change"]
    return ["", *names, *(f"{pair.candidate} against {pair.baseline}" for pair in findings.comparisons)]


def main_rows(findings: Findings) -> list[Row]:
    """What the hand-made benchmark showed, then what it left out. Rows that nobody measured are in `not_measured`, not here."""
    rows = [
        _memory_row(findings, "Model weights", "weights_gib", lambda m: m.weights_gib),
        _memory_row(findings, "KV cache", "kv_cache_gib", lambda m: m.kv_cache_gib),
        _memory_row(findings, "KV cache, tokens", "kv_cache_tokens", lambda m: m.kv_cache_tokens, _kv_tokens),
        _memory_row(findings, _room(findings), "requests_at_once", _at_once, _at_once_text),
        _memory_row(findings, "Its processes on the GPU", "gpu_peak_gib", lambda m: m.process_gib),
        _memory_row(
            findings, _whole_gpu(findings), "gpu_peak_gib", lambda m: m.whole_gpu_peak_gib or m.whole_gpu_idle_gib
        ),
        *(_metric_row(findings, *names) for names in LATENCIES),
        _quality_row(findings),
        _dict_row(findings, "Server start to healthy", lambda t: t.cold_start, "start_healthy_s"),
        _dict_row(findings, "First request (cold)", lambda t: t.cold_start, "e2e_ms"),
        _dict_row(findings, "Energy per request", lambda t: t.energy, "joules_per_request"),
        _dict_row(findings, "Cost per 1,000 images", lambda t: t.cost, "usd_per_1000_images"),
        _rate_row(findings, "Prefix-cache hits", "prefix_hit_rate"),
        _rate_row(findings, "Image-cache hits", "image_hit_rate"),
        _error_row(findings),
    ]
    return [row for row in rows if row]


def _row(findings: Findings, label: str, cells: list[str], changes: Callable[[Comparison], str]) -> Row:
    """Empty when no target has anything to say: such a row belongs to `not_measured`."""
    if all(_says_nothing(cell) for cell in cells):
        return []
    return [label, *cells, *(changes(pair) for pair in findings.comparisons)]


def _whole_gpu(findings: Findings) -> str:
    shared = any("shared" in t.memory.source.get("whole_gpu_peak_gib", "") for t in findings.targets.values())
    return "Whole GPU, shared" if shared else "Whole GPU, at peak"


def _room(findings: Findings) -> str:
    size = size_to_tell(findings)
    return "Requests that fit at once" if size is None else f"Requests of {size:,.0f} tokens at once"


def _says_nothing(cell: str) -> bool:
    return cell in (NOT_MEASURED, "unknown") or cell.startswith(("needs ", "unavailable", "unknown"))


def _metric_row(findings: Findings, label: str, metric: str, short: str) -> Row:
    if short.startswith("response") and not _opened(findings, short):
        return []  # a closed loop sends a request when it is intended: the same number as E2E
    cells = [estimate(target.metrics.get(metric)) for target in findings.targets.values()]
    return _row(findings, label, cells, lambda pair: change(pair.effects[short]) if short in pair.effects else "")


def _opened(findings: Findings, short: str) -> bool:
    return not findings.comparisons or any(short in pair.effects for pair in findings.comparisons)


def _memory_row(
    findings: Findings,
    label: str,
    short: str,
    value: Callable[[Memory], float | None],
    text: Callable[[Memory], str] | None = None,
) -> Row:
    show = text or (lambda memory: gib(value(memory)))
    cells = [show(target.memory) for target in findings.targets.values()]

    def delta(pair: Comparison) -> str:
        if any(spoils(gate, short) for gate in about(findings.gates, pair.baseline, pair.candidate)):
            return str(Word.INVALID)
        before, after = (value(findings.targets[name].memory) for name in (pair.baseline, pair.candidate))
        return exact_change(before, after)

    return _row(findings, label, cells, delta)


def _kv_tokens(memory: Memory) -> str:
    return "unknown" if memory.kv_cache_tokens is None else f"{memory.kv_cache_tokens:,}"


def _at_once(memory: Memory) -> float | None:
    """Whole requests of one length that the KV cache holds, or fewer where the scheduler runs fewer."""
    if memory.requests_at_once is None:
        return None
    room = floor(memory.requests_at_once)
    return room if memory.max_num_seqs is None else min(room, memory.max_num_seqs)


def _at_once_text(memory: Memory) -> str:
    count = _at_once(memory)
    if count is None:
        return "unknown"
    capped = memory.requests_at_once is not None and count < floor(memory.requests_at_once)
    return f"{count:,.0f}{' (--max-num-seqs)' if capped else ''}"


def _quality_row(findings: Findings) -> Row:
    cells = []
    for target in findings.targets.values():
        score = None if target.quality is None else target.quality.scores.get("mean_iou")
        cells.append(estimate(score))
    return _row(findings, "Accuracy, mean IoU", cells, lambda pair: _parity_text(pair.parity))


def _parity_text(parity: Parity) -> str:
    if parity.word is Word.NOT_MEASURED:
        return NOT_MEASURED
    if parity.word is Word.INVALID:
        return str(parity.word)
    difference = parity.iou_difference
    if difference.value is None:
        return str(parity.word)
    sign = "+" if difference.value >= 0 else "−"
    text = f"{parity.word}: {sign}{abs(difference.value):.4f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{difference.low:+.4f}, {difference.high:+.4f}]".replace("-", "−")
    return text


def _dict_row(findings: Findings, label: str, values: Callable[[TargetFindings], dict], key: str) -> Row:  # type: ignore[type-arg]
    items = [values(target).get(key) for target in findings.targets.values()]
    cells = [estimate(item) for item in items]
    by_name = dict(zip(findings.targets, items, strict=True))

    def delta(pair: Comparison) -> str:
        effect = next((pair.effects[name] for name in (key, f"{key}_p50") if name in pair.effects), None)
        if effect is not None:
            return change(effect)
        a, b = by_name[pair.baseline], by_name[pair.candidate]
        if a is None or b is None or a.value is None or b.value is None or a.unit == "share" or a.value == 0:
            return ""
        # One observation for each arm has no interval, so it gets no verdict either.
        if a.note and a.note.startswith("not cold"):
            return "not cold: answered others before"
        return f"{percent(b.value / a.value - 1)} (n = {min(a.n, b.n)}: no verdict)"

    return _row(findings, label, cells, delta)


def _rate_row(findings: Findings, label: str, key: str) -> Row:
    """Counted by the servers themselves. Unknown stays in the table: a reader must see that nobody watched the caches."""
    rates = [target.caches.get(key) for target in findings.targets.values()]
    cells = [
        "unknown" if rate is None or rate.value is None else f"{rate.value:.1%}".replace("%", " %") for rate in rates
    ]
    return [label, *cells, *("" for _ in findings.comparisons)]


def unsupported(findings: Findings) -> str:
    """Which quantiles this number of requests cannot support, by the arm that has the least: '' when it supports all."""
    needs: dict[str, tuple[int, str]] = {}
    for target in findings.targets.values():
        for quantile in ("p95", "p99"):
            item = target.metrics.get(f"e2e_ms_{quantile}")
            if item is not None and item.value is None and item.note and item.note.startswith("needs n"):
                found = _WORTH.search(item.note)
                worth = int(found[1]) if found else item.n
                told = worth, item.note.replace(f"the {item.n} here", f"the {item.n} of {target.name}")
                needs[quantile] = min(needs.get(quantile, told), told, key=lambda one: one[0])
    return "; ".join(f"{quantile} {note}" for quantile, (_, note) in needs.items())


def _error_row(findings: Findings) -> Row:
    cells = []
    for target in findings.targets.values():
        # A cancelled request was stopped by us, a lost one by our own worker: neither is a failure of the server.
        ours = sum(target.errors.get(name, 0) for name in ("cancelled", "lost"))
        failed = sum(target.errors.values()) - ours
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(target.errors.items()))
        cells.append(f"{failed} of {target.requests_sent - ours}" + (f" ({kinds})" if kinds else ""))
    return ["Failed requests", *cells, *("" for _ in findings.comparisons)]


def secondary_note(findings: Findings) -> str:
    """What the mark behind a word means; '' where no word has it."""
    if not _marked(main_rows(findings), 1 + len(findings.targets)):
        return ""
    among = max((pair.corrected_among for pair in findings.comparisons), default=0)
    return _secondary(f"{among} metrics") if among else f"{SECONDARY} secondary"


def _secondary(among: str) -> str:
    return f"{SECONDARY} secondary: a direction only if it survives Holm's correction among {among}"


def _marked(rows: list[Row], first: int) -> bool:
    """Is a word in the columns from `first` on marked as secondary?"""
    return any(SECONDARY in cell for row in rows for cell in row[first:])


def floorless(findings: Findings) -> str:
    """Which of the numbers that are looked at first have no A/A noise floor in this run, and why; '' when all have one."""
    found: dict[str, list[str]] = {}
    for pair in findings.comparisons[:1]:
        for short in dict.fromkeys((findings.primary, "requests_per_s", "joules_per_request")):
            effect = pair.effects.get(short)
            if effect is not None and effect.noise_note is not None:
                found.setdefault(effect.noise_note.removeprefix("no noise floor: "), []).append(NAMES[short].words)
    return "; ".join(f"No noise floor for {', '.join(names)}: {why}" for why, names in found.items())


def levels_note(findings: Findings) -> str:
    """The same of the table of loads."""
    if len(findings.levels) < 2 or not findings.comparisons:
        return ""
    decided = f"Decided at {findings.levels[0].label}"
    head, rows = level_rows(findings)
    return f"{decided}. {_secondary('the other loads')}" if _marked(rows, len(head) - 1) else decided


def level_rows(findings: Findings) -> tuple[Row, list[Row]]:
    """Header and rows of a sweep: a row for each level and target, so that it fits a terminal; the change stands with the candidate."""
    head = ["Load", "", "E2E, median", "TTFT, median", "Throughput", "Change of E2E"]
    rows = []
    for level in findings.levels:
        for number, name in enumerate(findings.targets):
            metrics = level.metrics.get(name, {})
            cells = [estimate(metrics.get(key)) for key in ("e2e_ms_p50", "ttft_ms_p50", "requests_per_s")]
            effect = level.effects.get(name, {}).get("e2e_p50")
            done = level.cut_short.get(name)
            who = name if done is None or level.planned is None else f"{name}, {done:,} of {level.planned:,}"
            rows.append([label_of(level) if number == 0 else "", who, *cells, change(effect) if effect else ""])
    return head, rows


MEMORY_PARTS = (
    ("Weights", "weights_gib"),
    ("KV cache", "kv_cache_gib"),
    ("CUDA graphs (estimate, inside the budget)", "graphs_in_budget_gib"),
    ("Activations at their peak", "activations_gib"),
    ("Rest", "rest_gib"),
    ("Budget = utilization × total", "budget_gib"),
    ("Whole GPU before the first request", "whole_gpu_idle_gib"),
    ("Whole GPU at peak", "whole_gpu_peak_gib"),
    ("This server's processes", "process_gib"),
    ("CUDA graphs as captured", "graphs_gib"),
)


def memory_rows(findings: Findings) -> list[Row]:
    """Each part of the memory with where it was read; parts that no target tells are left out."""
    rows = []
    for label, field in MEMORY_PARTS:
        cells = []
        for target in findings.targets.values():
            value = getattr(target.memory, field)
            source = target.memory.source.get(field)
            cells.append("unknown" if value is None else f"{value:.2f} GiB" + (f" ({source})" if source else ""))
        if any(cell != "unknown" for cell in cells):
            rows.append([label, *cells])
    return rows


def kernel_lines(findings: Findings) -> list[str]:
    """How each target's weights are multiplied, and how we know; a contradiction is said as one."""
    lines = []
    for target in findings.targets.values():
        kernel = target.kernel
        if kernel.kind == "unknown" and not kernel.evidence:
            continue
        text = f"{target.name}: {kernel.kind}"
        if kernel.evidence:
            text += f" ({'; '.join(kernel.evidence)})"
        if kernel.contradiction:
            text += f". CONTRADICTION: {kernel.contradiction}"
        lines.append(text)
    return lines
