"""Asks a saved model about pictures, by greedy generation with transformers, and scores the boxes.

    python -m server.tiny.evaluate MODEL_DIR PICTURES [--count 200]

PICTURES is a finished folder of `python -m client.make_images`. This is the plain road through the library, in bf16, one picture at a
time: an independent check of the faster one in `network.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen2VLForConditionalGeneration

from server.tiny.network import patches
from server.tiny.shelf import load, read_truth
from server.tiny.task import AFTER, BEFORE, iou, pixel_budget, read_answer


def ask(model: Any, tokenizer: Tokenizer, path: Path, device: str) -> str:
    """The answer to one picture file."""
    (width, height), pixels = load(path, pixel_budget())
    still = patches(torch.from_numpy(pixels)[None].float() / 255)[0].view(-1, 3, 1, 14, 14)
    rows = still.expand(-1, -1, 2, -1, -1).reshape(len(still), -1)
    tokens = (width // 28) * (height // 28)
    image = model.config.image_token_id
    before, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in (BEFORE, AFTER))
    ids = torch.tensor([[*before, *[image] * tokens, *after]], device=device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == image).int(),
        pixel_values=rows.to(device, model.dtype),
        image_grid_thw=torch.tensor([[1, height // 14, width // 14]], device=device),
        max_new_tokens=40,
        do_sample=False,
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(asked.model / "tokenizer.json"))
    model = Qwen2VLForConditionalGeneration.from_pretrained(asked.model, dtype=torch.bfloat16).to(asked.device).eval()
    scores = []
    for number, (path, box) in enumerate(read_truth(asked.pictures)[: asked.count]):
        text = ask(model, tokenizer, path, asked.device)
        found = read_answer(text)
        scores.append(iou(found, box) if found else 0.0)
        if number < 8:
            print(f"{path.name}: {text}   truth {[round(v, 3) for v in box]}   IoU {scores[-1]:.3f}")
    over = " ".join(f"{limit}: {np.mean([s > limit for s in scores]):.1%}" for limit in (0.5, 0.75, 0.9))
    print(f"{len(scores)} pictures, mean IoU {np.mean(scores):.4f}, share over {over}")


if __name__ == "__main__":
    main()
