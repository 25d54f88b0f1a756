"""The room of the container engine, with the engine scripted: who is alive, what is copied, what is noticed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from scripted_engine import ScriptedContainer, ScriptedEngine, eventually

from client.containers import Engine, ServerContainers, attach
from client.containers.keeper import ContainerEnded, _Server
from client.core.container import Seen
from client.core.plan import Target
from client.core.records import Outcome, Phase, RequestRecord
from client.core.secrets import Mask
from client.errors import TargetError, UsageError
from client.host import has_engine

KEY = "sk-0123456789"


def room(engine: ScriptedEngine, folder: Path, *, isolate: bool = False, wait_s: float = 5.0) -> ServerContainers:
    servers = {}
    for name in engine.by_id:
        seen = Seen(id=name, name=name, project="p", service=name, running=True)
        servers[name] = _Server(
            Target(name=name, base_url="http://127.0.0.1:1"), seen, folder / f"{name}.log", Mask([KEY])
        )
    return ServerContainers(cast(Engine, engine), servers, isolate, wait_s)


def pair(*, running: bool, **changes: Any) -> ScriptedEngine:
    return ScriptedEngine(*(ScriptedContainer(name, running=running, **changes) for name in ("bf16", "fp8")))


def answer(target: str) -> RequestRecord:
    return RequestRecord(
        target=target, phase=Phase.COLD, index=0, image_id="i", outcome=Outcome.OK, intended_ns=0, first_token_ns=1
    )


async def test_one_server_is_alive_at_a_time(tmp_path: Path) -> None:
    engine = pair(running=False)
    containers = room(engine, tmp_path, isolate=True)
    assert await containers.up("bf16") is True
    assert await containers.up("bf16") is False, "it serves already"
    assert await containers.up("fp8") is True
    containers.close()
    assert engine.done == ["start bf16", "stop bf16", "start fp8", "stop fp8"]
    assert containers.failure is None, "what we stop ourselves is no failure"
    assert engine.closed
    assert [len(facts.starts) for facts in containers.facts()] == [1, 1]


async def test_servers_that_were_found_alive_are_stopped_first(tmp_path: Path) -> None:
    engine = pair(running=True)
    containers = room(engine, tmp_path, isolate=True)
    await containers.up("fp8")
    assert engine.done == ["stop bf16", "stop fp8", "start fp8"]
    containers.close()


async def test_without_isolation_nothing_is_started_or_stopped(tmp_path: Path) -> None:
    engine = pair(running=True)
    containers = room(engine, tmp_path)
    assert await containers.up("fp8") is False
    containers.close()
    assert engine.done == []


async def test_the_log_is_copied_with_its_stamps_and_without_its_secrets(tmp_path: Path) -> None:
    engine = pair(running=True)
    containers = room(engine, tmp_path)
    engine.by_id["fp8"].say(
        3, "(EngineCore pid=2) INFO 11-25 03:19:38 [a.py:1] Model loading took 8.79 GiB memory and 3.1 seconds"
    )
    engine.by_id["fp8"].say(4, "non-default args: {'api_key': 's3cret'}")
    engine.by_id["fp8"].say(5, f"WARNING: somebody came with {KEY}")
    engine.by_id["fp8"].log.put(b"1970-01-01T00:00:05Z half a ")
    engine.by_id["fp8"].log.put(b"line\n")
    eventually(lambda: "half a line" in (tmp_path / "fp8.log").read_text())
    containers.close()
    text = (tmp_path / "fp8.log").read_text()
    assert KEY not in text
    assert "somebody came with ***" in text
    assert text.startswith("1970-01-01T00:00:03.000000000Z (EngineCore pid=2)")
    assert "s3cret" not in text
    (start,) = next(facts for facts in containers.facts() if facts.target == "fp8").starts
    assert start.weights_ns == 3_000_000_000


async def test_an_end_under_the_run_is_told_with_the_last_lines(tmp_path: Path) -> None:
    engine = pair(running=True)
    containers = room(engine, tmp_path)
    told: list[str] = []
    containers.on_failure(lambda: told.append("failed"))
    containers.see(answer("bf16"))
    engine.by_id["fp8"].say(3, "RuntimeError: engine core died")
    engine.end("fp8", 137, oom=True)
    eventually(lambda: told)
    with pytest.raises(
        ContainerEnded, match=r"fp8 was killed for want of memory \(OOM, exit code 137\) under the run"
    ) as caught:
        containers.raise_failure()
    assert "RuntimeError: engine core died" in caught.value.fact
    assert "What was measured before is kept" in caught.value.hint
    containers.close()
    assert {facts.target: facts.ended is not None for facts in containers.facts()} == {"bf16": False, "fp8": True}


async def test_a_guarded_wait_ends_with_the_container(tmp_path: Path) -> None:
    engine = pair(running=True)
    containers = room(engine, tmp_path)
    cancelled: list[bool] = []

    async def wait_for_ever() -> None:
        engine.end("fp8", 1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    begun = asyncio.get_running_loop().time()
    with pytest.raises(ContainerEnded, match="ended with code 1 before it answered"):
        await asyncio.wait_for(containers.guard(wait_for_ever()), 10)
    assert asyncio.get_running_loop().time() - begun < 5
    assert cancelled == [True]
    containers.close()


async def test_guarded_work_that_ends_well_is_passed_on(tmp_path: Path) -> None:
    containers = room(pair(running=True), tmp_path)

    async def work() -> int:
        return 7

    assert await containers.guard(work()) == 7
    containers.close()


async def test_a_targets_own_error_is_explained_by_its_container(tmp_path: Path) -> None:
    engine = pair(running=True)
    engine.by_id["fp8"].state["Running"] = False
    engine.by_id["fp8"].state["ExitCode"] = 1
    engine.by_id["fp8"].said.append("ValueError: no free memory")
    containers = room(engine, tmp_path)

    async def work() -> None:
        raise TargetError("target fp8: nothing serves at http://127.0.0.1:1.", "Start it.")

    with pytest.raises(ContainerEnded, match="fp8 ended with code 1") as caught:
        await containers.guard(work())
    assert "ValueError: no free memory" in caught.value.fact
    containers.close()


async def test_an_error_whose_container_is_well_stays_as_it_is(tmp_path: Path) -> None:
    containers = room(pair(running=True), tmp_path)

    async def work() -> None:
        raise TargetError("target fp8 does not serve the model m.", "Choose another.")

    with pytest.raises(TargetError, match="does not serve the model m"):
        await containers.guard(work())
    containers.close()


@pytest.mark.parametrize(
    ("health", "words"), [("unhealthy", "became unhealthy before it served"), ("starting", "was not healthy after 0 s")]
)
async def test_a_server_that_does_not_become_healthy(tmp_path: Path, health: str, words: str) -> None:
    engine = pair(running=False, health=health)
    containers = room(engine, tmp_path, isolate=True, wait_s=0.2)
    with pytest.raises(ContainerEnded, match=words):
        await containers.up("fp8")
    containers.close()
    assert engine.done == ["start fp8", "stop fp8"], "it is not left behind half alive"


async def test_a_server_that_ends_while_it_starts(tmp_path: Path) -> None:
    engine = pair(running=False)
    engine.start_ends_it = True
    containers = room(engine, tmp_path, isolate=True)
    with pytest.raises(ContainerEnded, match="ended with code 1 before it was healthy") as caught:
        await containers.up("fp8")
    assert "CUDA out of memory" in caught.value.fact
    await asyncio.sleep(0.5)
    assert containers.failure is None, "it is told once, by whoever started it"
    containers.close()


async def test_an_engine_that_refuses_to_start_is_quoted(tmp_path: Path) -> None:
    engine = pair(running=False)
    engine.refuses = 'could not select device driver "nvidia"'
    containers = room(engine, tmp_path, isolate=True)
    with pytest.raises(TargetError, match='cannot be started: could not select device driver "nvidia"'):
        await containers.up("fp8")
    containers.close()


async def test_without_a_health_check_the_log_tells_that_it_serves(tmp_path: Path) -> None:
    engine = pair(running=False, health=None)
    containers = room(engine, tmp_path, isolate=True)
    rising = asyncio.create_task(containers.up("fp8"))
    await asyncio.sleep(0.2)
    assert not rising.done()
    engine.by_id["fp8"].say(5, "INFO:     Application startup complete.")
    assert await asyncio.wait_for(rising, 5) is True
    containers.close()


async def test_with_a_health_check_its_word_counts_and_not_the_log(tmp_path: Path) -> None:
    engine = pair(running=False, health="starting")
    containers = room(engine, tmp_path, isolate=True)
    rising = asyncio.create_task(containers.up("fp8"))
    await asyncio.sleep(0.1)
    engine.by_id["fp8"].say(5, "INFO:     Application startup complete.")
    await asyncio.sleep(1.0)
    assert not rising.done()
    engine.by_id["fp8"].health = "healthy"
    assert await asyncio.wait_for(rising, 5) is True
    containers.close()


@pytest.mark.parametrize("place", ["tcp://10.0.0.1:2375", "ssh://gpu-host", "unix:///nowhere.sock"])
def test_an_engine_of_another_host_is_not_asked_about_our_ports(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", place)
    assert has_engine() is False


def test_no_engine_is_no_obstacle_unless_isolation_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    targets = (Target(name="fp8", base_url="http://127.0.0.1:1"),)
    assert attach(targets, lambda _: tmp_path) is None
    with pytest.raises(UsageError, match=r"--isolate starts and stops servers, but no Docker Engine can be asked"):
        attach(targets, lambda _: tmp_path, isolate=True)
