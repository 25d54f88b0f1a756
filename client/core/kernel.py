"""How the quantised weights are really multiplied: proven from the log's kernel line or warning, checked against the GPU.

FP8 tensor cores exist from compute capability 8.9 (Ada) on. Below it vLLM keeps FP8 weights but multiplies in 16 bits with the Marlin kernel
and warns once. Before 0.16 no kernel is named: there, FP8 without that warning means the native path.
"""

from __future__ import annotations

import re

from client.core.facts import TargetFacts
from client.core.findings import Kernel
from client.errors import UsageError

NATIVE = "native fp8"
MARLIN = "marlin weight-only"
NONE = "none (bf16)"
UNKNOWN = "unknown"

_NOT_PROVEN = ("emulation", "humming", "a16")
"""In names of kernels that take FP8 weights: Emulation* and *W8A16* multiply in 16 bits, Humming* runs from capability 7.5 on."""

Version = tuple[int, int]

_FIRST_WITH_FP8 = (8, 9)
_KERNEL_NAMED = (0, 16)
"""First sources seen with the line `Selected <kernel> for <method>`; 0.14 has none."""
_PER_TENSOR = (0, 20)
_PER_CHANNEL = (0, 24)
_VERSION = re.compile(r"v?(\d{1,3})\.(\d{1,4})")
_CAPABILITY = re.compile(r"(?:sm_?)?(\d{1,2})[._]?(\d)[a-z]?")


def version_of(text: str | None) -> Version | None:
    """(0, 20) of `0.20.2`, `v0.20.2.post1` or `0.20.0rc1.dev3+g1a2b3c`; None when there is no number to read."""
    found = _VERSION.match(text or "")
    return (int(found[1]), int(found[2])) if found else None


def capability_of(text: str | None) -> tuple[int, int] | None:
    """(8, 9) of `8.9`, `sm_89` or `89`; None when it cannot be read."""
    found = _CAPABILITY.fullmatch((text or "").strip().lower())
    return (int(found[1]), int(found[2])) if found else None


def fp8_name(version: str, device: str) -> str:
    """The `--quantization` value for online FP8 in this vLLM version on `cuda` or `cpu`. A version without a number (`latest`) is taken as new.

    Names: `fp8` alone before 0.20.0; `fp8_per_tensor` from 0.20.0 (`fp8` is deprecated from 0.31.0); `fp8_per_channel` from 0.24.0, the only
    one that serves on a CPU.
    """
    number = version_of(version)
    if device.lower().startswith("cpu"):
        if number is not None and number < _PER_CHANNEL:
            raise UsageError(f"vLLM {version} has no online FP8 that serves on a CPU.", "Use 0.24 or newer, or a GPU.")
        return "fp8_per_channel"
    return "fp8" if number is not None and number < _PER_TENSOR else "fp8_per_tensor"


def kernel_of(facts: TargetFacts, capability: str | None = None) -> Kernel:
    """The kind, with every line that speaks for it. `capability` is the GPU's compute capability as NVML tells it, like `8.9`."""
    marlin = [name for name in facts.kernels if "marlin" in name.lower()]
    native = [name for name in facts.kernels if name not in marlin and _is_native(name)]
    evidence = [f"log: Selected {name}" for name in facts.kernels]
    if facts.marlin_warning:
        evidence.append(f"log: {facts.marlin_warning[:160]}")
    kind, why = _kind(facts, bool(marlin or facts.marlin_warning), bool(native), capability_of(capability))
    return Kernel(
        kind=kind,
        evidence=(*evidence, *why),
        contradiction=_contradiction(facts, bool(marlin or facts.marlin_warning), native, capability),
        capability=capability,
        quantization=facts.quantization,
        quantized_layers=facts.quantized_layers,
    )


def _is_native(name: str) -> bool:
    """By the kernel, not by the method it serves: `<kernel> for <method>`."""
    kernel = name.partition(" for ")[0].lower()
    return "fp8" in kernel and not any(word in kernel for word in _NOT_PROVEN)


def _kind(
    facts: TargetFacts, marlin: bool, native: bool, capability: tuple[int, int] | None
) -> tuple[str, tuple[str, ...]]:
    if marlin:
        return (UNKNOWN if native else MARLIN), ()
    if native:
        if facts.device == "cpu":
            return UNKNOWN, ("the server runs on a CPU: this kernel says nothing about FP8 arithmetic on a GPU",)
        return NATIVE, ()
    if facts.quantization is None:
        told = facts.complete and ("engine_args" in facts.lines or facts.version is not None)
        none = NONE if facts.dtype in (None, "bfloat16") else f"none ({facts.dtype})"
        return (none, ("log: no quantization is asked for",)) if told and not facts.kernels else (UNKNOWN, ())
    return _inferred(facts, capability)


def _inferred(facts: TargetFacts, capability: tuple[int, int] | None) -> tuple[str, tuple[str, ...]]:
    """FP8 was asked for, and no line names a kernel: right for versions before 0.16, a gap in the log for later ones."""
    number = version_of(facts.version)
    if "fp8" not in (facts.quantization or "") or facts.device == "cpu" or not facts.complete:
        return UNKNOWN, ()
    if facts.kernels:
        return UNKNOWN, ("the kernel's name does not prove that it multiplies in FP8",)
    if number is None or number >= _KERNEL_NAMED:
        return UNKNOWN, ("the log names no kernel, although this version does",) if number else ()
    if capability is not None and capability < _FIRST_WITH_FP8:
        return UNKNOWN, ()
    on = f" and capability {capability[0]}.{capability[1]} has FP8 tensor cores" if capability else ""
    return NATIVE, (
        f"inferred: vLLM {facts.version} names no kernel, its Marlin warning is absent from a complete log{on}",
    )


def _contradiction(facts: TargetFacts, marlin: bool, native: list[str], capability: str | None) -> str | None:
    number = capability_of(capability)
    if marlin and native:
        return f"The log shows both a Marlin kernel and {native[0]}: different layers, or two servers in one log."
    if number is None:
        return None
    if marlin and number >= _FIRST_WITH_FP8:
        if facts.quantization == "fp8_per_block" and number < (9, 0):
            return None
        return (
            f"The log says Marlin weight-only, which vLLM chooses below capability 8.9, but this GPU has {capability} and FP8 tensor cores. "
            "The log is of another GPU, or VLLM_TEST_FORCE_FP8_MARLIN=1 was set."
        )
    if native and number < _FIRST_WITH_FP8 and facts.device != "cpu":
        return f"The log names {native[0]}, a native FP8 kernel, but this GPU has capability {capability} and no FP8 tensor cores. The log is of another GPU."
    no_warning = (
        "fp8" in (facts.quantization or "")
        and facts.complete
        and not marlin
        and not facts.kernels
        and facts.device != "cpu"
    )
    if no_warning and number < _FIRST_WITH_FP8:
        return f"FP8 was asked for on capability {capability}, which has no FP8 tensor cores, yet the log shows no Marlin warning."
    return None
