"""The order of a campaign that keeps one server alive at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.campaign import Campaign, first_request_failed
from client.core.evidence import ServerEvidence
from client.core.plan import Design, LoadProfile, RunPlan, Target
from client.core.records import ImageFact, Outcome, Phase, PhaseWindow, RequestRecord, ServerSnapshot, WorkerHealth
from client.core.schedule import Schedule
from client.preflight import Introduction
from client.progress import Quiet
from client.rundir import RunDir


@dataclass
class Result:
    window: PhaseWindow
    health: Sequence[WorkerHealth] = ()


class Kept:
    """Keeps the book of what was alive and what was sent; a server that is not alive answers nothing."""

    def __init__(self) -> None:
        self.alive = "a"
        self.told: list[str] = []
        self.images: dict[tuple[str, int], list[int]] = {}
        self.starts = {"a": 1, "b": 0}

    async def up(self, target: str) -> bool:
        fresh = target != self.alive
        if fresh:
            self.alive = target
            self.starts[target] += 1
            self.told.append(f"up {target}")
        return fresh

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def abort(self) -> None: ...
    async def prepare(self, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None: ...
    def drain(self) -> Iterable[ImageFact]:
        return ()

    async def run(self, target_name: str, slots: Schedule, *, phase: Phase, block: int | None, level: int) -> Result:
        assert target_name == self.alive
        self.told.append(f"{phase} {target_name}" + ("" if block is None else f" {block}"))
        self.images.setdefault((target_name, self.starts[target_name]), []).extend(slot.image for slot in slots)
        self.campaign.see(
            RequestRecord(target=target_name, phase=phase, index=0, image_id="i", outcome=Outcome.OK, intended_ns=0)
        )
        return Result(PhaseWindow(target=target_name, phase=phase, start_ns=0, end_ns=1, block=block))

    campaign: Campaign


async def run(folder: Path, plan: RunPlan, *, isolated: bool) -> Kept:
    kept = Kept()

    async def page(name: str) -> ServerSnapshot:
        return ServerSnapshot(target=name, mono_ns=0, wall_ns=0)

    async def energy(target: str) -> int | None:
        return None

    met = {t.name: Introduction(t, ServerEvidence(target=t.name)) for t in plan.targets}
    run_dir = RunDir.create(folder)
    kept.campaign = Campaign(plan, run_dir, met, kept, kept, page, energy, Quiet(), None, kept if isolated else None)
    await kept.campaign.run()
    run_dir.close()
    return kept


TARGETS = (Target(name="a", base_url="http://127.0.0.1:1"), Target(name="b", base_url="http://127.0.0.1:2"))
PLAN = RunPlan(
    targets=TARGETS, design=Design.SERIAL, load=LoadProfile(requests=8, warmup=2, blocks_per_arm=4), quality=2
)


async def test_baseline_candidate_baseline_each_cold_and_warm_after_its_start(tmp_path: Path) -> None:
    kept = await run(tmp_path, PLAN, isolated=True)
    assert kept.told == [
        "cold a", "warmup a", "measure a 0", "measure a 1",
        "up b", "cold b", "warmup b", "measure b 0", "measure b 1", "measure b 2", "measure b 3",
        "up a", "cold a", "warmup a", "measure a 2", "measure a 3",
        "quality a 0", "quality a 1",
        "up b", "quality b 0", "quality b 1",
    ]  # fmt: skip


async def test_an_interrupt_does_not_wait_for_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(self: Kept, numbers: Iterable[int], likely: int | None = None, last: Iterable[int] = ()) -> None:
        asyncio.get_running_loop().call_later(0.05, self.campaign.interrupt)
        await asyncio.sleep(60)

    monkeypatch.setattr(Kept, "prepare", slow)
    kept = await asyncio.wait_for(run(tmp_path, PLAN, isolated=False), 5)
    assert kept.told == []
    assert kept.campaign.interrupted


async def test_no_server_sees_a_picture_twice_in_one_life_before_quality(tmp_path: Path) -> None:
    plan = RunPlan(targets=TARGETS, design=Design.SERIAL, load=PLAN.load)
    kept = await run(tmp_path, plan, isolated=True)
    assert set(kept.images) == {("a", 1), ("b", 1), ("a", 2)}
    for images in kept.images.values():
        assert len(images) == len(set(images))
    assert not set(kept.images["a", 1]) & set(kept.images["a", 2]), "a disk cache may outlive a start"


async def test_one_target_alone_is_started_once(tmp_path: Path) -> None:
    plan = RunPlan(targets=TARGETS[1:], design=Design.SINGLE, load=PLAN.load)
    kept = await run(tmp_path, plan, isolated=True)
    assert [step for step in kept.told if step.startswith("up")] == ["up b"]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "HTTP 400: This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens",
            "shorten --prompt",
        ),
        ("HTTP 400: Input length (16339) exceeds model's maximum context length (4096).", "--max-side"),
        (
            "HTTP 400: The decoder prompt (length 16339) is longer than the maximum model length of 4096.",
            "--max-side",
        ),
        ("HTTP 400: max_tokens=99999 cannot be greater than max_model_len=4096.", "fewer --max-tokens"),
    ],
)
def test_what_is_too_long_for_the_model_is_named(said: str, advice: str) -> None:
    record = RequestRecord(
        target="a", phase=Phase.COLD, index=0, image_id="i", outcome=Outcome.HTTP_ERROR, intended_ns=0, status=400, error=said
    )  # fmt: skip
    error = first_request_failed("a", record, RunPlan(targets=(Target(name="a", base_url="http://127.0.0.1:1"),)))
    assert advice in error.hint
    assert error.hint.endswith("or serve with a larger --max-model-len.")
