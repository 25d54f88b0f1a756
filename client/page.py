"""One small page over HTTP, bounded in time and in size, whatever the server does. Not for load."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx

ASK_LIMIT_S = 10.0
PAGE_LIMIT = 8 << 20


class NoPage(Exception):
    """Why a page could not be had. `late`: the time was over."""

    def __init__(self, why: str, late: bool = False) -> None:
        super().__init__(why)
        self.late = late


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    headers: httpx.Headers
    content: bytes
    took_ns: int
    """From the call to the last byte, connecting included where that was needed."""


async def get_page(
    client: httpx.AsyncClient, url: str, api_key: str | None = None, *, limit_s: float = ASK_LIMIT_S
) -> Page:
    """Redirects are answers like any other: the key goes to `url` alone. Raises NoPage."""
    headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})
    started = time.monotonic_ns()
    content = bytearray()
    try:
        async with (
            asyncio.timeout(limit_s),
            client.stream("GET", url, headers=headers, timeout=limit_s, follow_redirects=False) as response,
        ):
            if (coding := response.headers.get("content-encoding", "identity")) not in ("", "identity"):
                raise NoPage(f"its answer is compressed ({coding}), though none was asked for")
            # Raw: what is compressed, though nobody asked for it, may be a bomb.
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > PAGE_LIMIT:
                    raise NoPage(f"its answer has more than {PAGE_LIMIT >> 20} MiB")
    except (TimeoutError, httpx.TimeoutException):
        raise NoPage(f"no complete answer within {limit_s:.0f} s", late=True) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoPage(str(error) or type(error).__name__) from None
    return Page(response.status_code, response.headers, bytes(content), time.monotonic_ns() - started)
