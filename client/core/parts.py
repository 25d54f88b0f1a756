"""What the analysis takes from the other parts of core: one value, so that each part can be left out where it was not measured."""

from __future__ import annotations

import msgspec

from client.core.block_noise import EnergyBlock
from client.core.findings import Estimate, Gate, Kernel, Memory, Parity, Quality
from client.core.gates import GpuArm


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What other parts of core found, by target name; comparisons by candidate name. Absent: not measured."""

    quality: dict[str, Quality] = {}
    parity: dict[str, Parity] = {}
    memory: dict[str, Memory] = {}
    kernel: dict[str, Kernel] = {}
    memory_story: dict[str, tuple[str, ...]] = {}
    energy: dict[str, dict[str, Estimate]] = {}
    energy_blocks: dict[str, tuple[EnergyBlock, ...]] = {}
    image_tokens: dict[str, float] = {}
    gpu: dict[str, GpuArm] = {}
    gpu_missing: dict[str, str] = {}
    """Why the GPU of a target was not measured, where more can be said than that no sidecar was named."""
    gates: tuple[Gate, ...] = ()
    """Gates that fired on what is not in the request records."""
