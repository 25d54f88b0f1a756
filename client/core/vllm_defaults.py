"""What vLLM does when nobody says otherwise, by version. Read in the sources of 0.6.3 to 0.33.0: engine/arg_utils.py, config/cache.py, envs.py."""

from __future__ import annotations

from typing import NamedTuple

from client.core.facts import TargetFacts
from client.core.kernel import Version, capability_of, version_of

NEW_UTILIZATION, OLD_UTILIZATION = 0.92, 0.9
_UTILIZATION_ROSE = (0, 20)
_GRAPHS_COUNTED = (0, 20)
"""VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS: False in 0.19.1, True in 0.20.0."""

LARGE_GPU_GIB = 70.0
FEW, MANY, FEW_ON_CPU = 256, 1024, 128
_BY_SIZE_OF_GPU = (0, 8)
_ENGINE_V1_ALONE = (0, 11)
_CPU_SETTLED = (0, 12)
_STEP_OF_SMALL, _STEPS_OF_LARGE = 2048, (8192, 16_384)
"""--max-num-batched-tokens by default: the same choice of small and large GPU as --max-num-seqs, and the log tells it."""

_A100, _DGX_SPARK = (8, 0), (12, 1)


class Cap(NamedTuple):
    """Most requests that the server runs at once, and how we know."""

    requests: int
    source: str


def default_utilization(version: Version | None) -> float:
    """--gpu-memory-utilization: 0.9 to 0.19, 0.92 from 0.20 on. An unknown version is taken as new."""
    return OLD_UTILIZATION if version is not None and version < _UTILIZATION_ROSE else NEW_UTILIZATION


def graphs_counted(facts: TargetFacts) -> bool:
    """Whether an estimate of the CUDA graphs is taken from the budget: as the log says, else as the version does by default."""
    if facts.graphs_in_budget is not None:
        return facts.graphs_in_budget
    version = version_of(facts.version)
    return version is not None and version >= _GRAPHS_COUNTED


def graphs_outside(facts: TargetFacts) -> bool:
    """Whether it is certain that none is taken: said so, or an older version and not said otherwise."""
    known = facts.graphs_in_budget is not None or version_of(facts.version) is not None
    return known and not graphs_counted(facts)


def max_num_seqs(facts: TargetFacts, total_gib: float | None = None, capability: str | None = None) -> Cap | None:
    """--max-num-seqs as given, else its default where that is certain. None: the log does not show what was asked for, or it cannot be told.

    The default is 1,024 on GPUs of 70 GiB or more, 256 on smaller ones and on the A100 (before 0.8: 256 everywhere).
    """
    args = facts.engine_args
    if (given := _count(args.get("max_num_seqs"))) is not None:
        return Cap(given, "log")
    version = version_of(facts.version)
    if version is None or "engine_args" not in facts.lines or args.get("performance_mode") not in (None, "balanced"):
        return None
    found = _on_cpu(version, facts) if facts.device == "cpu" else _on_gpu(version, facts, total_gib, capability)
    step = _count(args.get("max_num_batched_tokens"))
    if found is None or step is None or version < _ENGINE_V1_ALONE:
        return found
    return Cap(min(found.requests, step), found.source)


def usual_max_num_seqs(total_gib: float) -> int:
    """The default of new versions on a GPU of which only the size is known; an A100 of 80 GB has 256 all the same."""
    return MANY if total_gib >= LARGE_GPU_GIB else FEW


def _on_cpu(version: Version, facts: TargetFacts) -> Cap | None:
    ranks = (facts.tensor_parallel or 1) * (_count(facts.engine_args.get("pipeline_parallel_size")) or 1)
    return Cap(FEW_ON_CPU * ranks, f"default of vLLM {facts.version} on a CPU") if version >= _CPU_SETTLED else None


def _on_gpu(version: Version, facts: TargetFacts, total_gib: float | None, capability: str | None) -> Cap | None:
    default = f"default of vLLM {facts.version}"
    if version < _BY_SIZE_OF_GPU:
        return Cap(FEW, default)
    if _count(facts.engine_args.get("max_num_batched_tokens")) is None and facts.batched_tokens is not None:
        if facts.batched_tokens in _STEPS_OF_LARGE:
            return Cap(MANY, f"{default} on a large GPU")
        if facts.batched_tokens == _STEP_OF_SMALL:
            return Cap(FEW, f"{default} on a GPU under {LARGE_GPU_GIB:g} GiB or an A100")
        return None
    if total_gib is not None and total_gib < LARGE_GPU_GIB:
        return Cap(FEW, f"{default} on a GPU under {LARGE_GPU_GIB:g} GiB")
    number = capability_of(capability)
    if total_gib is None or number in (None, _DGX_SPARK) or version < _ENGINE_V1_ALONE:
        return None
    return Cap(FEW, f"{default} on an A100") if number == _A100 else Cap(MANY, f"{default} on a large GPU")


def _count(given: object) -> int | None:
    return given if isinstance(given, int) and not isinstance(given, bool) and given > 0 else None
