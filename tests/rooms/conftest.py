"""The client of the load transport, closed when its test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from client.transport import LoadClient, new_client

pytest.register_assert_rewrite("asking", "calls", "fleets")


@pytest.fixture
async def client() -> AsyncIterator[LoadClient]:
    async with new_client() as made:
        yield made
