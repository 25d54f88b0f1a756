"""The network of transformers, run faster for training: all pictures of a batch have one size, so attention is one batched call.

The weights and the arithmetic are those of `Qwen2VLForConditionalGeneration`; `tests/tiny` compares the two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoConfig, Qwen2VLForConditionalGeneration

from server.tiny.task import MODEL_FILES

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def new_model() -> Any:
    """Fresh weights in the shape of model/config.json, 32-bit."""
    config = AutoConfig.from_pretrained(MODEL_FILES)
    model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return model.float()


def patches(pixels: Any) -> Any:
    """Pictures (batch, 3, height, width), 0..1, as rows of patches in the order of the Qwen2-VL image processor: 2x2 patches of one
    token follow each other. One frame only; a still picture is the same frame twice.
    """
    mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    batch, _, height, width = pixels.shape
    cut = ((pixels - mean) / std).view(batch, 3, height // 28, 2, 14, width // 28, 2, 14)
    return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, (height // 14) * (width // 14), 3 * 14 * 14)


@lru_cache(maxsize=256)
def _patch_places(rows: int, columns: int, device: str) -> Any:
    """(row, column) of each patch, in the order of `patches`. `rows` and `columns` count tokens."""
    grid = torch.stack(torch.meshgrid(torch.arange(rows * 2), torch.arange(columns * 2), indexing="ij"), dim=-1)
    return grid.view(rows, 2, columns, 2, 2).permute(0, 2, 1, 3, 4).reshape(-1, 2).to(device)


@lru_cache(maxsize=256)
def _token_places(before: int, rows: int, columns: int, rest: int, device: str) -> Any:
    """(3, length): time, row and column of every token, as `get_rope_index` numbers a sequence with one picture."""
    text = torch.arange(before).expand(3, -1)
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")).reshape(2, -1) + before
    picture = torch.cat([torch.full((1, rows * columns), before), grid])
    after = torch.arange(rest).expand(3, -1) + before + max(rows, columns)
    return torch.cat([text, picture, after], dim=1).to(device)


def _turn(x: Any, cos: Any, sin: Any) -> Any:
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def see(model: Any, pixels: Any) -> Any:
    """Image tokens (batch, tokens, hidden size)."""
    vision = model.model.visual
    batch, _, height, width = pixels.shape
    rows = patches(pixels)
    # The two frames of a still picture are equal, so their kernels add up.
    kernel = vision.patch_embed.proj.weight.sum(dim=2).flatten(1)
    hidden = F.linear(rows, kernel)
    cos, sin = vision.rotary_pos_emb(hidden, _patch_places(height // 28, width // 28, str(pixels.device)))
    cos, sin = cos.float(), sin.float()
    for block in vision.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).view(batch, -1, 3, attention.num_heads, attention.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(_turn(q, cos, sin), _turn(k, cos, sin), v)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return vision.merger(hidden).view(batch, -1, model.config.text_config.hidden_size)


def predict(model: Any, seen: Any, grid: tuple[int, int], before: Any, after: Any, answers: Any) -> Any:
    """Logits for every token of the answers (batch, length, vocabulary), each from what stands before it.

    `grid` is (rows, columns) of image tokens; `before` and `after` are the token ids around the picture.
    """
    batch = len(answers)
    embed = model.model.language_model.embed_tokens
    start, question, given = (
        embed(before).expand(batch, -1, -1),
        embed(after).expand(batch, -1, -1),
        embed(answers[:, :-1]),
    )
    sequence = torch.cat([start, seen.to(start.dtype), question, given], dim=1)
    places = _token_places(len(before), *grid, len(after) + answers.shape[1] - 1, str(seen.device))
    out = model.model.language_model(
        inputs_embeds=sequence, position_ids=places[:, None].expand(-1, batch, -1), use_cache=False
    )
    return model.lm_head(out.last_hidden_state[:, -answers.shape[1] :])
