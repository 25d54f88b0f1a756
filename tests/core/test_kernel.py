"""Which kernel multiplies, and what speaks for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from client.core.facts import TargetFacts, read_log
from client.core.kernel import capability_of, fp8_name, kernel_of, version_of
from client.errors import UsageError

LOGS = Path(__file__).parent.parent / "golden" / "logs"
WARNING = "Your GPU does not have native support for FP8 computation but FP8 quantization is being used."
CUTLASS = "CutlassFP8ScaledMMLinearKernel for Fp8OnlineLinearMethod"
MARLIN = "MarlinFP8ScaledMMLinearKernel for Fp8LinearMethod"


def facts(**given: object) -> TargetFacts:
    return msgspec.structs.replace(
        TargetFacts(version="0.20.2", quantization="fp8", complete=True, device="cuda"), **given
    )


def test_the_recorded_servers() -> None:
    kinds = {
        name: kernel_of(read_log((LOGS / f"{name}.log").read_text()), "9.0" if "h100" in name else None).kind
        for name in ("vllm-0.20.2-h100-bf16", "vllm-0.20.2-h100-fp8", "vllm-0.32.0-cpu-fp8_per_channel")
    }
    assert list(kinds.values()) == ["none (bf16)", "native fp8", "unknown"]


@pytest.mark.parametrize(
    ("given", "capability", "kind", "contradicts"),
    [
        ({"kernels": (CUTLASS,)}, "8.9", "native fp8", False),
        ({"kernels": (CUTLASS,)}, None, "native fp8", False),
        ({"kernels": (CUTLASS,)}, "8.6", "native fp8", True),
        ({"marlin_warning": WARNING}, "8.6", "marlin weight-only", False),
        ({"marlin_warning": WARNING}, "8.9", "marlin weight-only", True),
        ({"kernels": (MARLIN,)}, "8.0", "marlin weight-only", False),
        ({"kernels": (MARLIN,)}, "9.0", "marlin weight-only", True),
        ({"kernels": (MARLIN,), "quantization": "fp8_per_block"}, "8.9", "marlin weight-only", False),
        ({"kernels": (MARLIN,), "quantization": "fp8_per_block"}, "9.0", "marlin weight-only", True),
        ({"kernels": (MARLIN, CUTLASS)}, "8.9", "unknown", True),
        ({"version": "0.11.0"}, "8.9", "native fp8", False),
        ({"version": "0.11.0"}, None, "native fp8", False),
        ({"version": "0.14.0"}, "8.9", "native fp8", False),
        ({"version": "0.16.0"}, "8.9", "unknown", False),
        ({"version": "0.19.1"}, "8.9", "unknown", False),
        ({"version": "0.11.0"}, "8.6", "unknown", True),
        ({"version": "0.11.0", "complete": False}, "8.9", "unknown", False),
        ({}, "8.9", "unknown", False),
        ({"version": None}, "8.9", "unknown", False),
        ({"quantization": None}, "8.9", "none (bf16)", False),
        ({"quantization": None, "complete": False}, "8.9", "unknown", False),
        ({"device": "cpu", "kernels": (CUTLASS,)}, None, "unknown", False),
        ({"device": "cpu", "kernels": (CUTLASS,)}, "8.6", "unknown", False),
        ({"device": "cpu"}, "8.6", "unknown", False),
    ],
)
def test_kinds_and_contradictions(
    given: dict[str, object], capability: str | None, kind: str, contradicts: bool
) -> None:
    kernel = kernel_of(facts(**given), capability)
    assert kernel.kind == kind
    assert (kernel.contradiction is not None) == contradicts


def test_the_seed_s_claim_is_shown_as_a_contradiction() -> None:
    """A Marlin warning on an RTX 6000 Ada: the GPU has FP8 tensor cores, so the log or the claim is wrong."""
    told = kernel_of(facts(version="0.11.0", marlin_warning=WARNING), "8.9").contradiction
    assert told is not None
    assert "8.9 and FP8 tensor cores" in told
    assert "VLLM_TEST_FORCE_FP8_MARLIN" in told


def test_an_inference_says_that_it_is_one() -> None:
    assert kernel_of(facts(version="0.11.0"), "8.9").evidence[0].startswith("inferred: ")


@pytest.mark.parametrize(
    ("version", "device", "name"),
    [
        ("0.6.3.post1", "cuda", "fp8"),
        ("0.11.0", "cuda", "fp8"),
        ("v0.19.1", "cuda", "fp8"),
        ("0.20.0", "cuda", "fp8_per_tensor"),
        ("0.33.0", "cuda", "fp8_per_tensor"),
        ("1.0.0", "cuda", "fp8_per_tensor"),
        ("latest", "cuda", "fp8_per_tensor"),
        ("0.24.0", "cpu", "fp8_per_channel"),
        ("0.32.0+cpu", "cpu", "fp8_per_channel"),
    ],
)
def test_names_of_online_fp8(version: str, device: str, name: str) -> None:
    assert fp8_name(version, device) == name


def test_an_old_cpu_server_has_no_fp8() -> None:
    with pytest.raises(UsageError, match=r"0\.20\.2"):
        fp8_name("0.20.2", "cpu")


def test_versions_and_capabilities() -> None:
    assert version_of("0.20.0rc1.dev3+g1a2b3c") == (0, 20)
    assert version_of("nightly") is None
    assert [capability_of(text) for text in ("8.9", "sm_89", "89", "sm90a", "12.0", "(9, 0)", "", None)] == [
        (8, 9),
        (8, 9),
        (8, 9),
        (9, 0),
        (12, 0),
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    "name",
    [
        "EmulationMxfp8LinearKernel for ModelOptMxFp8LinearMethod",
        "HummingFP8ScaledMMLinearKernel for Fp8PerTensorOnlineLinearMethod",
        "XPUW8A16FP8LinearKernel for Fp8OnlineLinearMethod",
        "MacheteLinearKernel for CompressedTensorsW4A8Fp8",
    ],
)
@pytest.mark.parametrize("capability", ["8.6", "9.0", None])
def test_a_kernel_that_may_multiply_in_16_bits_is_no_proof_of_fp8(name: str, capability: str | None) -> None:
    told = TargetFacts(version="0.33.0", quantization="fp8", complete=True, kernels=(name,))
    found = kernel_of(told, capability)
    assert (found.kind, found.contradiction) == ("unknown", None)
    assert f"log: Selected {name}" in found.evidence
    assert not any("names no kernel" in item for item in found.evidence)
