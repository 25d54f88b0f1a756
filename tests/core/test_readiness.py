"""Which hosts are refused, and with which words and numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from client.core.readiness import Gpu, HostFacts, Refusal, Wish, needed_gib, refusals

MODEL = "kulsoom-abdullah/qwen2-7b-nutrition-labels-detection"
H100 = Gpu(name="NVIDIA H100 80GB HBM3", total_gib=79.65, free_gib=79.1, capability="9.0")
ADA = Gpu(name="NVIDIA RTX 6000 Ada Generation", total_gib=47.99, free_gib=47.4, capability="8.9")
A100_40 = Gpu(name="NVIDIA A100-SXM4-40GB", total_gib=40.0, free_gib=39.5, capability="8.0")
L4 = Gpu(name="NVIDIA L4", total_gib=22.5, free_gib=22.2, capability="8.9")
GOOD = HostFacts(
    engine="27.3.1", compose="2.29.7", nvidia_runtime=True, gpus=(H100,), disk_free_gib=200.0, weights_gib=15.44,
    model_status=200, gated=False, token=False, uid=1000,
)  # fmt: skip


def wish(**changes: Any) -> Wish:
    return msgspec.structs.replace(Wish(model=MODEL), **changes)


def host(**changes: Any) -> HostFacts:
    return msgspec.structs.replace(GOOD, **changes)


def fatal(wanted: Wish, there: HostFacts) -> dict[str, Refusal]:
    return {refusal.code: refusal for refusal in refusals(wanted, there) if refusal.fatal}


def test_a_good_host_is_not_refused_and_nothing_is_noted() -> None:
    assert refusals(wish(), GOOD) == ()


def test_what_is_not_known_refuses_nothing() -> None:
    assert refusals(wish(), HostFacts()) == ()


@pytest.mark.parametrize(
    ("there", "code", "says"),
    [
        (host(engine=None, engine_why="connection refused"), "no_engine", "connection refused"),
        (host(engine="20.10.24"), "engine_too_old", "24.0"),
        (host(compose="2.17.3"), "compose_too_old", "2.20"),
        (host(nvidia_runtime=False), "no_nvidia_runtime", "nvidia-ctk runtime configure"),
        (host(gpus=()), "no_gpu", "docker-compose.sim.yml"),
        (host(gpus=None, gpus_why="nvidia-smi tells nothing of GPU 3"), "no_gpu", "GPU 3"),
        (host(taken_ports={8000: "the container old-bf16-1"}), "port_taken", "old-bf16-1"),
        (host(stale=("old-bf16-1",)), "stale_containers", "docker rm -f old-bf16-1"),
        (host(gated=True), "model_gated", "HF_TOKEN"),
        (host(model_status=401), "model_refused", "private, or does not exist"),
        (host(model_status=403, token=True), "model_refused", "refuses the token"),
        (host(model_status=404), "model_unknown", "MODEL_REVISION"),
        (host(disk_free_gib=12.0), "disk_too_small", "12.0 GiB free, and the weights take 15.4 GiB"),
        (host(results="Permission denied"), "results", "HOST_UID"),
        (host(uid=0), "root", "HOST_UID"),
        (host(gpus=(msgspec.structs.replace(H100, free_gib=40.0),)), "gpu_in_use", "71.7 GiB are asked for and 40.0 of 79.7"),
    ],
)  # fmt: skip
def test_each_fault_alone_is_refused_with_its_fix(there: HostFacts, code: str, says: str) -> None:
    found = fatal(wish(), there)
    assert list(found) == [code]
    assert says in f"{found[code].fact} {found[code].hint}"


def test_all_faults_are_told_at_once() -> None:
    there = host(nvidia_runtime=False, disk_free_gib=1.0, taken_ports={8001: "another program"})
    assert list(fatal(wish(), there)) == ["no_nvidia_runtime", "port_taken", "disk_too_small"]


@pytest.mark.parametrize(
    ("card", "pair", "alone"), [(H100, True, True), (ADA, True, True), (A100_40, False, True), (L4, False, True)]
)
def test_which_cards_hold_the_pair_and_which_one_server(card: Gpu, pair: bool, alone: bool) -> None:
    assert ("gpu_too_small" not in fatal(wish(), host(gpus=(card,)))) is pair
    assert ("gpu_too_small" not in fatal(wish(isolate=True, utilization=0.9), host(gpus=(card,)))) is alone


def test_a_card_for_one_server_only_is_told_with_numbers_and_the_way_out() -> None:
    refusal = fatal(wish(), host(gpus=(A100_40,)))["gpu_too_small"]
    assert "bf16 needs about 18.9 GiB (weights 15.4" in refusal.fact
    assert "0.45 of 40.0 GiB is 18.0 GiB" in refusal.fact
    assert "--isolate" in refusal.hint


def test_a_card_for_no_server_is_told_the_size_that_would_do() -> None:
    small = Gpu(name="NVIDIA T4", total_gib=15.0, capability="7.5")
    assert "Take a card of 42 GiB or more" in fatal(wish(), host(gpus=(small,)))["gpu_too_small"].hint
    assert (
        "Take a card of 21 GiB or more"
        in fatal(wish(isolate=True, utilization=0.9), host(gpus=(small,)))["gpu_too_small"].hint
    )


def test_what_one_server_needs() -> None:
    assert needed_gib(15.44, 4096) == pytest.approx(15.44 + 0.09 + 3.2 + 0.21875)


@pytest.mark.parametrize(
    ("utilization", "isolate", "refused"),
    [(0.45, False, False), (0.46, False, True), (0.9, True, False), (0.0, False, True), (1.2, True, True)],
)
def test_the_sum_of_both_shares(utilization: float, isolate: bool, refused: bool) -> None:
    codes = set(fatal(wish(utilization=utilization, isolate=isolate), GOOD))
    assert bool(codes & {"utilization", "utilization_sum"}) is refused


def test_a_gated_model_with_a_token_that_the_hub_takes_is_fine() -> None:
    assert fatal(wish(), host(gated=True, token=True)) == {}


def test_our_own_servers_do_not_stand_in_our_way() -> None:
    busy = msgspec.structs.replace(H100, free_gib=5.0)
    assert "gpu_in_use" in fatal(wish(), host(gpus=(busy,)))
    assert fatal(wish(), host(gpus=(busy,), serving=True)) == {}


def test_weights_that_are_here_need_neither_disk_nor_hub() -> None:
    assert fatal(wish(), host(weights_here=True, disk_free_gib=0.5, model_status=401, gated=True)) == {}


def test_cdi_needs_no_runtime_but_a_newer_engine() -> None:
    assert fatal(wish(cdi=True), host(nvidia_runtime=False)) == {}
    assert list(fatal(wish(cdi=True), host(nvidia_runtime=False, engine="24.0.7"))) == ["engine_too_old"]


@pytest.mark.parametrize(
    ("version", "name", "code"),
    [
        ("0.11.0", "fp8", None),
        ("0.11.0", "fp8_per_tensor", "fatal"),
        ("0.20.2", "fp8", None),
        ("0.20.2", "fp8_per_tensor", None),
        ("0.31.0", "fp8", "note"),
        ("0.31.0", "fp8_per_tensor", None),
        ("latest", "fp8", None),
    ],
)
def test_the_name_of_fp8_by_version(version: str, name: str, code: str | None) -> None:
    found = [
        refusal
        for refusal in refusals(wish(vllm_version=version, quantization=name), GOOD)
        if refusal.code == "quantization_name"
    ]
    assert [("fatal" if refusal.fatal else "note") for refusal in found] == ([] if code is None else [code])
    assert all("FP8_QUANTIZATION=" in refusal.hint for refusal in found)


@pytest.mark.parametrize(
    ("capability", "version", "expected"),
    [("7.0", "0.20.2", "fatal"), ("7.5", "0.11.0", "fatal"), ("7.5", "0.20.2", "note"), ("8.6", "0.20.2", "note"), ("8.9", "0.20.2", None), ("9.0", "0.11.0", None)],
)  # fmt: skip
def test_capability_decides_whether_fp8_is_arithmetic_or_storage(
    capability: str, version: str, expected: str | None
) -> None:
    card = msgspec.structs.replace(H100, capability=capability)
    found = [r for r in refusals(wish(vllm_version=version), host(gpus=(card,))) if r.code == "capability"]
    assert [("fatal" if r.fatal else "note") for r in found] == ([] if expected is None else [expected])
