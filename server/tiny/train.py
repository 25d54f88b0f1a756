"""Trains the small Qwen2-VL from nothing to box nutrition tables, on a folder of pictures that may still be growing.

    python -m client.make_images --out /tmp/held --count 384 --seed 1 --size SIZES
    python -m client.make_images --out /tmp/train --count 150000 --seed 2 --size SIZES --jobs 12 &
    python -m server.tiny.train --pictures /tmp/train --held-out /tmp/held --out /tmp/tiny --minutes 7.5

with SIZES such as 1024x759,759x1024,1024x768,768x1024,1024x576,1024x1024,800x600,640x480. Every minute the weights (averaged over the
last steps, bf16) are tried on held-out pictures, and those that do best so far lie in --out, ready to be served. An interrupted run goes on
from --state with the same command. On a CPU the same script runs at about one picture a second: enough to try it, not to finish.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from server.tiny import lesson, network
from server.tiny.shelf import Shelf, load, read_truth
from server.tiny.task import AFTER, BEFORE, CELL, END, MODEL_FILES, Box, answer, iou, pixel_budget, read_answer


class Words:
    """Token ids of everything that is always the same."""

    def __init__(self, device: str) -> None:
        self.tokenizer = Tokenizer.from_file(str(MODEL_FILES / "tokenizer.json"))
        self.before, self.after = self.ids(BEFORE, device), self.ids(AFTER, device)
        self.template = self.ids(answer((0.0, 0.0, 0.0, 0.0)) + END, device)
        self.digits = torch.cat([self.ids(str(n), device) for n in range(10)])
        assert len(self.template) == 29, "the tokenizer merges parts of an answer"

    def ids(self, text: str, device: str) -> Any:
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids, device=device)


@dataclass(slots=True)
class Progress:
    """What goes into --state beside the weights."""

    step: int = 0
    seconds: float = 0.0
    best: float = 0.0
    losses: list[float] = field(default_factory=list)


class Trainer:
    """Network, its average, the optimiser, and the losses of one batch."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.device = asked.device
        torch.manual_seed(asked.seed)
        self.model = network.new_model().to(self.device).train()
        hidden = self.model.config.text_config.hidden_size
        # Says for every image token how much of it the table covers: teaches the eye directly, and is not kept.
        self.guide = torch.nn.Linear(hidden, 1).to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.words = Words(self.device)
        self.rate, self.warm_steps = asked.rate, asked.warm_steps
        learnt = [*self.model.parameters(), *self.guide.parameters()]
        decayed = [p for p in learnt if p.ndim > 1]
        groups = [
            {"params": decayed, "weight_decay": 0.05},
            {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=asked.rate, betas=(0.9, 0.98), fused=self.device == "cuda")
        self.learnt = learnt

    def autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def step(self, pixels: Any, boxes: Any, number: int, done: float) -> Any:
        """One update; `done` is the part of the training time that is over. The loss, not yet read back from the device."""
        rate = (
            self.rate
            * min(1.0, (number + 1) / self.warm_steps)
            * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self.loss(*lesson.altered(pixels, boxes))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learnt, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        keep = min(0.998, (1 + number) / (20 + number))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
        return loss.detach()

    def loss(self, image: Any, boxes: Any) -> Any:
        rows, columns = image.shape[2] // CELL, image.shape[3] // CELL
        answers = lesson.spell(boxes, self.words.template, self.words.digits)
        with self.autocast():
            seen = network.see(self.model, image)
            logits = network.predict(self.model, seen, (rows, columns), self.words.before, self.words.after, answers)
            covered = self.guide(seen).squeeze(-1)
        guided = torch.nn.functional.binary_cross_entropy_with_logits(
            covered.float(), lesson.coverage(boxes, rows, columns)
        )
        return lesson.digit_loss(logits, boxes, answers, self.words.digits) + 0.5 * guided

    def ask(self, pixels: Any) -> list[str]:
        """Greedy answers of the averaged network to pictures (bytes) of one size."""
        rows, columns = pixels.shape[2] // CELL, pixels.shape[3] // CELL
        length = len(self.words.template)
        with torch.no_grad(), self.autocast():
            seen = network.see(self.average, pixels.float() / 255)
            given = torch.zeros((len(pixels), length), dtype=torch.long, device=self.device)
            for at in range(length):
                logits = network.predict(
                    self.average, seen, (rows, columns), self.words.before, self.words.after, given[:, : at + 1]
                )
                given[:, at] = logits[:, -1].argmax(-1)
        return [self.words.tokenizer.decode(ids, skip_special_tokens=True) for ids in given.tolist()]

    def save(self, out: Path) -> None:
        """The averaged weights as bf16 with every file that a server needs; the weights file is replaced in one step."""
        fresh = out / ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        copy.deepcopy(self.average).to(torch.bfloat16).save_pretrained(fresh)
        for file in MODEL_FILES.glob("*.json"):
            shutil.copy(file, out / file.name)
        (fresh / "model.safetensors").chmod(0o644)
        (fresh / "model.safetensors").replace(out / "model.safetensors")
        shutil.rmtree(fresh)

    def state(self, progress: Progress) -> dict[str, Any]:
        parts = {"model": self.model, "guide": self.guide, "average": self.average, "optimiser": self.optimiser}
        return {
            **{name: part.state_dict() for name, part in parts.items()},
            "progress": [progress.step, progress.seconds, progress.best],
        }

    def resume(self, path: Path) -> Progress:
        kept = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.guide.load_state_dict(kept["guide"])
        self.average.load_state_dict(kept["average"])
        self.optimiser.load_state_dict(kept["optimiser"])
        return Progress(*kept["progress"])


class Examination:
    """Held-out pictures in device memory, by size."""

    def __init__(self, folder: Path, device: str, most: int) -> None:
        self.sets: dict[tuple[int, int], tuple[Any, list[Box]]] = {}
        found: dict[tuple[int, int], list[tuple[Any, Box]]] = {}
        budget = pixel_budget()
        for path, box in read_truth(folder)[:most]:
            size, pixels = load(path, budget)
            found.setdefault(size, []).append((pixels, box))
        for size, items in found.items():
            stacked = torch.from_numpy(np.stack([pixels for pixels, _ in items])).to(device)
            self.sets[size] = (stacked, [box for _, box in items])

    def mark(self, trainer: Trainer) -> tuple[float, float, int]:
        """Mean IoU, share of IoU over 0.5, and unreadable answers (they count as IoU 0)."""
        scores, unread = [], 0
        for pixels, boxes in self.sets.values():
            for first in range(0, len(boxes), 64):
                for text, box in zip(trainer.ask(pixels[first : first + 64]), boxes[first : first + 64], strict=True):
                    found = read_answer(text)
                    unread += found is None
                    scores.append(iou(found, box) if found else 0.0)
        return float(np.mean(scores)), float(np.mean([s > 0.5 for s in scores])), unread


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pictures", type=Path, required=True, help="folder of client.make_images; may still be growing"
    )
    parser.add_argument("--held-out", type=Path, required=True, help="finished folder, made with another seed")
    parser.add_argument("--held-out-count", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True, help="the best model so far, ready to be served")
    parser.add_argument("--state", type=Path, help="where an interrupted run goes on (default: OUT/../tiny-state.pt)")
    parser.add_argument("--minutes", type=float, default=7.5, help="training time in all, earlier parts included")
    parser.add_argument("--check-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--tell-every", type=int, default=100, help="steps between two lines about the loss")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warm-steps", type=int, default=300, help="steps until the full rate")
    parser.add_argument("--steps", type=int, help="stop after so many steps, to try it")
    parser.add_argument("--start-with", type=int, default=2048, help="pictures to wait for before the first step")
    parser.add_argument("--keep", type=int, default=9000, help="pictures of one size kept in device memory")
    parser.add_argument("--threads", type=int, default=4, help="threads that decode pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    asked.state = asked.state or asked.out.parent / "tiny-state.pt"
    return asked


def check(trainer: Trainer, exam: Examination, progress: Progress, asked: argparse.Namespace) -> None:
    """Tries the averaged network, keeps it if it is the best, and saves the state."""
    mean, hits, unread = exam.mark(trainer)
    loss = float(np.mean(progress.losses)) if progress.losses else float("nan")
    better = mean >= progress.best
    print(
        f"step {progress.step} after {progress.seconds:.0f} s: loss {loss:.4f}, held-out mean IoU {mean:.4f}, "
        f"over 0.5 {hits:.1%}, unreadable {unread}{', saved' if better else ''}",
        flush=True,
    )
    progress.losses.clear()
    if better:
        progress.best = mean
        trainer.save(asked.out)
    fresh = asked.state.with_suffix(".new")
    torch.save(trainer.state(progress), fresh)
    fresh.replace(asked.state)


def main(argv: list[str] | None = None) -> None:
    asked = arguments(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(asked)
    progress = trainer.resume(asked.state) if asked.state.exists() else Progress()
    print(
        f"{sum(p.numel() for p in trainer.model.parameters()) / 1e6:.2f} million parameters on {asked.device}, "
        f"from step {progress.step}",
        flush=True,
    )
    shelf = Shelf(asked.pictures, pixel_budget(), asked.keep, asked.device, asked.threads)
    try:
        exam = Examination(asked.held_out, asked.device, asked.held_out_count)
        shelf.wait_for(asked.start_with)
        learn(trainer, shelf, exam, progress, asked)
    finally:
        shelf.close()


def learn(trainer: Trainer, shelf: Shelf, exam: Examination, progress: Progress, asked: argparse.Namespace) -> None:
    """Steps until the time is used up (or --steps are done), with a check now and then and at the end."""
    source = np.random.default_rng(asked.seed + progress.step)
    total, before, begun = asked.minutes * 60, progress.seconds, time.monotonic()
    checked, last_step = before, progress.step + asked.steps if asked.steps else math.inf
    recent: list[Any] = []
    while progress.seconds < total and progress.step < last_step:
        recent.append(trainer.step(*shelf.draw(asked.batch, source), progress.step, progress.seconds / total))
        progress.step += 1
        if len(recent) >= asked.tell_every or progress.step == last_step:
            # Reading a loss waits for the device, so it is done for many at once.
            progress.losses += [float(value) for value in torch.stack(recent).tolist()]
            progress.seconds = before + time.monotonic() - begun
            print(
                f"step {progress.step} after {progress.seconds:.0f} s: loss {np.mean(progress.losses[-len(recent) :]):.4f}, "
                f"{shelf.added} pictures so far",
                flush=True,
            )
            recent.clear()
        progress.seconds = before + time.monotonic() - begun
        if progress.seconds - checked > asked.check_every:
            checked = progress.seconds
            check(trainer, exam, progress, asked)
    check(trainer, exam, progress, asked)


if __name__ == "__main__":
    main()
