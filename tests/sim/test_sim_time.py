"""The time model, in virtual time: the seed's figures, the H100 recording, caches, waiting, preemption."""

from __future__ import annotations

import statistics
from functools import cache
from typing import Any

import pytest
from replay import Bodies, Timed, closed_loop, medians, replay, settings, timed, with_service
from simulated import body, photo

from server.simulator.service import Service

SHORT: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True}


@pytest.mark.parametrize(("precision", "cold_ms", "warm_ms"), [("bf16", 7717, 597), ("fp8", 7030, 375)])
def test_the_seeds_way_of_asking_gives_the_seeds_figures(precision: str, cold_ms: float, warm_ms: float) -> None:
    one = body(photo(1), **SHORT)
    cold, *warm = with_service(settings("rtx-6000-ada", precision), lambda service: closed_loop(service, [one] * 5, 1))
    assert cold.e2e == pytest.approx(cold_ms, rel=0.02)
    assert statistics.mean(r.e2e for r in warm) == pytest.approx(warm_ms, rel=0.02)
    assert {r.tokens for r in warm} == {24}


@cache
def replayed(precision: str) -> dict[str, list[Timed]]:
    return replay(precision, only=("cold", "same_image", "unique_a"))


def test_h100_tells_both_stories() -> None:
    """A repeated image: fp8 is a quarter faster. Different images: no difference worth having, TTFT up, TPOT a third down."""
    bf16, fp8 = ({phase: medians(r) for phase, r in replayed(p).items()} for p in ("bf16", "fp8"))
    change = {
        (phase, figure): fp8[phase][figure] / bf16[phase][figure] - 1
        for phase in ("same_image", "unique_a")
        for figure in ("e2e", "ttft", "tpot")
    }
    assert -0.30 < change["same_image", "e2e"] < -0.20
    assert abs(change["unique_a", "e2e"]) < 0.06
    assert 0.2 < change["unique_a", "ttft"] < 0.5
    assert -0.37 < change["unique_a", "tpot"] < -0.30


def test_the_first_request_alone_is_cold() -> None:
    first, *later = with_service(
        settings("h100", "bf16"),
        lambda s: closed_loop(s, [Bodies().picture((1024, 759), **SHORT) for _ in range(6)], 1),
    )
    assert first.ttft > 8 * max(r.ttft for r in later)


def counters(service: Service) -> dict[str, int]:
    return service.metrics.totals()


def test_a_repeated_image_hits_every_cache_and_another_one_none() -> None:
    bodies = Bodies()
    one, other = bodies.picture((1024, 759), **SHORT), bodies.picture((1024, 759), **SHORT)

    async def work(service: Service) -> tuple[list[Timed], list[dict[str, int]]]:
        times, counts = [], []
        for data in (one, one, other):
            times.append(await timed(service, data))
            counts.append(counters(service))
        return times, counts

    times, counts = with_service(settings("h100", "bf16"), work)
    assert [c["mm_cache_hits"] for c in counts] == [0, 1, 1]
    # 1,044 tokens: 65 whole blocks of 16. The other picture shares the 14 system and user tokens before it: no whole block.
    assert [c["prefix_cache_hits"] for c in counts] == [0, 1040, 1040]
    assert times[1].ttft < 0.6 * times[2].ttft


def test_caches_that_are_off_never_hit() -> None:
    one = Bodies().picture((1024, 759), **SHORT)

    async def work(service: Service) -> dict[str, int]:
        await closed_loop(service, [one] * 3, 1)
        return counters(service)

    counts = with_service(settings("h100", "bf16", prefix_caching=False, processor_cache_gb=0), work)
    assert (counts["prefix_cache_queries"], counts["mm_cache_hits"]) == (0, 0)


def test_requests_wait_when_the_kv_cache_is_full() -> None:
    """At utilization 0.403 the bf16 card has some 4,900 tokens of KV cache: four requests of 1,064 tokens fit, eight ask."""
    tight = settings("rtx-6000-ada", "bf16", utilization=0.403)
    blocks = tight.profile.kv_blocks(0.403)
    assert 4 * 67 <= blocks < 5 * 67
    most_waiting = most_running = 0

    async def work(service: Service) -> None:
        nonlocal most_waiting, most_running
        asked = [bodies.picture((1024, 759), max_tokens=20, ignore_eos=True) for _ in range(8)]
        hand_out = service.step

        def watch(step: Any, seconds: float) -> None:
            nonlocal most_waiting, most_running
            most_waiting = max(most_waiting, len(service.engine.waiting))
            most_running = max(most_running, len(service.engine.running))
            hand_out(step, seconds)

        service.step = watch  # type: ignore[method-assign]  # a look at the queue at each step
        await closed_loop(service, asked, 8)
        assert service.engine.pool.free == blocks

    bodies = Bodies()
    with_service(tight, work)
    assert most_running == 4
    assert most_waiting >= 1


def test_long_answers_in_a_full_kv_cache_are_preempted_and_still_end() -> None:
    tight = settings("rtx-6000-ada", "bf16", utilization=0.403)
    bodies = Bodies()

    async def work(service: Service) -> list[Timed]:
        return await closed_loop(
            service, [bodies.picture((1024, 759), max_tokens=400, ignore_eos=True) for _ in range(4)], 4
        )

    preempted = 0

    async def counted(service: Service) -> list[Timed]:
        nonlocal preempted
        results = await work(service)
        page = service.metrics.page(service.engine).decode()
        preempted = int(float(page.split("vllm:num_preemptions_total{")[1].split("\n")[0].split()[-1]))
        return results

    results = with_service(tight, counted)
    assert [r.tokens for r in results] == [400] * 4
    assert preempted >= 1


def test_time_scale_stretches_everything() -> None:
    one = body(photo(1), **SHORT)
    plain, slow = (
        with_service(settings("h100", "bf16", time_scale=scale), lambda s: closed_loop(s, [one] * 3, 1))
        for scale in (1.0, 3.0)
    )
    assert [r.e2e for r in slow] == pytest.approx([3 * r.e2e for r in plain], rel=1e-6)
