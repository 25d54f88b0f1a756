"""The paged KV cache: a budget of blocks, shared full blocks of equal prefixes, least recently used ones evicted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

BlockKey = int


@dataclass(slots=True)
class Holding:
    """Blocks that one sequence holds: full prompt blocks others may share, and blocks of its own."""

    shared: list[BlockKey] = field(default_factory=list)
    own: int = 0

    @property
    def blocks(self) -> int:
        return len(self.shared) + self.own


class KvPool:
    def __init__(self, blocks: int, caching: bool) -> None:
        self.total = blocks
        self._caching = caching
        self._references: dict[BlockKey, int] = {}
        self._idle: OrderedDict[BlockKey, None] = OrderedDict()
        self._own = 0

    @property
    def free(self) -> int:
        """Blocks that can be had now; a cached block that nobody holds counts, it is evicted when needed."""
        return self.total - self._own - len(self._references)

    @property
    def usage(self) -> float:
        return 1 - self.free / self.total if self.total else 0.0

    def cached_prefix(self, keys: Sequence[BlockKey]) -> int:
        """How many leading blocks are in the cache."""
        count = 0
        while count < len(keys) and (keys[count] in self._references or keys[count] in self._idle):
            count += 1
        return count

    def take(self, holding: Holding, keys: Sequence[BlockKey]) -> None:
        """Holds cached blocks again; the caller has seen them by `cached_prefix`."""
        for key in keys:
            self._idle.pop(key, None)
            self._references[key] = self._references.get(key, 0) + 1
            holding.shared.append(key)

    def grow(self, holding: Holding, blocks: int) -> bool:
        """Adds blocks of its own until the holding has `blocks`; False, and nothing done, when there is no room."""
        more = blocks - holding.blocks
        if more <= 0:
            return True
        if more > self.free:
            return False
        while more > self.total - self._own - len(self._references) - len(self._idle):
            self._idle.popitem(last=False)
        holding.own += more
        self._own += more
        return True

    def publish(self, holding: Holding, keys: Sequence[BlockKey]) -> None:
        """Makes blocks that were computed under these keys findable; a key that exists already stays a private copy."""
        if not self._caching:
            return
        for key in keys:
            if holding.own and key not in self._references and key not in self._idle:
                holding.own -= 1
                self._own -= 1
                self._references[key] = 1
                holding.shared.append(key)

    def release(self, holding: Holding) -> None:
        for key in reversed(holding.shared):
            self._references[key] -= 1
            if not self._references[key]:
                del self._references[key]
                self._idle[key] = None
        self._own -= holding.own
        holding.shared.clear()
        holding.own = 0

    def forget(self) -> None:
        """Empties the prefix cache (blocks in use stay)."""
        self._idle.clear()
