"""What a worker sends with, and the recipe from which it is made inside the worker's process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from client.core.cases import PreparedRequest
from client.core.plan import RunPlan
from client.core.records import ImageFact
from client.endpoint import Endpoint
from client.generator import Door
from client.transport import new_client
from client.workload import Bodies, BodyStore, Pictures


class Source(Protocol):
    """Request bodies with what is known of their pictures (`client.workload.Bodies`)."""

    async def prepare(self, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None: ...
    async def get(self, number: int, /) -> PreparedRequest: ...
    def drain(self) -> Iterable[ImageFact]: ...


@dataclass(frozen=True, slots=True)
class Kit:
    """One door and one source of bodies for each target, by name. `close` gives sockets, threads and files back."""

    doors: Mapping[str, Door]
    bodies: Mapping[str, Source]
    close: Callable[[], Awaitable[None]]


Recipe = Callable[[], Kit]
"""Called once, inside the event loop of a worker. Travels there as a pickle, so it is an object of a module, not a closure."""


@dataclass(frozen=True, slots=True)
class ClientKit:
    """The recipe of a real run. Keys travel over the worker's private socket: never in arguments or environment."""

    plan: RunPlan
    pictures: Pictures
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None

    def __call__(self) -> Kit:
        plan = self.plan
        client = new_client(ca_file=self.ca_file)
        store = BodyStore(self.pictures)

        async def close() -> None:
            store.close()
            await client.aclose()

        return Kit(
            {
                t.name: Endpoint(client, t, plan.timeouts, self.keys.get(t.name), logprobs=plan.logprobs)
                for t in plan.targets
            },
            {t.name: Bodies(self.pictures, plan.workload, t.model or "", store=store) for t in plan.targets},
            close,
        )
