"""Pictures that a server was sent again: within what is measured, or before it. From the records alone, whatever the caches say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.core import limits
from client.core.counters import Difference
from client.core.metrics import Arm
from client.core.pairing import Sides
from client.core.records import Outcome, Phase
from client.core.table import PHASES, Codes, Ints, Mask, RecordTable


def stays_in(arm: Arm, pairs: Sequence[Sides]) -> tuple[Arm, ...]:
    """The arm divided into the stays of its server, in order of time: the baseline of a serial run is started twice."""
    for both in pairs:
        if both.parts[0].target == arm.target:
            return (both.parts[0],)
        if both.parts[1].target == arm.target:
            return tuple(sorted(both.looks_at_baseline, key=lambda part: int(part.start_ns.min(initial=0))))
    return (arm,)


def sent_again(table: RecordTable, stays: tuple[Arm, ...]) -> list[Mask]:
    """Of each stay the measured requests whose picture this server had been sent before in that stay: measured, or in an answered request
    of any phase. Passes for accuracy count where the server has one stay: in which of several they came is not known."""
    found, begun = [], -1
    for part in stays:
        answered = table.where(part.target, outcome=Outcome.OK)
        if len(stays) > 1:
            answered = answered[table.phase[answered] != PHASES.index(Phase.QUALITY)]
        answered = answered[table["sent_ns"][answered] > begun]
        first = _first_sent(table.image[answered], table["sent_ns"][answered], len(table.image_ids))
        again = np.ones(len(part), np.bool_)
        again[np.unique(part.image, return_index=True)[1]] = False
        found.append(again | (first[part.image] < part.start_ns))
        begun = int(part.start_ns.max(initial=begun))
    return found


def _first_sent(images: Codes, sent: Ints, count: int) -> Ints:
    """For each picture when it was first sent; never: the end of time."""
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, images, sent)
    return first


def told(arm: Arm, again: list[Mask]) -> str:
    pictures = len(np.unique(arm.image))
    if pictures < len(arm):
        return f"{len(arm)} requests to {arm.target}, {pictures} picture{'' if pictures == 1 else 's'}"
    count = sum(int(mask.sum()) for mask in again)
    return f"{count} of {len(arm)} requests to {arm.target}, in pictures that were sent to it before it was measured"


def caches_silent(counted: Difference) -> bool:
    """Both caches are known and answered next to nothing: they are off."""
    image, prefix = counted.image_hit_rate, counted.prefix_hit_rate
    return image is not None and prefix is not None and image <= limits.IMAGE_HITS and prefix <= limits.PREFIX_HITS


def why_unpaired(both: Sides) -> str:
    """Why requests are not paired by image, in words (`client.core.pairing` decides)."""
    candidate, *baseline = both.parts
    if not all(map(len, both.parts)):
        return "one of the two measured nothing"
    if any(len(np.unique(part.image)) < len(part) for part in both.parts):
        return "pictures came more than once"
    shared = len(np.intersect1d(candidate.image, np.concatenate([part.image for part in baseline])))
    if not shared:
        return "the two saw different pictures"
    most = max(map(len, both.parts))
    return f"the two shared too few pictures, {shared} of {most}"
