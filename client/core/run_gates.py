"""Validity gates over the run as a whole: two runs instead of one, another question, a run that was cut short."""

from __future__ import annotations

from collections.abc import Iterator

from client.core.cut import where_cut
from client.core.findings import Gate
from client.core.gates import LOAD_LOOKS, Look, Seen, flag, invalid
from client.core.repeats import why_unpaired


def two_runs(seen: Seen) -> Iterator[Gate]:
    if seen.evidence.separate_runs:
        loose = [both for both in seen.sides if not both.paired]
        pictures = "Pairing by image takes out the pictures only."
        if loose:
            pictures = f"Nor are requests paired by image: {why_unpaired(loose[0])}."
        if seen.evidence.common_loads:
            pictures = f"{pictures} {seen.evidence.common_loads}"
        yield flag(
            "two_runs",
            "These are two runs, not one: whatever changed between them (host, clocks, temperature, driver, other tenants, server build, network) "
            f"is part of the difference, and no interval here contains it. {pictures}",
            "Measure both in one run before you decide by it.",
            tuple(seen.arms),
        )


def other_questions(seen: Seen) -> Iterator[Gate]:
    """Two saved runs only: they must have been asked the same."""
    found = seen.evidence.plan_differences
    if found:
        yield invalid(
            "other_question",
            f"The two runs were not asked the same: {'; '.join(found[:4])}{' …' if len(found) > 4 else ''}.",
            "Run both with the same workload and load, then compare.",
        )


def cut_short(seen: Seen) -> Iterator[Gate]:
    if seen.evidence.interrupted or not seen.evidence.complete:
        how = "was interrupted" if seen.evidence.interrupted else "ended before its plan did"
        where, cut = where_cut(seen.evidence), seen.evidence.runs_cut
        run = "Both runs" if cut is not None and len(cut) > 1 else f"The run of {cut[0]}" if cut else "The run"
        then = "the numbers are over what was measured until then"
        if where.startswith("after"):
            where, then = f", {where}", "what was to come then is missing, or is not whole"
        elif where:
            where = f" {where}"
        yield flag(
            "cut_short",
            f"{run} {how}{where}: {then}.",
            "Run again for the whole plan.",
        )
    if torn := seen.evidence.torn_lines:
        yield flag(
            "torn_lines",
            f"{torn:,} {'line' if torn == 1 else 'lines'} of the run directory could not be read and {'was' if torn == 1 else 'were'} set aside.",
            "One torn last line is normal after a crash; more mean a damaged disk or an edited file.",
        )


LOOKS: tuple[Look, ...] = (two_runs, *LOAD_LOOKS, other_questions, cut_short)
