"""A text and a small picture, each asked once, to see whether a server answers before an hour of load is planned for it."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic_ns

import msgspec

from client.core.body import chat_body, text_body
from client.core.cases import PreparedRequest
from client.core.pictures import synthetic
from client.core.plan import RunPlan, Target
from client.core.records import Phase, RequestRecord
from client.core.schedule import Slot
from client.endpoint import Endpoint
from client.transport import LoadClient

SIZE = (224, 168)
TOKENS = 8


async def probe(
    client: LoadClient, plan: RunPlan, keys: Mapping[str, str], target: Target
) -> tuple[RequestRecord, ...]:
    """Two records for the eye; nothing of them enters a run. `image_id` is `text` or `image`."""
    picture = synthetic(plan.seed, 0, *SIZE)
    short = msgspec.structs.replace(plan.workload, max_tokens=TOKENS)
    model = target.model or ""
    bodies = {"text": text_body(model, "Say yes.", TOKENS), "image": chat_body(short, model, picture.jpeg)}
    endpoint = Endpoint(client, target, plan.timeouts, keys.get(target.name))
    found = []
    for number, (name, body) in enumerate(bodies.items()):
        record = await endpoint.send(
            PreparedRequest(image_id=name, image=number, body=body),
            Slot(index=number, image=number, phase=Phase.COLD),
            phase=Phase.COLD,
            block=None,
            level=0,
            worker=0,
            intended_ns=monotonic_ns(),
            sink=lambda record: None,
        )
        found.append(record)
    return tuple(found)
