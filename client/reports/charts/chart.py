"""What a chart is before anything draws it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from client.reports.charts.look import Palette, Spec

Row = tuple[str, ...]


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """`sentence` says what to see; `head` and `rows` are the same in words, for whoever does not see it.

    `panels` gives Vega-Lite descriptions (one under the other, on one horizontal axis) in the colours of a palette.
    """

    key: str
    title: str
    sentence: str
    panels: Callable[[Palette], tuple[Spec, ...]]
    head: Row
    rows: tuple[Row, ...]
    note: str = ""
    narrow: bool = False
    """A square wants no more width than height."""
