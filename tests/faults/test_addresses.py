"""Any base URL of an OpenAI-compatible server, as the command takes it, over real sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from peer import peer
from rig import SMALL, Byzantine, base_of, bench, fine, holds, the_run


@pytest.mark.parametrize(
    ("family", "given", "asked"),
    [
        (socket.AF_INET, "", "/v1/chat/completions"),
        (socket.AF_INET, "/v1/", "/v1/chat/completions"),
        (socket.AF_INET, "/v1/chat/completions", "/v1/chat/completions"),
        (socket.AF_INET, "/a/prefix//", "/a/prefix/v1/chat/completions"),
        (socket.AF_INET, "/v2/e7x9k2/openai/v1", "/v2/e7x9k2/openai/v1/chat/completions"),
        (socket.AF_INET6, "/v1", "/v1/chat/completions"),
    ],
)
def test_any_base_address_reaches_the_chat_door(
    family: socket.AddressFamily, given: str, asked: str, tmp_path: Path
) -> None:
    server = Byzantine(fine)
    with peer(server, family=family) as served:
        argv = ["--target", "t", "--url", f"t={base_of(served)}{given}", *SMALL, "--requests", "2"]
        done = bench(*argv, out=tmp_path)
        host = base_of(served).removeprefix("http://")
    records = holds(done, the_run(tmp_path))
    assert {str(r.outcome) for r in records} == {"ok"}
    posted = [head for head in server.heads if head.startswith(b"POST ")]
    assert {head.split(b" ")[1].decode() for head in posted} == {asked}
    assert all(f"host: {host}".encode() in head.lower() for head in posted)
    assert len(posted) == len(records), "one request for each record"
