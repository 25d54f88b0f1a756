"""Arithmetic from a config.json, to the byte; and configs that must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.core.estimate import GIB, fit, kv_bytes_per_token, parameters, parts, requests_that_fit, weight_bytes
from client.core.model_config import ModelConfig, read_model_config
from client.errors import UsageError

CONFIGS = Path(__file__).parent.parent / "golden" / "config"
H100_GIB = (85_520_809_984 - 503_316_480) / GIB


def config(name: str = "qwen2-vl-7b") -> ModelConfig:
    return read_model_config((CONFIGS / f"{name}.json").read_text())


def test_the_7b_to_the_byte() -> None:
    """facts of the checkpoint: shards of 16.57 GB; the seed's log says 8.8 GiB in fp8, which only fits with the tower quantised."""
    seven = config()
    assert {part.name: part.parameters for part in parts(seven)} == {
        "embedding + lm_head": 1_089_994_752,
        "decoder layers, linear": 6_525_288_448,
        "decoder biases, norms": 333_312,
        "vision linear + merger": 673_710_080,
        "vision conv, biases, norms": 2_049_024,
    }
    assert parameters(seven) == 8_291_375_616
    assert weight_bytes(seven) == 16_582_751_232
    assert weight_bytes(seven, "fp8") == 9_383_752_704
    assert weight_bytes(seven, "fp8", vision_in_fp8=False) == 10_057_462_784


def test_the_7b_of_qwen2_5() -> None:
    assert parameters(config("qwen2.5-vl-7b")) == 8_292_166_656


def test_a_nested_config_counts_its_own_checkpoint() -> None:
    """The tiny model's safetensors file holds this many numbers."""
    assert parameters(config("tiny-nested")) == 8_446_976


def test_tied_embeddings_are_counted_once() -> None:
    raw = json.loads((CONFIGS / "qwen2-vl-7b.json").read_text())
    tied = read_model_config(json.dumps({**raw, "tie_word_embeddings": True}))
    assert parameters(config()) - parameters(tied) == 152_064 * 3584


def test_kv_bytes() -> None:
    assert kv_bytes_per_token(config()) == 57_344
    assert kv_bytes_per_token(config(), "fp8") == kv_bytes_per_token(config(), "fp8_e4m3") == 28_672


def test_float32_takes_four_bytes_of_what_is_not_quantised() -> None:
    seven = config()
    assert weight_bytes(seven, dtype="float32") == 2 * 16_582_751_232
    assert weight_bytes(seven, "fp8", dtype="float32") == 9_383_752_704 + 2 * (1_089_994_752 + 333_312 + 2_049_024)
    assert weight_bytes(seven, dtype="float16") == 16_582_751_232
    assert kv_bytes_per_token(seven, "auto", "float32") == 114_688
    assert kv_bytes_per_token(seven, "fp8", "float32") == 28_672
    assert kv_bytes_per_token(seven, "bfloat16", "float32") == 57_344


@pytest.mark.parametrize(
    ("precision", "weights", "cache", "tokens"), [("bf16", 15.53, 16.87, 315_888), ("fp8", 8.79, 23.62, 442_224)]
)
def test_against_the_measured_servers(precision: str, weights: float, cache: float, tokens: int) -> None:
    """vLLM 0.20.2 on the H100 at 0.45: weights within 0.01 GiB, KV cache within 0.3 %."""
    found = fit(config(), total_gib=H100_GIB, utilization=0.45, request_tokens=1068, precision=precision)
    assert found.weights_gib == pytest.approx(weights, abs=0.01)
    assert found.kv_cache_gib == pytest.approx(cache, rel=0.003)
    assert found.kv_cache_tokens == pytest.approx(tokens, rel=0.003)


def test_the_seed_s_server_within_a_few_percent() -> None:
    """RTX 6000 Ada at 0.5, vLLM 0.11: the log said 4.87 GiB of KV cache and 91,189 tokens."""
    found = fit(config(), total_gib=47.5, utilization=0.5, request_tokens=1068, precision="bf16")
    assert found.kv_cache_gib == pytest.approx(4.87, abs=0.2)


def test_a_card_that_is_too_small_says_how_much_is_missing() -> None:
    found = fit(config(), total_gib=16, utilization=0.9, request_tokens=1068, precision="bf16")
    assert (found.kv_cache_gib, found.kv_cache_tokens, found.requests) == (0.0, 0, 0)
    assert found.missing_gib == pytest.approx(15.53 + 3.2 - 14.4, abs=0.01)


def test_requests_take_whole_blocks() -> None:
    assert requests_that_fit(1600, 16) == 100
    assert requests_that_fit(1600, 17) == 50
    assert requests_that_fit(15, 1) == 0


SEVEN = json.loads((CONFIGS / "qwen2-vl-7b.json").read_text())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "no model_type"),
        ("[" * 100_000, "not JSON"),
        (json.dumps({"model_type": "llama"}), "'llama'"),
        (json.dumps({**SEVEN, "hidden_size": None}), "no hidden_size"),
        (json.dumps({**SEVEN, "hidden_size": -1}), "hidden_size is -1"),
        (json.dumps({**SEVEN, "hidden_size": True}), "hidden_size is True"),
        (json.dumps({**SEVEN, "hidden_size": "3584"}), "hidden_size is 3584"),
        (json.dumps({**SEVEN, "num_hidden_layers": 1e99}), "num_hidden_layers"),
        (
            json.dumps(
                {
                    **SEVEN,
                    "num_hidden_layers": 16_000_000,
                    "hidden_size": 16_000_000,
                    "num_attention_heads": 1,
                    "num_key_value_heads": 1,
                }
            ),
            "million million",
        ),
        (json.dumps({**SEVEN, "num_attention_heads": 27}), "no multiple"),
        (json.dumps({**SEVEN, "num_key_value_heads": 3}), "no multiple"),
        (json.dumps({**SEVEN, "vision_config": None}), "no vision_config"),
        (json.dumps({**SEVEN, "vision_config": {"depth": 32}}), "vision_config.embed_dim"),
        (" " * (1 << 20) + "{}", "characters"),
    ],
)
def test_configs_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_model_config(text)


def test_a_quantised_checkpoint_is_named() -> None:
    assert (
        read_model_config(
            json.dumps({**SEVEN, "quantization_config": {"quant_method": "compressed-tensors"}})
        ).quantized
        == "compressed-tensors"
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    ),
    st.sampled_from([*sorted(SEVEN), "text_config"]),
)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_field_is_counted_or_refused(value: object, field: str) -> None:
    try:
        found = read_model_config(json.dumps({**SEVEN, field: value}))
    except UsageError:
        return
    assert 0 < weight_bytes(found, "fp8") <= weight_bytes(found) < 1e14


@given(st.text(max_size=200))
def test_any_text_is_refused_cleanly(text: str) -> None:
    with pytest.raises(UsageError):
        read_model_config(text)
