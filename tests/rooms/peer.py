"""A real TCP server whose every byte is scripted by the test: one thread for each connection."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Talk:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket, number: int, stop: threading.Event) -> None:
        self.sock = sock
        self.number = number
        self.stop = stop
        self._rest = b""

    def request(self) -> bytes:
        """The next whole request; b"" when the client has gone."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(65536)
            if not more:
                return b""
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(rest) < length:
            more = self.sock.recv(65536)
            if not more:
                return b""
            rest += more
        self._rest = rest[length:]
        return head + b"\r\n\r\n" + rest[:length]

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """End the connection with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait(self) -> None:
        """Until the test is over."""
        self.stop.wait(10)


Script = Callable[[Talk], None]


class Peer:
    def __init__(self, script: Script, context: ssl.SSLContext | None, family: socket.AddressFamily) -> None:
        self.connections = 0
        self.stop = threading.Event()
        self._script = script
        self._context = context
        self._listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        scheme = "https" if context else "http"
        self.url = f"{scheme}://{'[::1]' if family == socket.AF_INET6 else '127.0.0.1'}:{self.port}/v1/chat/completions"
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self.stop.is_set():
                    return
                # Out of descriptors: a test may have taken them all before this thread first got here.
                time.sleep(0.01)
                continue
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with suppress(OSError):
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._script(Talk(sock, number, self.stop))
        with suppress(OSError):
            sock.close()

    def close(self) -> None:
        self.stop.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(2)


@contextmanager
def peer(
    script: Script, *, context: ssl.SSLContext | None = None, family: socket.AddressFamily = socket.AF_INET
) -> Iterator[Peer]:
    server = Peer(script, context, family)
    try:
        yield server
    finally:
        server.close()


def answering(answer: bytes) -> Script:
    """Each request on each connection gets the same answer."""

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(answer)

    return script


def once(*answer: bytes, then: str = "close") -> Script:
    """Read one request, send the pieces, then `close`, `reset`, `half` (shut down writing) or `wait`."""

    def script(talk: Talk) -> None:
        talk.request()
        for piece in answer:
            talk.send(piece)
        if then == "reset":
            talk.reset()
        elif then == "half":
            talk.sock.shutdown(socket.SHUT_WR)
            talk.wait()
        elif then == "wait":
            talk.wait()

    return script
