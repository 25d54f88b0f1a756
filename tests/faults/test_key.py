"""The key stands in the header of requests to its own origin, and nowhere else: not in a file, on a screen, in a process title or at another host."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from peer import Talk, peer
from raw_server import DONE, ROLE, event
from rig import FINE, Byzantine, at, base_of, bench, byzantine, fine, holds, json_answer, start, streamed, the_run

import client.bench
from client.core.records import Phase

KEY = "rpa_Zq8Xw2/bN0vTtK5yR"
HEADER = f"authorization: Bearer {KEY}".encode()


class Echo(Byzantine):
    """A server that repeats the key wherever it can, as debug pages and error messages do."""

    def page(self, path: str) -> bytes:
        if path.endswith("/v1/models"):
            return json_answer({"data": [{"id": "m"}, {"id": f"m-{KEY}"}]})
        if path.endswith("/version"):
            return json_answer({"version": f"0.1 {KEY}"})
        if path.endswith("/metrics") and self.asked > 20:
            return b"HTTP/1.1 200 OK\r\ncontent-encoding: %s\r\ncontent-length: 0\r\n\r\n" % KEY.encode()
        if path.endswith("/metrics"):
            text = f'# HELP debug {KEY}\nvllm:debug{{auth="Bearer {KEY}"}} 1\n'.encode()
            return b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text)
        return super().page(path)


def echoing(talk: Talk, number: int, request: bytes) -> None:
    answers = (
        FINE,
        json_answer({"error": {"message": f"bad header authorization: Bearer {KEY}"}}, "400 Bad"),
        json_answer({"error": {"message": f"key {KEY} is over its quota"}}),
        b"HTTP/1.1 307 Temporary\r\nlocation: http://h/?k=" + KEY.encode() + b"\r\ncontent-length: 0\r\n\r\n",
        streamed(ROLE, event(f"my key is {KEY[:9]}"), event(f"{KEY[9:]}!", finish="stop"), DONE),
        streamed(ROLE, event("x", finish=f"stop {KEY}"), DONE),
        b"HTTP/1.1 500 " + KEY.encode() + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/" + KEY.encode() + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: " + KEY.encode() + b"\r\ncontent-length: 0\r\n\r\n",
    )
    talk.send(answers[(number - 1) % len(answers)])


def titles() -> bytes:
    """Arguments of every process of this machine that can be read."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return b"\n".join(found)


def files_with(folder: Path, secret: bytes) -> list[str]:
    return [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file() and secret in p.read_bytes()]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_key_that_the_server_echoes_is_found_nowhere(workers: str, tmp_path: Path) -> None:
    server = Echo(echoing)
    (tmp_path / "key").write_text(KEY)
    out = tmp_path / "out"
    with peer(server) as served:
        argv = [*at(base_of(served)), "--model", "m", "--api-key-file", str(tmp_path / "key"), "--requests", "27"]
        running = start(*argv, "--workers", workers, "--concurrency", workers, out=out)
        running.wait_for_lines(3)
        seen = titles()
        done = running.end()
    assert b"client.bench" in seen, "the titles were looked at while it ran"
    assert KEY.encode() not in seen
    run = the_run(out)
    assert sum(record.phase in (Phase.COLD, Phase.MEASURE) for record in holds(done, run)) == 28
    assert KEY not in done.all
    assert "***" in (run / "requests.jsonl" if workers == "1" else run / "requests-0.jsonl").read_text()
    assert files_with(run, KEY.encode()) == []
    assert files_with(run, KEY[:12].encode()) == [], "not even its beginning"
    assert all(HEADER in head for head in server.heads), "each request to its origin carries it, /metrics too"


class Tells(Byzantine):
    """One page of it is a given answer."""

    def __init__(self, place: str, head: bytes, body: bytes) -> None:
        super().__init__(fine)
        self._place = place
        self._answer = head + b"content-length: %d\r\n\r\n%s" % (len(body), body)

    def page(self, path: str) -> bytes:
        return self._answer if path == self._place else super().page(path)


def test_what_a_server_says_to_be_refused_for_does_not_tell_its_key(tmp_path: Path) -> None:
    """Each page of the preflight, and each header that a sentence may quote."""

    key = KEY.encode()
    plays = (
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: " + key + b"\r\n", b""),
        (b"HTTP/1.1 401 No\r\n", b'{"error": "wrong key ' + key + b'"}'),
        (b"HTTP/1.1 302 Go\r\nlocation: http://h/" + key + b"\r\n", b""),
        (b"HTTP/1.1 500 " + key + b"\r\n", b"<title>" + key + b"</title>"),
        (b"HTTP/1.1 200 " + key + b"\r\nx: \x01" + key + b"\r\n", key),
    )
    for place in ("/v1/models", "/metrics"):
        for number, (head, body) in enumerate(plays):
            out = tmp_path / f"{place.replace('/', '-')}{number}"
            with peer(Tells(place, head, body)) as served:
                argv = [*at(base_of(served)), "--api-key-env", "THE_KEY", "--requests", "1"]
                more = ["--preflight-only"] if place == "/v1/models" else []
                done = bench(*argv, *more, out=out, env={"THE_KEY": KEY})
            assert "Traceback" not in done.all
            assert KEY not in done.all
            assert not out.exists() or files_with(out, key) == []


def test_a_servers_own_key_among_its_arguments_is_not_kept(tmp_path: Path) -> None:
    """`--engine-args` is for the report: the key that somebody starts a server with stands on the same line."""
    with byzantine(fine) as (_, url):
        argv = [*at(url), "--requests", "2", "--engine-args", f"--max-num-seqs 8 --api-key {KEY} {KEY}-2 --dtype auto"]
        done = bench(*argv, out=tmp_path)
    run = the_run(tmp_path)
    holds(done, run)
    assert KEY not in done.all
    assert files_with(run, KEY.encode()) == []
    assert "--max-num-seqs" in (run / "manifest.json").read_text()


def test_a_bug_of_ours_does_not_tell_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*arguments: object) -> int:
        raise ValueError(f"authorization: Bearer {KEY}")

    monkeypatch.setattr(client.bench, "run", breaks)
    monkeypatch.setenv("THE_KEY", KEY)
    assert client.bench.main(["--target", "t", "--url", "t=http://127.0.0.1:9", "--api-key-env", "THE_KEY"]) == 1
    told = capsys.readouterr().err
    assert "ValueError: authorization: Bearer ***" in told
    assert "a bug of ours" in told
    assert KEY not in told


def test_a_key_follows_no_redirect_and_reaches_no_other_host(tmp_path: Path) -> None:
    """Preflight, chat and /metrics each redirect to a second server, which must see nothing; the sidecar gets no key either."""
    other = Byzantine(lambda talk, number, request: talk.send(FINE))
    sidecar = Byzantine(lambda talk, number, request: talk.send(FINE))
    with peer(other) as stranger, peer(sidecar) as beside:
        away = f"HTTP/1.1 307 T\r\nlocation: {base_of(stranger)}/x\r\ncontent-length: 0\r\n\r\n".encode()

        class Sends(Byzantine):
            def page(self, path: str) -> bytes:
                return away if path.endswith(("/metrics", "/version")) else super().page(path)

        server = Sends(lambda talk, number, request: talk.send(FINE if number == 1 else away))
        with peer(server) as served:
            argv = [*at(base_of(served))[:4], "--warmup", "0", "--image-size", "64x64", "--sidecar", base_of(beside)]
            done = bench(*argv, "--requests", "4", "--api-key-env", "THE_KEY", out=tmp_path, env={"THE_KEY": KEY})
    records = holds(done, the_run(tmp_path))
    assert [r.status for r in records] == [200, 307, 307, 307, 307]
    assert other.heads == []
    assert sidecar.heads, "the sidecar was asked"
    assert not any(KEY.encode() in head for head in sidecar.heads)


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_a_server_that_only_redirects_is_refused_with_the_reason(path: str, tmp_path: Path) -> None:
    class Moved(Byzantine):
        def page(self, asked: str) -> bytes:
            gone = b"HTTP/1.1 301 Moved\r\nlocation: https://new.example/v1/models\r\ncontent-length: 0\r\n\r\n"
            return gone if asked in (path, "/v1/models") else super().page(asked)

    with peer(Moved(lambda talk, number, request: talk.send(FINE))) as served:
        done = bench(*at(base_of(served)), out=tmp_path / "out")
    assert done.code == 3
    assert "redirects to https://new.example/v1/models" in done.line
    assert "--url t=https://new.example" in done.line
    assert not list((tmp_path / "out").iterdir())


@contextmanager
def self_signed(folder: Path):  # type: ignore[no-untyped-def]
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {folder}/k.pem -out {folder}/c.pem -days 2 -subj /CN=localhost -addext {names}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "c.pem", folder / "k.pem")
    yield context


def test_a_private_certificate_needs_its_authority_named(tmp_path: Path) -> None:
    """Without --ca-file the run ends before a key is sent; with it, preflight, load and /metrics all speak TLS to it."""
    page = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 14\r\n\r\nvllm:debug 1.0"

    class Metered(Byzantine):
        def page(self, path: str) -> bytes:
            return page if path == "/metrics" else super().page(path)

    server = Metered(lambda talk, number, request: talk.send(FINE))
    key = {"THE_KEY": KEY}
    with self_signed(tmp_path) as context, peer(server, context=context) as served:
        argv = [*at(base_of(served)), "--requests", "3", "--api-key-env", "THE_KEY"]
        refused = bench(*argv, out=tmp_path / "no", env=key)
        assert server.heads == []
        done = bench(*argv, "--ca-file", str(tmp_path / "c.pem"), out=tmp_path / "out", env=key)
    assert refused.code == 3
    assert "certificate" in refused.line
    assert "--ca-file" in refused.line
    run = the_run(tmp_path / "out")
    assert {str(r.outcome) for r in holds(done, run)} == {"ok"}
    assert (run / "servers/t/metrics-after.txt").read_text() == "vllm:debug 1.0"
    wrong = bench(*argv, "--ca-file", str(tmp_path / "k.pem"), out=tmp_path / "x", env=key)
    assert wrong.code == 2, wrong.all
    assert "k.pem" in wrong.line


def test_tls_that_breaks_in_mid_run_is_a_class_of_its_own(tmp_path: Path) -> None:
    """Each answer ends its connection; after the third the server meets new ones with something that is no TLS."""
    closing = FINE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
    broken = threading.Event()

    def chat(talk: Talk, number: int, request: bytes) -> None:
        if number == 4:
            broken.set()
        talk.send(closing)
        talk.sock.close()

    with self_signed(tmp_path) as context:
        handshake = context.wrap_socket

        def wrap(sock, **options):  # type: ignore[no-untyped-def]
            if broken.is_set():
                sock.sendall(b"HTTP/1.1 400 plain HTTP here\r\n\r\n")
                time.sleep(0.05)
                raise OSError("no TLS any more")
            return handshake(sock, **options)

        context.wrap_socket = wrap  # type: ignore[method-assign]  # the peer's own half of the handshake, broken on purpose
        with byzantine(chat, context=context) as (_, url):
            done = bench(*at(url), "--requests", "6", "--ca-file", str(tmp_path / "c.pem"), out=tmp_path / "out")
    records = holds(done, the_run(tmp_path / "out"))
    assert [str(r.outcome) for r in records] == ["ok"] * 4 + ["tls"] * 3
    assert all("TLS" in (r.error or "") for r in records[4:])
