"""Evidence -> what the other parts of core find in it: boxes, memory, kernel, energy, the GPU's state. Each where it can be measured."""

from __future__ import annotations

import re

import msgspec
import numpy as np

from client.core.answers import Answer, decide_frame
from client.core.block_noise import EnergyBlock
from client.core.estimate import GIB
from client.core.evidence import Evidence
from client.core.facts import TargetFacts, read_cache_config, read_log
from client.core.findings import Estimate, Gate, Kernel, Memory, Parity, Quality
from client.core.gates import GpuArm
from client.core.gpu import NO_SIDECAR, POWER_CAP, GpuSummary, by_target, gpu_gates, gpu_summary
from client.core.memory import memory_of
from client.core.model_config import ModelConfig, read_model_config
from client.core.parity_words import tokens_told
from client.core.parts import Measured
from client.core.plan import Design
from client.core.quality import parity, target_quality
from client.core.records import Outcome, Phase
from client.core.resources import energy, energy_blocks, energy_gate
from client.core.room import one_size, own_requests, prompt_tokens, request_tokens
from client.core.story import story
from client.core.tokens import token_agreement
from client.core.warmup import Steady, steady_of, steady_windows
from client.errors import UsageError

_PROCESS = re.compile(r"\((?:EngineCore|Worker)[^ ()]{0,20} pid=(\d{1,9})\)")
SPOKEN = (Outcome.OK, Outcome.EMPTY)
"""Outcomes that are the model's own: an answer, or a proper end without a token. All others say nothing about it."""
FIRST, AGAIN, LOADED = PASSES = ("one at a time", "one at a time, again", "at the load")
"""The passes of Phase.QUALITY, by block number (client.campaign.quality_passes)."""


def measured_in(evidence: Evidence) -> Measured:
    """Everything beside the request metrics, by target name. What cannot be measured is absent, with its reason where one is known."""
    names = [target.name for target in evidence.plan.targets]
    gpus = {
        name: gpu_summary(
            name,
            by_target(evidence.gpu, name),
            evidence.windows,
            container=None if (server := evidence.servers.get(name)) is None else server.container,
            pids=_pids(evidence, name),
        )
        for name in names
    }
    told = {name: _memory(evidence, name, gpus[name]) for name in names}
    quality, pairs = _quality(evidence, names)
    steady = steady_of(evidence)
    spent = {name: _energy(evidence, name, steady) for name in names}
    energies = {name: found for name, (found, _) in spent.items()}
    return Measured(
        quality=quality,
        parity=pairs,
        memory={name: memory for name, (memory, _) in told.items()},
        kernel={name: kernel for name, (_, kernel) in told.items()},
        memory_story={
            name: story(
                names[0],
                _of_one_server(evidence, names[0], told[names[0]][0]),
                name,
                _of_one_server(evidence, name, told[name][0]),
                _gpu_name(evidence, name),
            )
            for name in names[1:]
        },
        energy=energies,
        energy_blocks={name: blocks for name, (_, blocks) in spent.items()},
        image_tokens={name: tokens for name in names if (tokens := prompt_tokens(evidence, name)) is not None},
        gates=_gpu_gates(evidence, gpus, energies),
        gpu={name: _arm(summary, _strangers(evidence, name)) for name, summary in gpus.items() if summary.why is None},
        gpu_missing={
            name: why for name, summary in gpus.items() if (why := summary.why) not in (None, NO_SIDECAR) and why
        },
    )


# ---------------------------------------------------------------- boxes


def _quality(evidence: Evidence, names: list[str]) -> tuple[dict[str, Quality], dict[str, Parity]]:
    """Without true boxes nobody can say whether an answer is right, only how alike two targets answer in the passes that ask for it."""
    answers = {name: answers_of(evidence, name) for name in names}
    judged = any(answer.truth is not None for given in answers.values() for answer in given)
    if not judged and not evidence.plan.quality:
        return {}, {}
    plan = evidence.plan
    every = [answer for given in answers.values() for answer in given]
    decision = decide_frame(every, plan.workload.box_frame)
    quality = {}
    for name, given in answers.items() if judged else ():
        found = target_quality(asked_once(given), decision.frame, confidence=plan.confidence, seed=plan.seed)
        quality[name] = msgspec.structs.replace(found, frame_note=decision.note)
    pairs = {
        name: parity(
            asked_once(answers[names[0]]),
            asked_once(answers[name]),
            decision.frame,
            margin=plan.iou_margin,
            noise=_asked_twice(answers[names[0]], AGAIN),
            noise_load=_asked_twice(answers[names[0]], LOADED),
            confidence=plan.confidence,
            seed=plan.seed,
        )
        for name in names[1:]
    }
    if evidence.tokens:
        pairs = {name: _with_tokens(found, evidence, names[0], name) for name, found in pairs.items()}
    return quality, pairs


def asked_once(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.pass_ != AGAIN]


def _with_tokens(found: Parity, evidence: Evidence, baseline: str, candidate: str) -> Parity:
    """Token-level evidence, where both servers gave it, beside the same figures of the baseline asked twice."""
    plan = evidence.plan
    by_target = {
        name: [(answer.number, answer.image_id, answer.tokens) for answer in evidence.tokens if answer.target == name]
        for name in (baseline, candidate)
    }
    once = {
        name: {(number, image): steps for number, image, steps in given if number != PASSES.index(AGAIN)}
        for name, given in by_target.items()
    }
    again = {image: steps for number, image, steps in by_target[baseline] if number == PASSES.index(AGAIN)}
    pairs = [(key[1], steps, once[candidate][key]) for key, steps in once[baseline].items() if key in once[candidate]]
    twice = [
        (image, steps, again[image])
        for (number, image), steps in once[baseline].items()
        if number == 0 and image in again
    ]
    between = token_agreement(pairs, confidence=plan.confidence, seed=plan.seed)
    own = token_agreement(twice, confidence=plan.confidence, seed=plan.seed)
    told = msgspec.structs.replace(
        found,
        top1_agreement=between.top1,
        mean_kl_nats=between.kl_nats,
        token_positions=between.positions,
        top1_agreement_noise=own.top1,
        mean_kl_nats_noise=own.kl_nats,
    )
    note = tokens_told(told)
    return msgspec.structs.replace(told, notes=(*told.notes, note)) if note else told


def _asked_twice(answers: list[Answer], second: str) -> tuple[list[Answer], list[Answer]] | None:
    """The baseline's first answers and those of its pass `second`, to the same pictures: what one server differs from itself."""
    again = [msgspec.structs.replace(answer, pass_=FIRST) for answer in answers if answer.pass_ == second]
    first = [answer for answer in answers if answer.pass_ == FIRST]
    return (first, again) if again and first else None


def answers_of(evidence: Evidence, name: str) -> list[Answer]:
    """One answer a measured request, the failed ones too, marked as such: the pictures that are left out have to be told."""
    table = evidence.records
    phase = Phase.QUALITY if len(table.where(name, Phase.QUALITY)) else Phase.MEASURE
    found = []
    for row in table.where(name, phase).tolist():
        outcome = table.outcome_of(row)
        if outcome in (Outcome.CANCELLED, Outcome.LOST):
            continue
        image_id = table.image_of(row)
        fact = evidence.images.get(image_id)
        if fact is None:
            continue
        complete = outcome is Outcome.OK and table.finish_reasons.get(row, "stop") != "length"
        number = int(table["block"][row])
        pass_ = PASSES[number] if phase is Phase.QUALITY and 0 <= number < len(PASSES) else "measure"
        failed = outcome not in SPOKEN
        text = table.texts.get(row)
        found.append(Answer(image_id, text, fact.boxes, fact.width, fact.height, pass_, complete, failed))
    return found


# ---------------------------------------------------------------- memory


def _memory(evidence: Evidence, name: str, gpu: GpuSummary) -> tuple[Memory, Kernel]:
    server = evidence.servers.get(name)
    facts = read_log(server.log_text) if server is not None and server.log_text is not None else TargetFacts()
    page = None if server is None or server.before is None else server.before.text
    memory, kernel = memory_of(
        facts,
        cache_config=None if page is None else read_cache_config(page),
        config=_config(server.model_config if server is not None else None),
        gpu_total_bytes=gpu.usable_bytes,
        nvml_idle_bytes=gpu.idle_v2_bytes,
        nvml_peak_bytes=gpu.peak_v2_bytes,
        process_bytes=gpu.process_bytes,
        mean_request_tokens=one_size(evidence),
        capability=by_target(evidence.gpu, name).info.get("compute_capability"),
        total_source="nvml v2: total - reserved" if gpu.reserved_bytes else "nvml v1: total, its reserve not known",
        units=max(1, gpu.units),
    )
    notes = own_requests(memory, request_tokens(evidence, name)) + _neighbours(evidence, name) + _processes(gpu)
    return _shared(msgspec.structs.replace(memory, notes=memory.notes + notes), evidence, name), kernel


def _beside(evidence: Evidence, name: str) -> list[str]:
    """Targets whose servers were alive on this target's GPU while it was measured."""
    own = by_target(evidence.gpu, name)
    if own.why is not None or own.target is not None or evidence.plan.design is not Design.INTERLEAVED:
        return []
    names = [target.name for target in evidence.plan.targets]
    return [other for other in names if other != name and by_target(evidence.gpu, other) is own]


def _neighbours(evidence: Evidence, name: str) -> tuple[str, ...]:
    others = _beside(evidence, name)
    if not others:
        return ()
    return (
        f"{' and '.join(others)} may have been alive on the same GPU: its whole-GPU figures and its energy count every server on it.",
    )


def _processes(gpu: GpuSummary) -> tuple[str, ...]:
    if len(gpu.processes) < 2:
        return ()
    told = (
        f"{label} {'unknown' if size is None else f'{size / GIB:.2f} GiB'}" for label, size in gpu.processes.items()
    )
    return (f"Processes on the GPU, each at its peak: {', '.join(told)}.",)


def _of_one_server(evidence: Evidence, name: str, memory: Memory) -> Memory:
    """For the explanation: whole-GPU figures that count two servers would contradict a budget of one."""
    if not _beside(evidence, name):
        return memory
    return msgspec.structs.replace(memory, whole_gpu_idle_gib=None, whole_gpu_peak_gib=None)


def _shared(memory: Memory, evidence: Evidence, name: str) -> Memory:
    """Marks whole-GPU figures that are of several servers at once: they say nothing of this one."""
    fields = [
        field
        for field in ("whole_gpu_idle_gib", "whole_gpu_peak_gib")
        if memory.source.get(field, "").startswith("nvml v2, whole GPU")
    ]
    others = _beside(evidence, name)
    if not others or not fields:
        return memory
    source = dict.fromkeys(fields, f"nvml v2, whole GPU, shared by {len(others) + 1} servers")
    return msgspec.structs.replace(memory, source=memory.source | source)


def _pids(evidence: Evidence, name: str) -> set[int]:
    """Processes that the server's log names as its own. In a container they are other numbers than NVML's, and match nothing."""
    server = evidence.servers.get(name)
    text = "" if server is None or server.log_text is None else server.log_text
    return {int(pid) for pid in _PROCESS.findall(text)}


def _config(text: str | None) -> ModelConfig | None:
    if text is None:
        return None
    try:
        return read_model_config(text)
    except UsageError:
        return None


def _gpu_name(evidence: Evidence, name: str) -> str | None:
    return by_target(evidence.gpu, name).info.get("name")


# ---------------------------------------------------------------- energy and the state of the GPU


def _energy(evidence: Evidence, name: str, steady: Steady) -> tuple[dict[str, Estimate], tuple[EnergyBlock, ...]]:
    """Of the level that carries the verdict, a sweep's other levels are another load; without what belongs to the warm-up."""
    gpu = by_target(evidence.gpu, name)
    measured = [w for w in evidence.windows if w.target == name and w.phase is Phase.MEASURE]
    level = min((w.level for w in measured), default=0)
    windows = sorted((w for w in measured if w.level == level), key=lambda w: w.start_ns)
    if steady.left_out[name]:
        windows = steady_windows(windows, steady, name, gpu.samples)
    if gpu.why is not None or not windows:
        return {}, ()
    done = evidence.records["done_ns"]
    # Edge requests ran inside the window as well and cost their share of its energy.
    ok = np.concatenate([evidence.records.where(name, phase, Outcome.OK) for phase in (Phase.MEASURE, Phase.EDGE)])
    by_window = [int(((done[ok] >= w.start_ns) & (done[ok] <= w.end_ns)).sum()) for w in windows]
    confidence = evidence.plan.confidence
    found = energy(name, gpu, windows, sum(by_window), ok_by_window=by_window, confidence=confidence)
    return found, energy_blocks(name, gpu, windows, by_window)


def _gpu_gates(
    evidence: Evidence, gpus: dict[str, GpuSummary], energies: dict[str, dict[str, Estimate]]
) -> tuple[Gate, ...]:
    """What only the samples can tell. Clocks and slowdowns are judged with the other gates (client.core.server_gates)."""
    sharing = sum(by_target(evidence.gpu, name).target is None for name in gpus)
    alive = sharing if evidence.plan.design is Design.INTERLEAVED and sharing else 1
    summaries = [summary for summary in gpus.values() if summary.why is None]
    found = gpu_gates(summaries, simulated=evidence.plan.simulated, servers_alive=alive)
    told = [gate for gate in found if gate.code in ("gpu_lost", "gpu_several", "gpu_shared", "gpu_replayed")]
    told += [gate for name, item in energies.items() if item and (gate := energy_gate(name, item)) is not None]
    return tuple(told)


def _strangers(evidence: Evidence, name: str) -> tuple[str, ...]:
    """Processes that used this target's GPU while it was measured and belong to no target.

    Empty too where nobody can say: a process is only strange where those of the servers on this GPU can be told (by container, or by host
    PID). Their mere number is looked at by `client.core.gpu.gpu_gates`.
    """
    gpu = by_target(evidence.gpu, name)
    sharing = [target.name for target in evidence.plan.targets if by_target(evidence.gpu, target.name) is gpu]
    windows = [w for w in evidence.windows if w.target == name and w.phase is Phase.MEASURE]
    seen = {
        (p.pid, p.container, p.name)
        for sample in gpu.samples
        if any(w.start_ns <= sample.mono_ns <= w.end_ns for w in windows)
        for p in sample.processes or ()
    }
    owned = {owner: {who for who in seen if _belongs(evidence, owner, *who[:2])} for owner in sharing}
    if not owned.get(name):
        return ()
    known = set().union(*owned.values())
    others = sorted(seen - known, key=lambda who: who[0])
    if any(not owned[owner] for owner in sharing) and len(others) <= len(sharing) - 1:
        return ()  # they may well be the other servers of this run
    return tuple(" ".join(filter(None, (title or "a process", f"(pid {pid})"))) for pid, _, title in others)


def _belongs(evidence: Evidence, name: str, pid: int, container: str | None) -> bool:
    server = evidence.servers.get(name)
    own = None if server is None else server.container
    return pid in _pids(evidence, name) or (own is not None and container is not None and own.startswith(container))


def _arm(gpu: GpuSummary, strangers: tuple[str, ...]) -> GpuArm:
    return GpuArm(
        strangers=strangers,
        sm_mhz=gpu.sm_mhz_median,
        slowed_share=gpu.slowed_share,
        power_capped_share=None if gpu.slowed_share is None else gpu.reasons.get(POWER_CAP, 0.0),
    )
