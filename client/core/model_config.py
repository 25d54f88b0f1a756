"""A model's config.json -> ModelConfig. The file comes from anywhere: each figure is checked before it is used."""

from __future__ import annotations

from typing import Any

import msgspec

from client.core.loglines import plain
from client.errors import UsageError

MAX_BYTES = 1 << 20
FAMILIES = ("qwen2_vl", "qwen2_5_vl")
_TEXT_FAMILIES = ("qwen2", "qwen2_vl_text", "qwen2_5_vl_text")
_MOST = 1 << 24
"""No dimension of a real model reaches this: a larger one is a mistake or an attack."""

_MOST_PARAMETERS = 10**13


class VisionConfig(msgspec.Struct, frozen=True):
    """`width` of the tower, `out` of the merger (the decoder's width). `gated`: Qwen2.5-VL's MLP and RMSNorm."""

    depth: int
    width: int
    intermediate: int
    out: int
    channels: int
    patch: int
    temporal_patch: int
    merge: int
    gated: bool


class ModelConfig(msgspec.Struct, frozen=True):
    """The sizes that decide memory. `quantized`: the checkpoint's own quantisation method, None when its weights are plain."""

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    attention_bias: bool
    vision: VisionConfig | None
    max_positions: int | None = None
    quantized: str | None = None

    @property
    def image_factor(self) -> int | None:
        """Pixels of a side that make one image token; None for a model without vision."""
        return self.vision.patch * self.vision.merge if self.vision else None


def read_model_config(text: str, name: str = "config.json") -> ModelConfig:
    """Checked sizes. Raises UsageError that names the field when the file is no config of a Qwen2-VL-like model."""
    if len(text) > MAX_BYTES:
        raise UsageError(
            f"{name} has {len(text):,} characters: a model's config.json has a few thousand.", "Give the right file."
        )
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {str(error)[:120]}.", "Give the model's own config.json.") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{name} holds no JSON object.", "Give the model's own config.json.")
    family = raw.get("model_type")
    if family not in (*FAMILIES, *_TEXT_FAMILIES):
        shown = f"model_type {str(family)[:60]!r}" if family is not None else "no model_type"
        raise UsageError(
            f"{name} has {shown}; this estimator knows {', '.join(FAMILIES)}.",
            "Use the server's log instead (--server-log).",
        )
    nested = raw.get("text_config")
    body = nested if isinstance(nested, dict) else raw
    model = _model(_Fields(body, name, "text_config." if body is nested else ""), raw, str(family), name)
    if (
        model.layers * model.hidden * (model.hidden + model.intermediate) + model.vocab * model.hidden
        > _MOST_PARAMETERS
    ):
        raise UsageError(
            f"{name} describes more than 10 million million parameters.", "Give the model's own config.json."
        )
    return model


class _Fields:
    """Reads numbers out of one JSON object and says where a wrong one stands."""

    def __init__(self, raw: dict[str, Any], name: str, path: str) -> None:
        self.raw, self.name, self.path = raw, name, path

    def number(self, *keys: str, default: int | None = None) -> int:
        for key in keys:
            value = self.raw.get(key)
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
                raise UsageError(
                    f"{self.name}: {self.path}{key} is {str(value)[:40]}, not a size between 1 and {_MOST:,}.",
                    "Give the model's own config.json.",
                )
            return int(value)
        if default is not None:
            return default
        raise UsageError(
            f"{self.name} has no {self.path}{keys[0]}.",
            "Give the model's own config.json, not a processor's or a generation's.",
        )


def _model(fields: _Fields, raw: dict[str, Any], family: str, name: str) -> ModelConfig:
    hidden, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    kv_heads = fields.number("num_key_value_heads", default=heads)
    if "head_dim" not in fields.raw and hidden % heads:
        raise UsageError(
            f"{name}: hidden_size {hidden} is no multiple of num_attention_heads {heads}.",
            "Give the model's own config.json.",
        )
    if heads % kv_heads:
        raise UsageError(
            f"{name}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}.",
            "Give the model's own config.json.",
        )
    method = raw.get("quantization_config")
    tied = raw.get("tie_word_embeddings", fields.raw.get("tie_word_embeddings", False))
    return ModelConfig(
        family=family,
        hidden=hidden,
        intermediate=fields.number("intermediate_size"),
        layers=fields.number("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=fields.number("head_dim", default=hidden // heads),
        vocab=fields.number("vocab_size"),
        tied=tied is True,
        attention_bias=fields.raw.get("attention_bias", True) is not False,
        vision=_vision_of(raw, hidden, family, name),
        max_positions=fields.number("max_position_embeddings") if "max_position_embeddings" in fields.raw else None,
        quantized=plain(str(method.get("quant_method", "unknown")))[:60] if isinstance(method, dict) else None,
    )


def _vision_of(raw: dict[str, Any], hidden: int, family: str, name: str) -> VisionConfig | None:
    if family not in FAMILIES:
        return None
    found = raw.get("vision_config")
    if not isinstance(found, dict):
        raise UsageError(
            f"{name} has no vision_config, though its model_type is {family}.", "Give the model's own config.json."
        )
    fields = _Fields(found, name, "vision_config.")
    gated = family == "qwen2_5_vl"
    width = fields.number("hidden_size") if gated else fields.number("embed_dim")
    return VisionConfig(
        depth=fields.number("depth"),
        width=width,
        intermediate=fields.number("intermediate_size") if gated else width * fields.number("mlp_ratio", default=4),
        out=fields.number("out_hidden_size", default=hidden) if gated else fields.number("hidden_size", default=hidden),
        channels=fields.number("in_chans", "in_channels", default=3),
        patch=fields.number("patch_size", "spatial_patch_size", default=14),
        temporal_patch=fields.number("temporal_patch_size", default=2),
        merge=fields.number("spatial_merge_size", default=2),
        gated=gated,
    )
