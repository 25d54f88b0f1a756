"""The load loop against real sockets: direct readers beside everything else that a loop does."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from client.loop import PIECE_S, LoadLoop, add_direct_reader, deferring, run_loaded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll")


def test_a_direct_reader_reads_in_the_look_and_a_usual_one_beside_it() -> None:
    seen: list[tuple[str, bytes, bool]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pairs = {name: socket.socketpair() for name in ("direct", "usual")}
        for name, (ours, _) in pairs.items():
            ours.setblocking(False)

            def read(name: str = name, ours: socket.socket = ours) -> bool:
                seen.append((name, ours.recv(10), asyncio.current_task() is None))
                return False

            add = add_direct_reader if name == "direct" else type(loop).add_reader
            add(loop, ours.fileno(), read)
        for _, peer in pairs.values():
            peer.send(b"x")
        await asyncio.sleep(0.02)
        for ours, peer in pairs.values():
            assert loop.remove_reader(ours.fileno())
            peer.send(b"y")
        await asyncio.sleep(0.02)
        for ours, peer in pairs.values():
            ours.close()
            peer.close()

    run_loaded(main())
    assert sorted(seen) == [("direct", b"x", True), ("usual", b"x", True)]


def test_the_end_of_a_connection_reaches_a_direct_reader() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ended: asyncio.Future[bytes] = loop.create_future()

        def read() -> bool:
            if not ended.done():
                ended.set_result(ours.recv(1))
            return False

        add_direct_reader(loop, ours.fileno(), read)
        peer.close()
        try:
            return await asyncio.wait_for(ended, 1.0)
        finally:
            loop.remove_reader(ours.fileno())
            ours.close()

    assert run_loaded(main()) == b""


def test_a_direct_reader_of_which_nothing_comes_holds_up_neither_callbacks_nor_timers() -> None:
    """The selector looks again by itself as long as readers say True; a timer and a call from another thread still come in time."""
    late_s: list[float] = []
    reads = 0

    async def main() -> None:
        nonlocal reads
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        stop = threading.Event()

        def read() -> bool:
            nonlocal reads
            ours.recv(100)
            reads += 1
            return True

        def write() -> None:
            while not stop.wait(0.001):
                peer.send(b"x")

        add_direct_reader(loop, ours.fileno(), read)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(10):
                due = loop.time() + 0.02
                await asyncio.sleep(0.02)
                late_s.append(loop.time() - due)
            asked = loop.time()
            called: asyncio.Future[None] = loop.create_future()
            threading.Timer(0.01, lambda: loop.call_soon_threadsafe(called.set_result, None)).start()
            await called
            late_s.append(loop.time() - asked - 0.01)
            for _ in range(100):
                await asyncio.sleep(0)
        finally:
            stop.set()
            writer.join()
            loop.remove_reader(ours.fileno())
            ours.close()
            peer.close()

    run_loaded(main())
    assert reads > 50
    assert max(late_s) < 0.25


def test_what_one_reader_brings_is_not_held_up_by_another_of_which_nothing_comes() -> None:
    """Both can be read at one look: the first has called something, and nothing more will come."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(2)]
        came = loop.create_future()

        def brings() -> bool:
            pairs[0][0].recv(1)
            loop.call_soon(came.set_result, None)
            return False

        def brings_nothing() -> bool:
            pairs[1][0].recv(1)
            return True

        for (ours, _), reader in zip(pairs, (brings, brings_nothing), strict=True):
            ours.setblocking(False)
            add_direct_reader(loop, ours.fileno(), reader)
        for _, peer in pairs:
            peer.send(b"x")
        started = loop.time()
        try:
            await asyncio.wait_for(came, 1.0)
        finally:
            for ours, peer in pairs:
                loop.remove_reader(ours.fileno())
                ours.close()
                peer.close()
        return loop.time() - started

    assert run_loaded(main()) < 0.5


def test_an_error_in_a_direct_reader_is_reported_and_the_loop_lives() -> None:
    reported: list[BaseException | None] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))
        ours, peer = socket.socketpair()

        def read() -> bool:
            ours.recv(1)
            raise ValueError("broken")

        add_direct_reader(loop, ours.fileno(), read)
        peer.send(b"x")
        await asyncio.sleep(0.02)
        loop.remove_reader(ours.fileno())
        ours.close()
        peer.close()

    run_loaded(main())
    assert [str(error) for error in reported] == ["broken"]


class Inlet:
    """`count` socket pairs, each with a byte to read and a direct reader that defers `work(number)`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int, work: Callable[[int], object]) -> None:
        self.loop, self.work, self.read = loop, work, 0
        self.pairs = [socket.socketpair() for _ in range(count)]
        for number, (ours, peer) in enumerate(self.pairs):
            ours.setblocking(False)
            add_direct_reader(loop, ours.fileno(), partial(self._reader, number))
            peer.send(b"x")

    def _reader(self, number: int) -> bool:
        self.pairs[number][0].recv(1)
        self.read += 1
        deferring(self.loop)(partial(self.work, number))
        return False

    async def until(self, done: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if done():
                return
            await asyncio.sleep(0.001)
        raise TimeoutError

    def close(self) -> None:
        for ours, peer in self.pairs:
            self.loop.remove_reader(ours.fileno())
            ours.close()
            peer.close()


def test_work_waits_until_every_file_has_been_read_and_is_done_little_by_little() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def work(number: int) -> None:
            assert inlet.read == 5
            time.sleep(2 * PIECE_S)  # enough for one turn
            seen.append(f"work {number}")
            loop.call_soon(seen.append, f"what came of {number}")

        inlet = Inlet(loop, 5, work)
        await inlet.until(lambda: len(seen) == 10)
        inlet.close()

    run_loaded(main())
    assert [line for line in seen if line.startswith("work")] == [f"work {number}" for number in range(5)]
    assert seen[1::2] == [f"what came of {number}" for number in range(5)]


def test_short_work_shares_a_turn() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def work(number: int) -> None:
            seen.append("work")
            loop.call_soon(seen.append, "came of it")

        inlet = Inlet(loop, 200, work)
        await inlet.until(lambda: len(seen) == 400)
        inlet.close()

    run_loaded(main())
    assert "".join(word[0] for word in seen).count("ww") > 50


def test_a_timer_that_is_due_and_what_comes_of_it_do_not_wait_for_all_work() -> None:
    """A request that is due takes three turns: the timer, the task that slept, the task that sends."""
    done: list[int] = []

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[int, int]] = loop.create_future()

        def due() -> None:
            so_far = len(done)
            loop.call_soon(loop.call_soon, loop.call_soon, lambda: ended.set_result((so_far, len(done))))

        def work(number: int) -> None:
            time.sleep(0.003)
            done.append(number)
            if number == 0:
                loop.call_later(0.006, due)

        inlet = Inlet(loop, 30, work)
        try:
            return await ended
        finally:
            inlet.close()

    began, ended = run_loaded(main())
    assert ended == began < 15


def test_callbacks_that_never_end_do_not_hold_work_up() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        inlet = Inlet(loop, 3, lambda number: done.set_result(None) if number == 2 else None)

        def again() -> None:
            if not done.done():
                loop.call_soon(again)

        again()
        await asyncio.wait_for(done, 10)
        inlet.close()

    run_loaded(main())


def test_an_error_in_work_is_reported_and_the_rest_is_done() -> None:
    reported: list[BaseException | None] = []
    done: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))

        def work(number: int) -> None:
            if number == 0:
                raise ValueError("broken")
            done.append(number)

        inlet = Inlet(loop, 3, work)
        await inlet.until(lambda: len(done) == 2)
        inlet.close()

    run_loaded(main())
    assert [str(error) for error in reported] == ["broken"]
    assert done == [1, 2]


async def test_on_another_loop_work_is_a_callback() -> None:
    done: list[int] = []
    inlet = Inlet(asyncio.get_running_loop(), 3, done.append)
    await inlet.until(lambda: len(done) == 3)
    inlet.close()
    assert sorted(done) == [0, 1, 2]


def test_the_load_connections_read_directly() -> None:
    """Otherwise the loop would be an idle ornament."""
    from client.sockets import PlainConnection

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LoadLoop)
        listener = socket.create_server(("127.0.0.1", 0))
        sock = socket.create_connection(listener.getsockname())
        fd = sock.fileno()
        connection = PlainConnection(loop, [], sock)
        direct = fd in loop._direct.readers
        connection.close()
        listener.close()
        return direct and fd not in loop._direct.readers

    assert run_loaded(main())
