"""What scripts/runpod prints is run by hand on a rented GPU: it must parse, keep secrets out of files, and never wait for a dead server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent.parent.parent / "scripts/runpod"


def printed() -> str:
    return subprocess.run([SCRIPT], capture_output=True, text=True, check=True).stdout


def pod(tmp_path: Path) -> tuple[dict[str, Any], list[str]]:
    """Runs the second step with a `curl` that only keeps what it was given. Returns the request and the files that were left."""
    step = printed().split("# 2.")[1].split("export POD=")[0].split("\n", 1)[1]
    tools, work = tmp_path / "tools", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    (tools / "curl").write_text(
        f'#!/bin/sh\nfor word in "$@"; do case $word in @-) cat;; @*) cat "${{word#@}}";; esac; done > {tmp_path}/sent\n'
    )
    (tools / "curl").chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "RUNPOD_API_KEY": "key",
        "PAIR_KEY": "pair-key",
        "HF_TOKEN": "hf-token",
    }
    subprocess.run(["bash", "-euc", step], cwd=work, env=environment, check=True)
    return json.loads((tmp_path / "sent").read_text()), [file.name for file in work.iterdir()]


def test_the_pod_is_asked_for_without_a_file_that_holds_the_keys(tmp_path: Path) -> None:
    request, left = pod(tmp_path)
    assert request["env"]["VLLM_API_KEY"] == "pair-key"
    assert left == []


def test_a_bf16_server_that_dies_ends_the_wait(tmp_path: Path) -> None:
    request, _ = pod(tmp_path)
    (start,) = request["dockerStartCmd"]
    assert "/workspace/bf16.log" in start
    dead = tmp_path / "python3"
    dead.write_text("#!/bin/sh\nexit 1\n")
    dead.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = start.replace("/workspace", str(tmp_path)).replace("sleep 5", "sleep 0.1")
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, timeout=10)
    assert done.returncode == 3
    assert b"bf16 ended" in done.stderr
