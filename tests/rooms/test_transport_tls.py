"""TLS through asyncio: certificates, endings, and stamps of the loop that say so."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from calls import in_order, post, read
from peer import CHUNKED, OK, answering, once, peer

from client.transport import LoadClient, new_client, stamps_of


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    return context


async def test_tls_with_a_known_certificate(tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    with peer(answering(CHUNKED + b"2\r\nok\r\n0\r\n\r\n"), context=tls) as server:
        async with new_client(ca_file=str(certificate[1])) as client:
            for _ in range(3):
                response = await post(client, server.url, b"x" * (4 << 20))
                assert response.content == b"ok"
                stamps = stamps_of(response)
                assert stamps.source == "loop"
                assert stamps.lag_ns is None
                assert stamps.uploaded_ns is None
                assert in_order(stamps)
            assert server.connections == 1


async def test_tls_with_an_unknown_certificate_is_refused(tls: ssl.SSLContext, client: LoadClient) -> None:
    with peer(answering(OK), context=tls) as server:
        with pytest.raises(httpx.ConnectError, match="TLS") as caught:
            await post(client, server.url)
        assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_tls_to_a_server_without(client: LoadClient) -> None:
    with (
        peer(lambda talk: talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server,
        pytest.raises(httpx.ConnectError, match="TLS"),
    ):
        await post(client, server.url.replace("http:", "https:"), connect=3)


@pytest.mark.parametrize("then", ["close", "reset", "wait"])
async def test_tls_ends(tls: ssl.SSLContext, certificate: tuple[Path, Path], then: str) -> None:
    with peer(once(CHUNKED + b"2\r\nok\r\n", then=then), context=tls) as server:
        async with new_client(ca_file=str(certificate[1])) as client:
            got, failed = await read(client, server.url, idle=0.3)
            assert got == b"ok"
            expected = {"close": httpx.RemoteProtocolError, "reset": httpx.ReadError, "wait": httpx.ReadTimeout}
            assert type(failed) is expected[then], failed


async def test_tls_dead_idle_connection(tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    with peer(once(OK), context=tls) as server:
        async with new_client(ca_file=str(certificate[1])) as client:
            for _ in range(3):
                assert (await post(client, server.url)).content == b"ok"
                await asyncio.sleep(0.05)
