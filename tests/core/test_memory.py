"""Memory parts with sources, checked against the recorded servers; and the words about them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.estimate import GIB
from client.core.facts import TargetFacts, read_cache_config, read_log
from client.core.findings import Memory
from client.core.memory import breakdown, memory_of, story
from client.core.model_config import read_model_config

LOGS = Path(__file__).parent.parent / "golden" / "logs"
H100_TOTAL = 85_520_809_984 - 503_316_480
"""NVML total minus reserved, as the recording's samples say: 81,079 MiB."""
SEVEN_B = (Path(__file__).parent.parent / "golden" / "config" / "qwen2-vl-7b.json").read_text()


def recorded(arm: str, idle: int | None = None) -> Memory:
    facts = read_log((LOGS / f"vllm-0.20.2-h100-{arm}.log").read_text())
    labels = read_cache_config((LOGS / f"vllm-0.20.2-h100-{arm}.metrics.txt").read_text())
    memory, _ = memory_of(
        facts, cache_config=labels, gpu_total_bytes=H100_TOTAL, nvml_idle_bytes=idle, mean_request_tokens=1068.0
    )
    return memory


@pytest.mark.parametrize(
    ("arm", "weights", "cache", "tokens", "requests"),
    [("bf16", 15.53, 16.87, 315_888, 294), ("fp8", 8.79, 23.62, 442_224, 412)],
)
def test_the_recorded_pair(arm: str, weights: float, cache: float, tokens: int, requests: int) -> None:
    memory = recorded(arm)
    assert (memory.weights_gib, memory.kv_cache_gib, memory.kv_cache_tokens) == (weights, cache, tokens)
    assert memory.kv_bytes_per_token == 57_344
    assert memory.budget_gib == pytest.approx(0.45 * H100_TOTAL / GIB, abs=1e-3)
    assert memory.requests_at_once is not None
    assert int(memory.requests_at_once) == requests
    assert memory.source["weights_gib"] == "log"
    assert memory.source["budget_gib"].startswith("arithmetic")


def test_every_figure_has_a_source() -> None:
    memory = recorded("fp8", idle=38_863_372_288)
    for field, value in msgspec.structs.asdict(memory).items():
        if field not in ("source", "notes") and value is not None:
            assert memory.source[field]


@pytest.mark.parametrize("arm", ["bf16", "fp8"])
def test_the_parts_add_up_to_the_budget(arm: str) -> None:
    rows = breakdown(recorded(arm))
    assert rows[-1][0] == "budget"
    assert sum(value for _, value, _ in rows[:-1] if value is not None) == pytest.approx(rows[-1][1], abs=1e-3)


def test_metrics_alone_tell_tokens_and_with_a_config_the_gib() -> None:
    labels = read_cache_config((LOGS / "vllm-0.20.2-h100-bf16.metrics.txt").read_text())
    bare, kernel = memory_of(TargetFacts(), cache_config=labels, gpu_total_bytes=H100_TOTAL)
    assert (bare.kv_cache_tokens, bare.kv_cache_gib, bare.weights_gib, bare.utilization) == (315_888, None, None, 0.45)
    assert bare.source["kv_cache_tokens"].startswith("metrics")
    assert kernel.kind == "unknown"
    more, _ = memory_of(TargetFacts(), cache_config=labels, config=read_model_config(SEVEN_B))
    assert more.kv_cache_gib == pytest.approx(16.87, abs=0.005)


def test_nothing_known_is_none_never_zero() -> None:
    memory, _ = memory_of(TargetFacts())
    assert all(
        value is None for field, value in msgspec.structs.asdict(memory).items() if field not in ("source", "notes")
    )


def test_the_profile_of_an_old_version_adds_up() -> None:
    memory, _ = memory_of(
        read_log(
            "INFO 01-13 11:35:20 [a.py:1] vLLM API server version 0.6.6\n"
            "INFO 01-13 11:35:21 model_runner.py:1099] Loading model weights took 14.9595 GB\n"
            "INFO 01-13 11:35:23 worker.py:241] the current vLLM instance can use total_gpu_memory (39.50GiB) x gpu_memory_utilization (0.90) = 35.55GiB\n"
            "INFO 01-13 11:35:23 worker.py:241] model weights take 14.96GiB; non_torch_memory takes 0.10GiB; PyTorch activation peak memory takes 9.37GiB; the rest of the memory reserved for KV Cache is 11.12GiB.\n"
            "INFO 01-13 11:35:23 gpu_executor.py:76] # GPU blocks: 5691, # CPU blocks: 2048\n"
            "INFO 01-13 11:35:23 gpu_executor.py:80] Maximum concurrency for 8192 tokens per request: 11.12x\n"
        )
    )
    assert memory.budget_gib == 35.55
    assert memory.kv_cache_tokens == 5691 * 16
    assert memory.rest_gib == pytest.approx(0.10, abs=0.011)
    assert not any("miss the budget" in note or "exceed" in note for note in memory.notes)


def test_debug_lines_of_0_11_add_up() -> None:
    head = "(EngineCore_DP0 pid=7) DEBUG 09-28 21:12:43 [v1/worker/gpu_worker.py:284] "
    memory, _ = memory_of(
        read_log(
            "INFO 09-28 21:12:00 [api_server.py:1] vLLM API server version 0.11.0\n"
            f"{head}Model loading took 8.8000 GiB and 4.000000 seconds\n"
            f"{head}Initial free memory: 46.40 GiB; Requested memory: 0.50 (util), 23.75 GiB\n"
            f"{head}Memory profiling takes 14.40 seconds. Total non KV cache memory: 10.22GiB; torch peak memory increase: 1.40GiB; non-torch forward increase memory: 0.02GiB; weights memory: 8.80GiB.\n"
            f"{head}Available KV cache memory: 13.53 GiB\n"
            f"{head}Graph capturing finished in 7 secs, took 0.68 GiB\n"
        )
    )
    rows = breakdown(memory)
    assert [name for name, _, _ in rows] == [
        "weights",
        "KV cache",
        "activations at peak",
        "CUDA context, the rest",
        "budget",
    ]
    assert memory.rest_gib == pytest.approx(0.02, abs=1e-6)
    assert memory.source["budget_gib"] == "log"
    assert not any("miss the budget" in note for note in memory.notes)


def facts(**given: object) -> TargetFacts:
    return msgspec.structs.replace(TargetFacts(version="0.20.2", complete=True, utilization=0.5), **given)


def notes_of(found: TargetFacts, **given: object) -> str:
    return " ".join(memory_of(found, **given)[0].notes)  # type: ignore[arg-type]  # keyword arguments of many types


def test_parts_that_miss_the_budget_are_said() -> None:
    said = notes_of(facts(weights_gib=8.0, kv_cache_gib=10.0, activations_gib=1.0, non_torch_gib=0.2, total_gib=48.0))
    assert "miss the budget by 4.80 GiB" in said


def test_parts_over_the_budget_give_no_negative_rest() -> None:
    memory, _ = memory_of(facts(weights_gib=8.0, kv_cache_gib=20.0), gpu_total_bytes=48 * GIB)
    assert memory.rest_gib is None
    assert any("do not add up" in note for note in memory.notes)
    fixed = notes_of(
        facts(weights_gib=8.0, kv_cache_gib=20.0, engine_args={"kv_cache_memory_bytes": 1}), gpu_total_bytes=48 * GIB
    )
    assert "--kv-cache-memory-bytes fixes the KV cache" in fixed


def test_a_rest_within_the_rounding_is_zero() -> None:
    memory, _ = memory_of(facts(weights_gib=8.0, kv_cache_gib=16.02), gpu_total_bytes=48 * GIB)
    assert memory.rest_gib == 0.0
    assert not any("add up" in note for note in memory.notes)


def test_figures_of_two_starts_are_told_apart() -> None:
    labels = {"gpu_memory_utilization": "0.9", "block_size": "16", "num_gpu_blocks": "100"}
    said = notes_of(facts(kv_cache_tokens=32_000), cache_config=labels)
    assert "utilization 0.5, /metrics 0.9" in said
    assert "32,000 KV tokens, /metrics 1,600" in said


def test_the_log_of_another_gpu_is_noticed() -> None:
    assert "another GPU" in notes_of(facts(total_gib=79.2), gpu_total_bytes=48 * GIB)
    assert "another GPU" in notes_of(facts(), gpu_total_bytes=48 * GIB, nvml_peak_bytes=60 * GIB)


def test_a_foreign_config_is_noticed() -> None:
    config = read_model_config(SEVEN_B)
    assert "another model" in notes_of(facts(weights_gib=4.2), config=config)
    assert "another model" not in notes_of(facts(weights_gib=15.53), config=config)
    assert "another model" not in notes_of(facts(weights_gib=8.79, quantization="fp8"), config=config)
    assert "config is of another model" in notes_of(facts(kv_cache_gib=10.0, kv_cache_tokens=500_000), config=config)


def test_weights_from_arithmetic_say_so() -> None:
    memory, _ = memory_of(facts(quantization="fp8"), config=read_model_config(SEVEN_B))
    assert memory.weights_gib == pytest.approx(8.7393, abs=1e-4)
    assert memory.source["weights_gib"] == "config arithmetic (fp8)"


def test_the_default_utilization_depends_on_the_version() -> None:
    lines = {"engine_args": "non-default args: {}"}
    for version, expected in (("0.11.0", 0.9), ("0.15.0", 0.9), ("0.20.2", 0.92), ("0.33.0", 0.92)):
        memory, _ = memory_of(TargetFacts(version=version, lines=lines))
        assert memory.utilization == expected
    assert memory_of(TargetFacts(version="0.33.0"))[0].utilization is None


def test_graphs_lie_outside_the_budget_before_0_20() -> None:
    old, _ = memory_of(facts(version="0.11.0", graphs_gib=0.6, graphs_estimated_gib=0.5))
    new, _ = memory_of(facts(version="0.20.2", graphs_gib=0.6, graphs_estimated_gib=0.5))
    assert (old.graphs_in_budget_gib, new.graphs_in_budget_gib) == (0.0, 0.5)
    assert any("0.60 GiB lie outside" in note for note in old.notes)


def test_eager_mode_sets_nothing_aside_for_graphs() -> None:
    memory, _ = memory_of(facts(engine_args={"enforce_eager": True}))
    assert memory.graphs_in_budget_gib == 0.0
    assert memory_of(facts())[0].graphs_in_budget_gib is None


def test_a_sum_over_gpus_is_not_held_against_the_budget_of_one() -> None:
    memory, _ = memory_of(
        facts(), gpu_total_bytes=80 * GIB, nvml_idle_bytes=30 * GIB, nvml_peak_bytes=300 * GIB, units=8
    )
    assert memory.budget_gib == 40.0
    assert memory.source["whole_gpu_peak_gib"] == "nvml v2, 8 GPUs together"
    assert memory.notes == (
        "8 GPUs are watched: whole-GPU figures are their sum, and the budget is that of one of them.",
    )


def test_an_idle_gpu_below_its_budget_and_a_neighbour_are_explained() -> None:
    assert "given back until traffic comes" in notes_of(facts(), gpu_total_bytes=48 * GIB, nvml_idle_bytes=20 * GIB)
    assert "given back" not in notes_of(facts(), gpu_total_bytes=48 * GIB, nvml_idle_bytes=25 * GIB)
    assert "another process freed GPU memory" in notes_of(facts(non_torch_gib=-3.58))


def test_a_tensor_parallel_server_is_not_compared_with_the_whole_model() -> None:
    memory, _ = memory_of(facts(tensor_parallel=2, weights_gib=7.8), config=read_model_config(SEVEN_B))
    assert not any("another model" in note for note in memory.notes)
    assert memory.kv_bytes_per_token is None


def test_bytes_of_a_token_are_snapped_only_where_the_rounding_allows_one_size() -> None:
    near, _ = memory_of(facts(kv_cache_gib=16.87, kv_cache_tokens=315_888))
    assert (near.kv_bytes_per_token, near.source["kv_bytes_per_token"]) == (
        57_344,
        "arithmetic: GiB / tokens, to a multiple of 512",
    )
    far, _ = memory_of(facts(kv_cache_gib=0.05, kv_cache_tokens=1000))
    assert far.kv_bytes_per_token == int(0.05 * GIB / 1000)


def test_max_num_seqs_is_told_when_it_is_the_limit() -> None:
    eight = facts(kv_cache_tokens=160_000, engine_args={"max_num_seqs": 8})
    assert "--max-num-seqs (log) lets at most 8 requests run at once, though the KV cache has room for 158" in notes_of(
        eight, mean_request_tokens=1000.0
    )
    assert "max-num-seqs" not in notes_of(eight, mean_request_tokens=20_000.0)


def test_a_gain_beyond_max_num_seqs_is_not_sold_as_one() -> None:
    old, new = (
        Memory(kv_cache_tokens=tokens, requests_at_once=tokens / 1072, max_num_seqs=cap)
        for tokens, cap in ((315_888, 256), (442_224, 256))
    )
    told = " ".join(story("bf16", old, "fp8", new, None))
    assert "fp8 runs at most 256 at once (--max-num-seqs): as it is set, none of the gain can be used" in told
    some = msgspec.structs.replace(new, max_num_seqs=300)
    assert "part of the gain" in " ".join(story("bf16", old, "fp8", some, None))
    enough = msgspec.structs.replace(new, max_num_seqs=1024)
    assert "max-num-seqs" not in " ".join(story("bf16", old, "fp8", enough, None))


def test_float32_counts_four_bytes() -> None:
    memory, kernel = memory_of(
        facts(version="0.20.2", dtype="float32", complete=True, kv_cache_gib=2.0, lines={"engine_args": "x"}),
        config=read_model_config(SEVEN_B),
    )
    assert memory.kv_bytes_per_token == 114_688
    assert memory.weights_gib == pytest.approx(30.89, abs=0.01)
    assert memory.source["weights_gib"] == "config arithmetic (float32)"
    assert kernel.kind == "none (float32)"


def test_requests_take_whole_blocks() -> None:
    memory, _ = memory_of(facts(kv_cache_tokens=1600), mean_request_tokens=17.0)
    assert memory.requests_at_once == 50.0


def test_a_cpu_server_has_no_gpu_budget() -> None:
    found = read_log((LOGS / "vllm-0.32.0-cpu-bf16.log").read_text())
    memory, _ = memory_of(found, gpu_total_bytes=48 * GIB, cache_config={"gpu_memory_utilization": "0.92"})
    assert (memory.budget_gib, memory.utilization, memory.kv_cache_gib) == (None, None, 1.0)


@given(
    st.builds(
        dict,
        weights_gib=st.none() | st.floats(0, 200), kv_cache_gib=st.none() | st.floats(-50, 200), kv_cache_tokens=st.none() | st.integers(0, 10**9),
        total_gib=st.none() | st.floats(0, 300), budget_gib=st.none() | st.floats(0, 300), activations_gib=st.none() | st.floats(0, 50),
        non_torch_gib=st.none() | st.floats(-20, 20), graphs_gib=st.none() | st.floats(0, 20), graphs_estimated_gib=st.none() | st.floats(0, 20),
        utilization=st.none() | st.floats(0, 1), version=st.none() | st.sampled_from(["0.6.3", "0.11.0", "0.20.2", "nightly"]),
        max_model_len=st.none() | st.integers(1, 10**6),
    ),
    st.none() | st.integers(-5, 10**12),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
    st.dictionaries(st.sampled_from(["block_size", "num_gpu_blocks", "gpu_memory_utilization", "kv_cache_size_tokens", "kv_cache_memory_bytes"]), st.text(max_size=8)),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_no_figure_is_silently_negative(
    values: dict[str, object], total: int | None, tokens: float | None, labels: dict[str, str]
) -> None:
    memory, kernel = memory_of(
        msgspec.structs.replace(TargetFacts(), **values),
        gpu_total_bytes=total,
        nvml_peak_bytes=total,
        mean_request_tokens=tokens,
        cache_config=labels,
    )
    for field, value in msgspec.structs.asdict(memory).items():
        if isinstance(value, int | float) and field != "kv_cache_gib":
            assert value >= 0, field
    assert kernel.kind
    for other in (memory, Memory()):
        assert isinstance(story("a", memory, "b", other, None), tuple)
        assert isinstance(story("a", other, "b", memory, "GPU"), tuple)


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [(5e-324, {}), (500.0, {"block_size": "inf"}), (500.0, {"block_size": "-16"}), (5.0, {"block_size": "1e-9"})],
)
def test_requests_at_once_from_numbers_that_are_none(tokens: float, labels: dict[str, str]) -> None:
    memory, _ = memory_of(
        msgspec.structs.replace(TargetFacts(), kv_cache_tokens=1600), mean_request_tokens=tokens, cache_config=labels
    )
    assert memory.requests_at_once is not None
    assert 0 < memory.requests_at_once <= 100


# The story


def test_the_story_of_the_recorded_pair() -> None:
    told = story(
        "bf16", recorded("bf16", 39_024_656_384), "fp8", recorded("fp8", 38_863_372_288), "NVIDIA H100 80GB HBM3"
    )
    total, where, holds, less, least = told
    assert "the same 35.63 GiB (--gpu-memory-utilization 0.45 of 79.18 GiB)" in total
    assert "36.34 and 36.19 GiB" in total
    assert "from 15.53 to 8.79 GiB (−43 %)" in where
    assert "from 16.87 to 23.62 GiB (+40 %): the 6.74 GiB saved became KV cache." in where
    assert (
        "from 315,888 to 442,224 (+40 %): room for 412 requests of up to 1,072 tokens at once instead of 294, 118 more."
        in holds
    )
    assert "--gpu-memory-utilization 0.37 keeps the KV cache of bf16 (315,888 tokens) in 29.30 GiB" in less
    assert "6.33 GiB less than now, free for others on NVIDIA H100 80GB HBM3 (79.2 GiB)" in less
    assert "bf16 needs 18.98 GiB and fp8 12.23 GiB" in least


def test_the_proposed_utilization_really_holds_the_old_cache() -> None:
    """Recomputed by hand: budget at 0.37 minus everything that is not KV cache, in tokens."""
    old, new = recorded("bf16"), recorded("fp8")
    assert new.budget_gib is not None
    assert new.kv_cache_gib is not None
    assert new.total_gib is not None
    left = 0.37 * new.total_gib - (new.budget_gib - new.kv_cache_gib)
    assert left * GIB / 57_344 >= (old.kv_cache_tokens or 0)
    less = 0.36 * new.total_gib - (new.budget_gib - new.kv_cache_gib)
    assert less * GIB / 57_344 < (old.kv_cache_tokens or 0)


def test_no_number_no_sentence() -> None:
    assert story("a", Memory(), "b", Memory(), "GPU") == ()
    only = story("a", Memory(weights_gib=2.0), "b", Memory(weights_gib=1.0), None)
    assert only == (
        "Weights shrink from 2.00 to 1.00 GiB (−50 %); where that memory went is unknown, because the KV cache of one server is.",
    )


def test_requests_are_compared_at_one_size() -> None:
    """The candidate's own answers may be longer: capacity is told for requests of the baseline's size."""
    old = Memory(kv_cache_tokens=10_000, requests_at_once=10.0)
    new = Memory(kv_cache_tokens=20_000, requests_at_once=4.0)
    assert (
        "room for 20 requests of up to 1,000 tokens at once instead of 10, 10 more"
        in story("a", old, "b", new, None)[0]
    )


def test_an_fp8_cache_needs_half_the_gib_for_the_same_tokens() -> None:
    old = Memory(
        budget_gib=20.0, total_gib=40.0, kv_cache_gib=8.0, kv_cache_tokens=8 * GIB // 50_000, kv_bytes_per_token=50_000
    )
    new = Memory(
        budget_gib=20.0, total_gib=40.0, kv_cache_gib=8.0, kv_cache_tokens=8 * GIB // 25_000, kv_bytes_per_token=25_000
    )
    assert any("--gpu-memory-utilization 0.40 keeps" in sentence for sentence in story("a", old, "b", new, None))


def test_little_is_not_called_a_saving() -> None:
    base = Memory(budget_gib=20.0, total_gib=40.0, kv_cache_gib=8.0)
    assert not any(
        "For less memory" in sentence
        for sentence in story("a", base, "b", msgspec.structs.replace(base, kv_cache_gib=8.05), None)
    )


def test_the_least_that_serves() -> None:
    old = Memory(budget_gib=20.0, total_gib=40.0, kv_cache_gib=8.0, kv_bytes_per_token=GIB // 1000, max_model_len=1000)
    other = msgspec.structs.replace(old, max_model_len=2000)
    assert story("a", old, "b", old, "CARD")[-1].endswith(
        "a needs 13.00 GiB and b 13.00 GiB: on CARD (40.0 GiB) a --gpu-memory-utilization of at least 0.33 and 0.33."
    )
    assert not any("To serve" in sentence for sentence in story("a", old, "b", other, None))
    huge = msgspec.structs.replace(old, max_model_len=40_000)
    assert story("a", huge, "b", huge, None)[-1].endswith("has no room for the larger.")


def test_different_budgets_are_said_first() -> None:
    told = story("a", Memory(budget_gib=20.0), "b", Memory(budget_gib=10.0), None)
    assert told == (
        "The two servers have different memory budgets, a 20.00 GiB and b 10.00 GiB: their totals differ by that, not by precision.",
    )


def test_a_candidate_that_grew_is_not_praised() -> None:
    told = story("a", recorded("fp8"), "b", recorded("bf16"), None)
    assert "Weights grow from 8.79 to 15.53 GiB (+77 %), the KV cache shrinks" in told[1]
    assert "118 fewer" in told[2]
    assert not any("For less memory" in sentence for sentence in told)


def test_every_number_of_the_story_comes_from_the_figures() -> None:
    """With one figure changed, the sentences change with it: nothing is written by heart."""
    base, new = recorded("bf16"), recorded("fp8")
    changed = msgspec.structs.replace(new, kv_cache_tokens=500_000)
    assert "500,000" in story("a", base, "b", changed, None)[2]
    for sentence in story("a", base, "b", new, None):
        assert re.search(r"\d", sentence)


def test_two_servers_of_one_precision_are_not_said_to_grow_or_shrink() -> None:
    told = story("bf16", recorded("bf16"), "again", recorded("bf16"), None)
    assert told[1] == "Weights weigh the same, 15.53 and 15.53 GiB: none were saved."


def test_a_fixed_kv_cache_is_not_explained_by_the_utilization() -> None:
    pair = [
        memory_of(
            facts(weights_gib=weights, kv_cache_gib=10.0, kv_cache_tokens=187_232, max_model_len=4096,
                  engine_args={"kv_cache_memory_bytes": 10 * GIB}),
            gpu_total_bytes=80 * GIB,
        )[0]
        for weights in (15.53, 8.79)
    ]  # fmt: skip
    assert pair[0].source["kv_cache_gib"] == "log, fixed by --kv-cache-memory-bytes"
    told = story("bf16", pair[0], "fp8", pair[1], None)
    assert "fixed by --kv-cache-memory-bytes" in told[0]
    assert told[1] == "Weights shrink from 15.53 to 8.79 GiB (\u221243 %), the KV cache stays at 10.00 GiB."
    assert not any("--gpu-memory-utilization of" in line or "fills" in line or "For less" in line for line in told)
