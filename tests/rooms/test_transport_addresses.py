"""From a host to a connection: names, IPv6, several addresses, and nobody there."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest
from calls import post
from peer import OK, answering, peer

from client.transport import LoadClient


async def test_refused(client: LoadClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(httpx.ConnectError, match="Connection refused") as caught:
        await post(client, f"http://127.0.0.1:{port}/")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert "client_limit" not in caught.value.request.extensions


async def test_a_name_without_address(client: LoadClient) -> None:
    with pytest.raises(httpx.ConnectError, match="cannot be resolved") as caught:
        await post(client, "http://nonexistent.invalid/")
    assert isinstance(caught.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "xn--"])
async def test_a_name_that_is_none(client: LoadClient, host: str) -> None:
    request = client.build_request("POST", f"http://{host}/", headers={"host": "h"})  # httpx would look into it for one
    with pytest.raises(httpx.ConnectError, match="is no host name"):
        await client.send(request)


async def test_port_0_is_not_port_80(client: LoadClient) -> None:
    with pytest.raises(httpx.ConnectError, match=r"127\.0\.0\.1:0: "):
        await post(client, "http://127.0.0.1:0/")


async def test_an_address_may_have_a_zone(client: LoadClient) -> None:
    with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
        await post(client, "http://[fe80::1%25lo]:9/", connect=0.2)
    assert not isinstance(caught.value.__cause__, socket.gaierror)


async def test_ipv6(client: LoadClient) -> None:
    with peer(answering(OK), family=socket.AF_INET6) as server:
        assert (await post(client, server.url)).content == b"ok"
        assert client.transport.connections_opened == 1


async def test_a_name_with_two_families_finds_the_one_that_listens(
    client: LoadClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both(host: str, port: int, **kind: Any) -> list[Any]:
        assert host == "both.test"
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    with peer(answering(OK)) as server:
        assert (await post(client, server.url.replace("127.0.0.1", "both.test"))).content == b"ok"
