"""What of a host makes a comparison impossible, told before minutes are lost. Pure: facts in, refusals out; a fact that is None refuses nothing.

Memory that one server needs: weights + what vLLM loads beside them + OVERHEAD_GIB (activations, CUDA graphs, context) + the KV cache of one request.
vLLM takes `utilization × total`, and refuses by itself, after loading, when that does not hold it (docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from client.core.estimate import LOADED_EXTRA_GIB, OVERHEAD_GIB
from client.core.kernel import capability_of, fp8_name, version_of

OLDEST_ENGINE = (24, 0)
OLDEST_ENGINE_FOR_CDI = (25, 0)
OLDEST_COMPOSE = (2, 20)
MOST_UTILIZATION = 0.45
"""For each server of a live pair: the rest holds two CUDA contexts and what the driver keeps (74,277 of 81,559 MiB were in use with 0.45 twice on an H100)."""
ALONE_UTILIZATION = 0.90
KV_BYTES_PER_TOKEN = 57_344
"""Qwen2-VL-7B in bf16 (facts of its config.json). Only one request's worth is counted here, so another model's figure changes little."""
SPARE_DISK_GIB = 2.0
KNOWN_WEIGHTS_GIB = {"kulsoom-abdullah/qwen2-7b-nutrition-labels-detection": 15.44}
PER_TENSOR = (0, 20)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be started."""

    model: str
    vllm_version: str = "0.20.2"
    quantization: str = "fp8"
    utilization: float = MOST_UTILIZATION
    max_model_len: int = 4096
    isolate: bool = False
    cdi: bool = False


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    total_gib: float | None = None
    free_gib: float | None = None
    capability: str | None = None


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """None: not known from where it was asked."""

    engine: str | None = None
    """Version of the Docker Engine."""
    engine_why: str | None = None
    """Why no engine answers, where one is needed."""
    compose: str | None = None
    nvidia_runtime: bool | None = None
    cdi: bool | None = None
    """Whether the engine looks for CDI devices."""
    driver: str | None = None
    serving: bool = False
    """Our own servers are up: the memory and the ports in use are theirs."""
    gpus: tuple[Gpu, ...] | None = None
    gpus_why: str | None = None
    taken_ports: dict[int, str] = {}
    """Port -> who listens there, for ports that the servers need."""
    stale: tuple[str, ...] = ()
    """Running containers of other projects that hold a GPU."""
    disk_free_gib: float | None = None
    disk_place: str = "the Docker data folder"
    weights_gib: float | None = None
    weights_here: bool = False
    model_status: int | None = None
    """HTTP status of the hub for this model with this token."""
    gated: bool | None = None
    token: bool = False
    results: str | None = None
    """Why the results folder cannot be written; None when it can, or is not known."""
    uid: int | None = None


class Refusal(msgspec.Struct, frozen=True):
    """`fatal` False: worth knowing, refuses nothing."""

    code: str
    fact: str
    hint: str
    fatal: bool = True


def refusals(wish: Wish, host: HostFacts) -> tuple[Refusal, ...]:
    """All of them, so that one visit mends everything."""
    checks = (_engine, _runtime, _version, _utilization, _memory, _ports, _stale, _model, _disk, _results)
    return tuple(refusal for check in checks for refusal in check(wish, host))


def needed_gib(weights_gib: float, max_model_len: int) -> float:
    return weights_gib + LOADED_EXTRA_GIB["bf16"] + OVERHEAD_GIB + max_model_len * KV_BYTES_PER_TOKEN / 2**30


def _engine(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    if host.engine_why is not None:
        yield Refusal(
            "no_engine",
            f"No Docker Engine answers: {host.engine_why}.",
            "Install and start it: https://docs.docker.com/engine/install/",
        )
    oldest = OLDEST_ENGINE_FOR_CDI if wish.cdi else OLDEST_ENGINE
    if (found := version_of(host.engine)) is not None and found < oldest:
        why = " for CDI devices" if wish.cdi else ""
        yield Refusal(
            "engine_too_old",
            f"Docker Engine {host.engine} is too old{why}.",
            f"Install {oldest[0]}.{oldest[1]} or newer.",
        )
    oldest = OLDEST_COMPOSE
    if (found := version_of(host.compose)) is not None and found < oldest:
        yield Refusal(
            "compose_too_old",
            f"Docker Compose {host.compose} is too old for these files.",
            f"Install {oldest[0]}.{oldest[1]} or newer.",
        )


def _runtime(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    if host.gpus_why is not None:
        yield Refusal(
            "no_gpu",
            f"No GPU can be read: {host.gpus_why}.",
            "Install the NVIDIA driver, and see that nvidia-smi lists the card; or try docker-compose.sim.yml, which needs none.",
        )
    elif host.gpus == ():
        yield Refusal(
            "no_gpu",
            "This host has no NVIDIA GPU.",
            "Use docker-compose.sim.yml (simulated servers) or docker-compose.cpu.yml (a small model on the CPU).",
        )
    if host.nvidia_runtime is False and not wish.cdi:
        yield Refusal(
            "no_nvidia_runtime",
            "The Docker Engine has no NVIDIA runtime.",
            "sudo apt-get install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
        )


def _version(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    number = version_of(wish.vllm_version)
    if number is None:
        return
    right = fp8_name(wish.vllm_version, "cuda")
    if number < PER_TENSOR and wish.quantization != "fp8":
        yield Refusal(
            "quantization_name",
            f"vLLM {wish.vllm_version} does not know --quantization {wish.quantization}.",
            f"Set FP8_QUANTIZATION={right}.",
        )
    elif number >= (0, 31) and wish.quantization == "fp8":
        yield Refusal(
            "quantization_name",
            f"vLLM {wish.vllm_version} calls --quantization fp8 deprecated, and takes it as {right}.",
            f"Set FP8_QUANTIZATION={right}.",
            fatal=False,
        )
    for gpu in host.gpus or ():
        capability = capability_of(gpu.capability)
        if capability is None:
            continue
        least = (8, 0) if number < PER_TENSOR else (7, 5)
        if capability < least:
            yield Refusal(
                "capability",
                f"{gpu.name} (compute capability {gpu.capability}) serves no online FP8 with vLLM {wish.vllm_version}.",
                f"Take a card of {least[0]}.{least[1]} or newer.",
            )
        elif capability < (8, 9):
            yield Refusal(
                "capability",
                f"{gpu.name} (compute capability {gpu.capability}) has no FP8 arithmetic: vLLM keeps FP8 weights and computes in 16 bits (Marlin).",
                "Expect less weight memory, and no faster prefill.",
                fatal=False,
            )


def _utilization(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    if not 0 < wish.utilization <= 1:
        yield Refusal(
            "utilization",
            f"GPU_MEMORY_UTILIZATION={wish.utilization:g} is no share of a card.",
            f"Set it from 0.1 to {MOST_UTILIZATION:g}.",
        )
    elif not wish.isolate and wish.utilization > MOST_UTILIZATION:
        yield Refusal(
            "utilization_sum",
            f"GPU_MEMORY_UTILIZATION={wish.utilization:g} twice is {2 * wish.utilization:.0%} of the card: there is no room for two CUDA contexts beside it.",
            f"Set it to {MOST_UTILIZATION:g} or less, or measure one server at a time (docker-compose.isolate.yml).",
        )


def _memory(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    weights = host.weights_gib if host.weights_gib is not None else KNOWN_WEIGHTS_GIB.get(wish.model)
    for gpu in host.gpus or ():
        if gpu.total_gib is None:
            continue
        budget = wish.utilization * gpu.total_gib
        if (
            weights is not None
            and 0 < wish.utilization <= 1
            and (need := needed_gib(weights, wish.max_model_len)) > budget
        ):
            yield _too_small(wish, gpu, weights, need, budget)
            continue
        wanted = budget * (1 if wish.isolate else 2)
        if not host.serving and gpu.free_gib is not None and wanted > gpu.free_gib:
            yield Refusal(
                "gpu_in_use",
                f"{gpu.name}: {wanted:.1f} GiB are asked for and {gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB are free.",
                "End what else runs on it (nvidia-smi lists it), or choose another card with GPU=1.",
            )


def _too_small(wish: Wish, gpu: Gpu, weights: float, need: float, budget: float) -> Refusal:
    fact = (
        f"{gpu.name} is too small for {'one server' if wish.isolate else 'the pair'}: bf16 needs about {need:.1f} GiB (weights {weights:.1f}, the rest "
        f"activations, graphs and one request), and {wish.utilization:g} of {gpu.total_gib or 0:.1f} GiB is {budget:.1f} GiB."
    )
    if not wish.isolate and need <= ALONE_UTILIZATION * (gpu.total_gib or 0):
        return Refusal(
            "gpu_too_small",
            fact,
            f"One server at a time fits: scripts/up --isolate (or docker-compose.isolate.yml with GPU_MEMORY_UTILIZATION={ALONE_UTILIZATION:.2f}).",
        )
    least = need / (ALONE_UTILIZATION if wish.isolate else MOST_UTILIZATION)
    return Refusal("gpu_too_small", fact, f"Take a card of {least:.0f} GiB or more, or a smaller model.")


def _ports(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    for port, who in sorted(host.taken_ports.items()):
        yield Refusal(
            "port_taken",
            f"Port {port} of 127.0.0.1 is taken by {who}.",
            "End it, or move ours with BF16_PORT, FP8_PORT or SIDECAR_PORT.",
        )


def _stale(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    if host.stale:
        yield Refusal(
            "stale_containers",
            f"Containers of another project hold a GPU: {', '.join(host.stale)}.",
            f"Take them down: docker rm -f {' '.join(host.stale)}",
        )


def _model(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    if host.weights_here:
        return
    page = f"https://huggingface.co/{wish.model}"
    if host.gated and not host.token:
        yield Refusal(
            "model_gated",
            f"The model {wish.model} is gated, and HF_TOKEN is empty.",
            f"Accept its terms at {page}, and put a token into .env (HF_TOKEN=…).",
        )
    elif host.model_status in (401, 403):
        said = (
            "refuses the token in HF_TOKEN"
            if host.token
            else "shows it to nobody without a token (it is private, or does not exist)"
        )
        yield Refusal(
            "model_refused",
            f"The model {wish.model}: the hub {said}.",
            f"Check the name and your access at {page}, and HF_TOKEN in .env.",
        )
    elif host.model_status == 404:
        yield Refusal("model_unknown", f"The hub has no model {wish.model}.", "Check MODEL and MODEL_REVISION in .env.")


def _disk(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    weights = host.weights_gib if host.weights_gib is not None else KNOWN_WEIGHTS_GIB.get(wish.model)
    if host.weights_here or weights is None or host.disk_free_gib is None:
        return
    if host.disk_free_gib < weights + SPARE_DISK_GIB:
        yield Refusal(
            "disk_too_small",
            f"{host.disk_place} has {host.disk_free_gib:.1f} GiB free, and the weights take {weights:.1f} GiB.",
            "Free some space (docker system df shows what Docker holds), or move Docker's data-root.",
        )


def _results(wish: Wish, host: HostFacts) -> Iterator[Refusal]:
    if host.uid == 0:
        yield Refusal(
            "root",
            "The client would run as root.",
            "Set HOST_UID and HOST_GID to a user of this host, for example 1000, and give that user the results folder.",
        )
    if host.results is not None:
        yield Refusal(
            "results",
            f"The results folder cannot be written by user {host.uid}: {host.results}.",
            "HOST_UID=$(id -u) HOST_GID=$(id -g) in .env, or: sudo chown 1000:1000 results",
        )
