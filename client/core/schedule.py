"""What to send and when: slots with absolute intended times, and how several workers share them. Pure and seeded.

A closed loop keeps `concurrency` requests in flight: a slot starts when a lane is free (`offset_ns` is None). An open loop starts each
slot at its offset from the common start of the block, whatever became of the slots before.

A measured block has a lead-in and a lead-out (phase EDGE), so that each measured request starts and ends under the full load:

    closed, N in flight   N edges │ measured … │ N edges          (no edges at N = 1)
    open, r per second    r edges │ measured … │ r edges          (one second of arrivals, at most a quarter of the measured ones)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import msgspec

from client.core.arrivals import Offsets
from client.core.records import Phase


class Slot(msgspec.Struct, frozen=True, gc=False):
    """One request to send. `index` counts within its phase for one target; `image` counts within the life of one server."""

    index: int
    image: int
    phase: Phase
    offset_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Span(Sequence[Slot]):
    """Slots in a row, made when asked for: a million of them cost nothing. The first and the last `edges` are lead-in and lead-out.

    Every `image_step`-th number is one of its pictures.
    """

    length: int
    phase: Phase
    first_index: int = 0
    first_edge: int = 0
    first_image: int = 0
    lead_in: int = 0
    lead_out: int = 0
    offsets: Offsets | None = None
    image_step: int = 1

    def __len__(self) -> int:
        return self.length

    @property
    def measured(self) -> int:
        return self.length - self.lead_in - self.lead_out

    @overload
    def __getitem__(self, at: int) -> Slot: ...
    @overload
    def __getitem__(self, at: slice) -> list[Slot]: ...
    def __getitem__(self, at: int | slice) -> Slot | list[Slot]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self.length))]
        if not 0 <= at < self.length:
            raise IndexError(at)
        offset = None if self.offsets is None else int(self.offsets[at])
        image = self.first_image + at * self.image_step
        if at < self.lead_in:
            return Slot(self.first_edge + at, image, Phase.EDGE, offset)
        if at < self.length - self.lead_out:
            return Slot(self.first_index + at - self.lead_in, image, self.phase, offset)
        return Slot(self.first_edge + at - self.measured, image, Phase.EDGE, offset)


@dataclass(frozen=True, slots=True)
class Picked(Sequence[Slot]):
    """The slots of `whole` whose position modulo `modulus` is one of `residues` (ascending), in order."""

    whole: Sequence[Slot]
    modulus: int
    residues: tuple[int, ...]

    def __len__(self) -> int:
        full, rest = divmod(len(self.whole), self.modulus)
        return full * len(self.residues) + sum(residue < rest for residue in self.residues)

    @overload
    def __getitem__(self, at: int) -> Slot: ...
    @overload
    def __getitem__(self, at: slice) -> list[Slot]: ...
    def __getitem__(self, at: int | slice) -> Slot | list[Slot]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        round_, place = divmod(at, len(self.residues))
        return self.whole[round_ * self.modulus + self.residues[place]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Slots and the rule by which they start. `concurrency` is None for an open loop.

    `duration_ns` (closed loop only) ends the walk of `slots` early; then the slots of `tail` follow, as lead-out. `max_in_flight`
    (open loop only) holds arrivals back; their intended times stay as they are.
    """

    slots: Sequence[Slot]
    concurrency: int | None = 1
    duration_ns: int | None = None
    tail: Sequence[Slot] = ()
    max_in_flight: int | None = None

    def __len__(self) -> int:
        """The most requests that this schedule can send."""
        return len(self.slots) + len(self.tail)

    def __iter__(self) -> Iterator[Slot]:
        yield from self.slots
        yield from self.tail


@dataclass(frozen=True, slots=True)
class Images:
    """The picture of each slot, in their order. Made anew each time it is walked: there may be far more slots than requests."""

    slots: Sequence[Slot]

    def __iter__(self) -> Iterator[int]:
        return (slot.image for slot in self.slots)


def closed_loop(
    count: int,
    concurrency: int,
    *,
    phase: Phase = Phase.MEASURE,
    edges: bool | None = None,
    index: int = 0,
    edge_index: int = 0,
    image: int = 0,
) -> Schedule:
    """`count` slots of `phase`, `concurrency` in flight. `edges` None: only around MEASURE, and only when something runs beside it."""
    with_edges = (phase is Phase.MEASURE and concurrency > 1) if edges is None else edges
    lead = concurrency if with_edges and count else 0
    return Schedule(Span(count + 2 * lead, phase, index, edge_index, image, lead, lead), concurrency)


def closed_loop_for(
    duration_ns: int, concurrency: int, *, bound: int, index: int = 0, edge_index: int = 0, image: int = 0, step: int = 1
) -> Schedule:  # fmt: skip
    """MEASURE slots until `duration_ns` after the start, `bound` at most, with edges when `concurrency` > 1.

    The pictures of the lead-out have the lowest numbers, every `step`-th from `image` on: how many slots there is time for is not known.
    """
    lead = concurrency if concurrency > 1 else 0
    tail = Span(lead, Phase.EDGE, edge_index + lead, 0, image, image_step=step)
    slots = Span(lead + bound, Phase.MEASURE, index, edge_index, image + lead * step, lead, 0, image_step=step)
    return Schedule(slots, concurrency, duration_ns, tail)


def open_loop(
    offsets: Offsets,
    *,
    phase: Phase = Phase.MEASURE,
    edges: int = 0,
    index: int = 0,
    edge_index: int = 0,
    image: int = 0,
    max_in_flight: int | None = None,
) -> Schedule:
    """A slot at each offset; the first and the last `edges` of them are lead-in and lead-out."""
    span = Span(len(offsets), phase, index, edge_index, image, edges, edges, offsets)
    return Schedule(span, None, max_in_flight=max_in_flight)


def share(slots: Sequence[Slot], k: int, n: int, places: int | None = None) -> Sequence[Slot]:
    """Share `k` of `n` (k from 0). All shares are disjoint, in order, and together the whole.

    Without places in flight, every n-th slot. Else slots are dealt to the `places` in turn (lanes of a closed loop, or the cap of an open
    one) and places to workers in turn: any `places` slots in a row, the lead-in of a closed loop first of all, give each worker as many
    slots as it has places, and none to a worker without one.
    """
    if n == 1:
        return slots
    modulus = n if places is None else places
    residues = tuple(range(k, modulus, n))
    return Picked(slots, modulus, residues) if residues else ()


def share_of_count(count: int, k: int, n: int) -> int:
    """Share `k` of `n` of things that cannot be told apart: lanes, places in flight. Shares differ by one at most."""
    return len(range(k, count, n))


def share_schedule(whole: Schedule, k: int, n: int) -> Schedule:
    """What worker `k` of `n` walks. Lanes, and a cap, are together those of the whole: with fewer of them than workers some have no slots.

    A cap is held by each worker over its own arrivals, so one may wait while another worker has a place free.
    """
    lanes, cap = whole.concurrency, whole.max_in_flight
    places = cap if lanes is None else lanes
    return Schedule(
        slots=share(whole.slots, k, n, places),
        concurrency=None if lanes is None else share_of_count(lanes, k, n),
        duration_ns=whole.duration_ns,
        tail=share(whole.tail, k, n, places),
        max_in_flight=None if cap is None else share_of_count(cap, k, n),
    )
