"""Request bodies, built off the event loop and ahead of the clock, in bounded memory.

A body is nearly all base64 of its picture. That part is the same for every target, so it is kept once, in a `BodyStore` which all
`Bodies` of a run share.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from client.core.body import BodyTemplate, body_template
from client.core.cases import PreparedRequest
from client.core.plan import Workload
from client.core.records import ImageFact
from client.workload.sources import Pictures
from client.workload.store import Ahead, BodyStore


class Bodies:
    """The bodies for one target. `window` bodies are kept in the making ahead of the last one asked for."""

    def __init__(
        self,
        pictures: Pictures,
        workload: Workload,
        model: str,
        window: int = 64,
        *,
        store: BodyStore | None = None,
        seed: int | None = None,
        continuous_usage: bool = False,
    ) -> None:
        self.store = store or BodyStore(pictures)
        self._pictures, self._window = pictures, window
        self._template: BodyTemplate = body_template(workload, model, seed=seed, continuous_usage=continuous_usage)

    async def prepare(self, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None:
        """Builds the bodies of a block before its clock starts: `last` and the first `likely` (None: all), as far as the store can hold them.

        The others are built as `get` goes on, so `numbers`, which is walked more than once, may be far longer than what will be sent.
        `last` is what comes after however many of them. Raises UsageError for a picture that cannot be used.
        """
        store = self.store
        store.open_block(next(self._different(numbers), None))
        await store.build_all(self._different(last))
        # With a window more than is likely, nothing is built inside the block unless more is sent than that.
        ahead = None if likely is None else likely + self._window
        await store.build_all(itertools.islice(self._different(numbers), ahead))
        store.ahead = Ahead(self._different(numbers), self._window)
        for number in store.ahead.window:
            self._begin(number)

    async def get(self, i: int) -> PreparedRequest:
        """The body with picture `i`: at once when it was prepared."""
        number = self._pictures.number(i)
        encoded = self.store.take(number) or await self.store.get(number)
        self.store.tell(number, encoded.fact)
        self._look_ahead(number)
        return PreparedRequest(encoded.fact.image_id, number, self._template.fill(encoded.text))

    def drain(self) -> Iterator[ImageFact]:
        """What is to be written down of the pictures that were sent since the last call, to any target of the same store."""
        return self.store.drain()

    def close(self) -> None:
        """Ends the threads and gives the memory and the file back, for every `Bodies` of the same store."""
        self.store.close()

    def _different(self, numbers: Iterable[int]) -> Iterator[int]:
        """By the numbers under which pictures are kept: a single one when one picture is repeated."""
        found = map(self._pictures.number, numbers)
        return itertools.islice(found, 1) if self._pictures.repeat else found

    def _look_ahead(self, number: int) -> None:
        """One picture leaves the window and one comes in. Pictures of a later block would be drawn inside the block that is measured now."""
        if self.store.ahead is not None:
            coming = self.store.ahead.passed(number)
            if coming is not None:
                self._begin(coming)
            return
        last = min(number + 1 + self._window, len(self._pictures))
        for k in range(number + 1, last):
            self._begin(self._pictures.number(k))

    def _begin(self, number: int) -> None:
        if not self.store.ready(number) and not self.store.busy(number):
            self.store.start(number)
