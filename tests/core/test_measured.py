"""What is found beside the request metrics: a live pair on one GPU, and a host with more GPUs than the server uses."""

from __future__ import annotations

import math
from pathlib import Path

import made
import msgspec
import pytest

from client.core.analysis import analyse
from client.core.evidence import Evidence, GpuEvidence
from client.core.findings import Word
from client.core.measured import measured_in
from client.core.plan import Design
from client.core.records import GpuProcess, GpuSample, ImageFact, Phase, PhaseWindow, TokenAnswer, TokenStep

LOGS = Path(__file__).parent.parent / "golden" / "logs"
GIB = 1024**3
S = 1_000_000_000


def seen(*, gpus: int = 1, both: bool = True, design: Design = Design.INTERLEAVED) -> Evidence:
    """The recorded servers; the first GPU holds 72 GiB, any other nothing."""
    pair = [GpuProcess(pid=7, used_bytes=36 * GIB, container="a" * 12), GpuProcess(pid=8, used_bytes=36 * GIB)]
    samples = tuple(
        GpuSample(
            mono_ns=t * S // 10,
            wall_ns=t * S // 10,
            gpu=gpu,
            used_v2=0 if gpu else 72 * GIB,
            reserved=GIB // 2,
            total=80 * GIB,
            processes=tuple(pair) if gpu == 0 and both else None,
        )
        for t in range(200)
        for gpu in range(gpus)
    )
    windows = tuple(
        PhaseWindow(target=name, phase=Phase.MEASURE, start_ns=start * S, end_ns=(start + 5) * S)
        for name, start in (("bf16", 5), ("fp8", 12))
    )
    servers = {
        name: msgspec.structs.replace(
            made.server(name), log_text=(LOGS / f"vllm-0.20.2-h100-{name}.log").read_text(), before=None
        )
        for name in ("bf16", "fp8")
    }
    gpu = (GpuEvidence(samples=samples, shared_by=("bf16", "fp8")),)
    return made.evidence(made.campaign(), gpu=gpu, windows=windows, servers=servers, plan=made.plan(design=design))


def test_whole_gpu_figures_of_a_live_pair_count_both_and_do_not_explain_one_budget() -> None:
    found = measured_in(seen())
    notes = " ".join(found.memory["bf16"].notes)
    assert "fp8 may have been alive on the same GPU" in notes
    assert f"7 ({'a' * 12}) 36.00 GiB, 8 36.00 GiB" in notes
    assert found.memory["bf16"].whole_gpu_peak_gib == 72.0
    assert "72" not in found.memory_story["fp8"][0]


def test_one_server_at_a_time_has_the_gpu_to_itself() -> None:
    found = measured_in(seen(both=False, design=Design.SERIAL))
    assert "alive on the same GPU" not in " ".join(found.memory["bf16"].notes)
    assert "(whole GPU at peak: 72.00 and 72.00 GiB)" in found.memory_story["fp8"][0]


def test_eight_watched_gpus_do_not_make_the_budget_of_one_server_eightfold() -> None:
    found = measured_in(seen(gpus=8))
    memory = found.memory["bf16"]
    assert memory.total_gib == 79.5
    assert memory.budget_gib is not None
    assert abs(memory.budget_gib - 0.45 * 79.5) < 1e-3
    assert memory.source["whole_gpu_peak_gib"] == "nvml v2, 8 GPUs together"
    assert [gate.code for gate in found.gates].count("gpu_several") == 2


# ---------------------------------------------------------------- tokens

TABLE = (0.1, 0.2, 0.5, 0.6)


def asked(boxes: tuple[tuple[float, ...], ...] | None = (TABLE,)) -> Evidence:
    """12 pictures in three quality passes. The candidate likes another token best at the third of four positions, for every picture."""
    records, tokens = [], []
    for target in ("bf16", "fp8"):
        for number in range(3):
            for index in range(12):
                records.append(
                    made.record(
                        target, number * 12 + index, 0, phase=Phase.QUALITY, block=number,
                        image_id=f"p{index}", text="[0.1, 0.2, 0.5, 0.6]",
                    )
                )  # fmt: skip
                steps = [TokenStep(t, {t: math.log(0.9), "z": math.log(0.1)}) for t in "abcd"]
                if target == "fp8":
                    steps[2] = TokenStep("z", {"c": math.log(0.2), "z": math.log(0.8)})
                tokens.append(TokenAnswer(target=target, number=number, image_id=f"p{index}", tokens=tuple(steps)))
    images = {
        f"p{index}": ImageFact(image_id=f"p{index}", width=64, height=64, sent_bytes=1, sha256="", boxes=boxes)
        for index in range(12)
    }
    return made.evidence(records, images=images, tokens=tuple(tokens), plan=made.plan(quality=12, logprobs=5))


def test_tokens_of_two_targets_are_compared_as_far_as_their_texts_agree() -> None:
    found = measured_in(asked()).parity["fp8"]
    # Passes 1 and 3 of 12 pictures, three positions each: behind the third they say different things.
    assert found.token_positions == 2 * 12 * 3
    assert found.top1_agreement.value == pytest.approx(2 / 3)
    apart = 0.9 * math.log(0.9 / 0.2) + 0.1 * math.log(0.1 / 0.8)
    assert found.mean_kl_nats.value == pytest.approx(apart / 3)
    assert found.top1_agreement_noise.value == 1.0
    assert found.mean_kl_nats_noise.value == 0.0
    assert any("66.7 % of 72 positions" in note for note in found.notes)


def test_pictures_without_known_boxes_still_tell_how_alike_the_answers_are() -> None:
    found = measured_in(asked(None))
    assert found.quality == {}
    parity = found.parity["fp8"]
    assert parity.word is Word.NOT_MEASURED
    assert parity.same_text.value == 1.0
    assert parity.top1_agreement.value == pytest.approx(2 / 3)


OWNED = {"bf16": "a" * 64, "fp8": "b" * 64}


def on_the_gpu(*processes: GpuProcess, containers: dict[str, str] = OWNED) -> Evidence:
    """A live pair on one GPU, with these processes on it throughout."""
    evidence = seen(both=False)
    samples = tuple(msgspec.structs.replace(s, processes=processes) for s in evidence.gpu[0].samples)
    servers = {n: msgspec.structs.replace(s, container=containers.get(n)) for n, s in evidence.servers.items()}
    return msgspec.structs.replace(
        evidence, gpu=(msgspec.structs.replace(evidence.gpu[0], samples=samples),), servers=servers
    )


PAIR = (GpuProcess(pid=71, used_bytes=GIB, container="a" * 12), GpuProcess(pid=82, used_bytes=GIB, container="b" * 12))
STRANGER = GpuProcess(pid=99, used_bytes=GIB, name="python train.py")


def test_a_stranger_on_the_gpu_makes_the_run_invalid() -> None:
    """The gate was there, and nothing ever told it of a process."""
    evidence = on_the_gpu(*PAIR, STRANGER)
    findings = analyse(evidence, measured_in(evidence))
    gate = next(gate for gate in findings.gates if gate.code == "other_process")
    assert "python train.py (pid 99)" in gate.fact
    assert not findings.valid


@pytest.mark.parametrize(
    ("processes", "containers"),
    [
        (PAIR, OWNED),
        ((*PAIR[:1], STRANGER), {"bf16": OWNED["bf16"]}),  # fp8 may be that process: nobody can tell
        ((STRANGER, GpuProcess(pid=98), GpuProcess(pid=97)), {}),  # no process is told from another
        ((), OWNED),
    ],
)
def test_who_cannot_be_told_is_no_stranger(processes: tuple[GpuProcess, ...], containers: dict[str, str]) -> None:
    found = measured_in(on_the_gpu(*processes, containers=containers)).gpu
    assert [arm.strangers for arm in found.values()] == [(), ()]
