"""From a host to a connection: names, IPv6, several addresses, and nobody there."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from calls import full_backlog, post
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


Addresses = Callable[[Sequence[tuple[str, int]]], None]


@pytest.fixture
async def addresses(monkeypatch: pytest.MonkeyPatch) -> Addresses:
    """What the resolver says of the name many.test."""

    def resolved_to(found: Sequence[tuple[str, int]]) -> None:
        async def getaddrinfo(host: str, port: int, **kind: Any) -> list[Any]:
            assert host == "many.test"
            families = {True: socket.AF_INET6, False: socket.AF_INET}
            return [(families[":" in at], socket.SOCK_STREAM, 6, "", (at, number)) for at, number in found]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)

    return resolved_to


def nobodys_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("place", range(3))
async def test_of_several_addresses_the_one_that_listens_is_found_wherever_it_stands(
    client: LoadClient, addresses: Addresses, place: int
) -> None:
    with peer(answering(OK)) as server:
        found = [("::1", nobodys_port()), ("127.0.0.1", nobodys_port())]
        found.insert(place, ("127.0.0.1", server.port))
        addresses(found)
        before = len(list(Path("/proc/self/fd").iterdir()))
        response = await post(client, server.url.replace("127.0.0.1", "many.test"))
        assert response.content == b"ok"
        assert server.connections == client.transport.connections_opened == 1
        # Both ends of the one connection: no socket of a try that failed is left.
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 2


async def test_a_family_that_is_not_set_up_here_is_passed_by(
    client: LoadClient, addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without IPv6 whose resolver names ::1 first: the kernel says that it cannot assign the address."""
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def without_ipv6(sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", without_ipv6)
    with peer(answering(OK)) as server:
        addresses([("::1", server.port), ("127.0.0.1", server.port)])
        assert (await post(client, server.url.replace("127.0.0.1", "many.test"))).content == b"ok"


async def test_when_no_address_listens_that_is_told(client: LoadClient, addresses: Addresses) -> None:
    addresses([("::1", nobodys_port()), ("127.0.0.1", nobodys_port())])
    with pytest.raises(httpx.ConnectError, match=r"many\.test:80: Connection refused"):
        await post(client, "http://many.test/")


async def test_an_address_that_does_not_answer_costs_two_seconds(client: LoadClient, addresses: Addresses) -> None:
    with full_backlog() as dead, peer(answering(OK)) as server:
        addresses([("127.0.0.1", dead), ("127.0.0.1", server.port)])
        started = time.monotonic()
        assert (await post(client, server.url.replace("127.0.0.1", "many.test"), connect=9)).content == b"ok"
        assert 1.9 < time.monotonic() - started < 4
