"""What the transport refuses before a byte is sent: what is out of its scope, no proper HTTP, or more than this machine allows."""

from __future__ import annotations

import resource
import socket

import httpx
import pytest
from calls import post
from peer import OK, answering, peer

from client.errors import UsageError
from client.transport import LoadClient, new_client


@pytest.mark.parametrize("method", ["GE T", "G\u00c9T", ""])
async def test_a_method_that_is_none_is_refused(client: LoadClient, method: str) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        await client.send(client.build_request(method, "http://127.0.0.1:9/"))


async def test_no_descriptors_left(client: LoadClient) -> None:
    with peer(answering(OK)) as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[socket.socket] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        try:
            while True:
                taken.append(socket.socket())
        except OSError:
            pass
        try:
            with pytest.raises(httpx.ConnectError, match="ulimit -n") as caught:
                await post(client, server.url, b"{}")
            assert caught.value.request.extensions["client_limit"] is True
        finally:
            for sock in taken:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await post(client, server.url, b"{}")).content == b"ok"


async def test_out_of_scope_is_said(client: LoadClient) -> None:
    for url in ("ftp://127.0.0.1/", "unix:///var/run/x.sock", "socks5://127.0.0.1/"):
        with pytest.raises(httpx.UnsupportedProtocol):
            await post(client, url)
    with pytest.raises(UsageError, match="no http2, proxy"):
        new_client(proxy="http://127.0.0.1:3128", http2=True)
    with pytest.raises(UsageError, match="certificate file"):
        new_client(ca_file="/nonexistent.pem")


@pytest.mark.parametrize("value", ["a\r\nevil: yes", "a\nevil: yes", "a\revil: yes"])
async def test_a_line_break_in_a_header_is_refused(client: LoadClient, value: str) -> None:
    with peer(answering(OK)) as server:
        request = client.build_request("POST", server.url, headers={"x": value})
        with pytest.raises(httpx.LocalProtocolError):
            await client.send(request)
        assert server.connections == 0
