"""Gathers what `client.core.readiness` judges: engine, GPU, ports, disk, hub. Each reading by itself: what cannot be read stays unknown."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import msgspec

from client.core.container import PROJECT, seen
from client.core.readiness import Gpu, HostFacts
from client.core.records import GpuSample

ASK_LIMIT_S = 10.0
MIB, GIB = 1 << 20, 1 << 30
QUERY = "name,memory.total,memory.free,compute_cap,driver_version"
MODEL_PART = "models--"


class _Safetensors(msgspec.Struct):
    total: int = 0
    parameters: dict[str, int] = {}


class _Model(msgspec.Struct):
    """The hub's answer. `gated` is False, or the kind of gate."""

    gated: bool | str = False
    safetensors: _Safetensors | None = None


class _GpuInfo(msgspec.Struct):
    gpu: int
    name: str | None = None
    total: int | None = None
    compute_capability: str | None = None


class _Info(msgspec.Struct):
    gpus: list[_GpuInfo] = []


_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}


def engine_facts(host: HostFacts, ports: tuple[int, ...], project: str) -> HostFacts:
    """Engine, Compose, runtime, ports, stale containers: only where an engine can be asked, so on the host and not in a container."""
    from client.containers import Engine, NoEngine  # late: loading the docker package takes a quarter of a second

    try:
        engine = Engine.connect()
    except NoEngine as error:
        return msgspec.structs.replace(host, engine_why=str(error), taken_ports=taken_ports(ports, {}))
    try:
        info, version, running = engine.info(), engine.version(), engine.running()
    finally:
        engine.close()
    ours = [attrs for attrs in running if _label(attrs, PROJECT) == project]
    others = [attrs for attrs in running if _label(attrs, PROJECT) != project]
    free = set(ports) - {port for attrs in ours for port in published(attrs)}
    return msgspec.structs.replace(
        host,
        engine=version.get("Version"),
        compose=compose_version(),
        nvidia_runtime="nvidia" in (info.get("Runtimes") or {}),
        cdi=bool(info.get("CDISpecDirs")),
        serving=bool(ours),
        stale=tuple(_name(attrs) for attrs in others if holds_gpu(attrs)),
        taken_ports=taken_ports(tuple(free), {port: _name(attrs) for attrs in others for port in published(attrs)}),
        disk_free_gib=free_gib(Path(str(info.get("DockerRootDir", "/var/lib/docker")))),
    )


def _label(attrs: dict[str, Any], name: str) -> str | None:
    found: str | None = ((attrs.get("Config") or {}).get("Labels") or {}).get(name)
    return found


def _name(attrs: dict[str, Any]) -> str:
    return str(attrs.get("Name", "")).lstrip("/")


def published(attrs: dict[str, Any]) -> tuple[int, ...]:
    one = seen(attrs)
    return one.host_ports if one is not None else ()


def holds_gpu(attrs: dict[str, Any]) -> bool:
    """Whether a container was given a GPU to compute on: a device request for more than NVML."""
    requests = (attrs.get("HostConfig") or {}).get("DeviceRequests") or ()
    wanted = [kind for one in requests for kinds in one.get("Capabilities") or [["gpu"]] for kind in kinds]
    runtime = (attrs.get("HostConfig") or {}).get("Runtime") == "nvidia"
    return runtime or any(kind in ("gpu", "compute") for kind in wanted)


def taken_ports(ports: tuple[int, ...], owners: dict[int, str]) -> dict[int, str]:
    """Ports of 127.0.0.1 on which something listens, and who, as far as the engine knows."""
    taken = {}
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                owner = owners.get(port)
                taken[port] = f"the container {owner}" if owner else "another program"
    return taken


def compose_version() -> str | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and (text := _output([*command, "version", "--short"])):
            return text.strip().lstrip("v") or None
    return None


def _output(command: list[str]) -> str | None:
    """Standard output of a command that ended well; None otherwise."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def gpu_facts(host: HostFacts, which: str) -> HostFacts:
    """The GPU that the servers shall use, by nvidia-smi. `which`: an index or a UUID."""
    if shutil.which("nvidia-smi") is None:
        return msgspec.structs.replace(host, gpus=(), driver=None)
    text = _output(["nvidia-smi", f"--id={which}", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"])
    if text is None:
        return msgspec.structs.replace(host, gpus_why=f"nvidia-smi tells nothing of GPU {which}")
    rows = [line for line in text.splitlines() if line.strip()]
    return msgspec.structs.replace(
        host, gpus=tuple(gpu_of(row) for row in rows), driver=rows[0].split(", ")[-1] if rows else None
    )


def gpu_of(row: str) -> Gpu:
    """One CSV row of nvidia-smi. MIG parts and some boards say [N/A] to single fields."""
    name, total, free, capability, *_ = [*(cell.strip() for cell in row.split(",")), "", "", ""]
    return Gpu(
        name=name or "the GPU",
        total_gib=float(total) * MIB / GIB if total.isdigit() else None,
        free_gib=float(free) * MIB / GIB if free.isdigit() else None,
        capability=capability or None,
    )


def sidecar_facts(host: HostFacts, url: str) -> HostFacts:
    """The same by the NVML sidecar: in a container there is no nvidia-smi."""
    try:
        info = msgspec.json.decode(httpx.get(f"{url}/info", timeout=ASK_LIMIT_S, trust_env=False).content, type=_Info)
        lines = httpx.get(
            f"{url}/samples", params={"limit": 50}, timeout=ASK_LIMIT_S, trust_env=False
        ).content.splitlines()
    except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return msgspec.structs.replace(host, gpus_why=f"the NVML sidecar does not answer ({error})")
    used: dict[int, int] = {}
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError):
            sample = msgspec.json.decode(line, type=GpuSample)
            if sample.used_v1 is not None:
                used[sample.gpu] = sample.used_v1
    return msgspec.structs.replace(host, gpus=tuple(_from_sidecar(one, used.get(one.gpu)) for one in info.gpus))


def _from_sidecar(info: _GpuInfo, used: int | None) -> Gpu:
    known = info.total is not None
    return Gpu(
        name=info.name or f"GPU {info.gpu}",
        total_gib=info.total / GIB if info.total is not None else None,
        free_gib=(info.total - used) / GIB if known and used is not None and info.total is not None else None,
        capability=info.compute_capability,
    )


def hub_facts(host: HostFacts, model: str, token: str | None, endpoint: str, cache: Path | None) -> HostFacts:
    """What the model hub says of the model, and whether its weights already lie in `cache`. An unreachable hub leaves it unknown."""
    here = cache is not None and any(
        cache.glob(f"hub/{MODEL_PART}{model.replace('/', '--')}/snapshots/*/*.safetensors")
    )
    host = msgspec.structs.replace(host, token=bool(token), weights_here=here or Path(model).is_dir())
    if host.weights_here:
        return host
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(
            f"{endpoint}/api/models/{model}", headers=headers, timeout=ASK_LIMIT_S, follow_redirects=True
        )
    except httpx.HTTPError:
        return host
    host = msgspec.structs.replace(host, model_status=answer.status_code)
    if answer.status_code != 200:
        return host
    try:
        told = msgspec.json.decode(answer.content, type=_Model)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return host
    return msgspec.structs.replace(host, gated=bool(told.gated), weights_gib=_weights(told.safetensors))


def _weights(told: _Safetensors | None) -> float | None:
    if told is None:
        return None
    if told.parameters and all(kind in _BYTES for kind in told.parameters):
        return sum(count * _BYTES[kind] for kind, count in told.parameters.items()) / GIB
    return told.total * 2 / GIB if told.total else None


def free_gib(place: Path) -> float | None:
    try:
        return shutil.disk_usage(place).free / GIB
    except OSError:
        return None


def results_facts(host: HostFacts, folder: Path) -> HostFacts:
    """Whether this user can write there: tried, because modes and mounts tell only half of it."""
    why = None
    probe = folder / f".ready-{os.getpid()}"
    try:
        probe.mkdir(parents=True)
        probe.rmdir()
    except OSError as error:
        why = error.strerror or str(error)
    return msgspec.structs.replace(host, results=why, uid=os.getuid())


def serving(urls: list[str]) -> bool:
    """Whether one of the servers is up already: then the memory that is in use is theirs."""
    for url in urls:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{url}/health", timeout=2.0, trust_env=False)
            return True
    return False
