"""What the simulated model would weigh at each position: the token that it says, and others, with log probabilities as vLLM writes them."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from typing import Any

MOST = 20
"""vLLM's --max-logprobs where none is given."""
VOCABULARY = 151_643
"""Ordinary tokens of Qwen2's tokenizer."""
END_OF_TURN = 151_645
_IDS = {str(digit): 15 + digit for digit in range(10)} | {"": END_OF_TURN}
_OTHERS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", ".", ",", " ", "]", "[", "(", ")", "\n", "-", ":", "")
DIGIT_SPREAD = 0.9
"""Logits between neighbouring digits: the next one is about 0.4 times as likely."""
FP8_SIGMA = 0.04
"""How far rounded weights move a logit."""


def token_id(piece: str) -> int:
    """The tokenizer's own for digits and the end of a turn; a stable stand-in for anything else."""
    return _IDS.get(piece, 100 + zlib.crc32(piece.encode()) % (VOCABULARY - 100))


class Weights:
    """The next-token weights of one answer. The same picture, seed and precision give the same ones."""

    def __init__(self, pieces: Sequence[str], key: str, precision: str, top: int, *, as_ids: bool) -> None:
        self._pieces, self._key, self._precision = pieces, key, precision
        self._top, self._as_ids = top, as_ids

    def content(self, first: int, end: int) -> list[dict[str, Any]]:
        """Entries of `logprobs.content` for the positions from `first` to before `end`."""
        return [self._entry(position) for position in range(first, end)]

    def _entry(self, position: int) -> dict[str, Any]:
        said = self._pieces[position]
        weights = self._weights(position, said)
        ranked = sorted(weights, key=lambda piece: (piece != said, -weights[piece]))[: self._top]
        return self._item(said, weights[said]) | {
            "top_logprobs": [self._item(piece, weights[piece]) for piece in ranked]
        }

    def _weights(self, position: int, said: str) -> dict[str, float]:
        """Natural-log probabilities. What greedy decoding says is the likeliest in both precisions."""
        common = random.Random(f"{self._key}:{position}:weights")
        rounding = random.Random(f"{self._key}:{position}:fp8")
        logits = {}
        for other in dict.fromkeys((*_OTHERS, said)):
            logit = -4.0 - 4.0 * common.random()
            if said.isdigit() and other.isdigit():
                logit = -DIGIT_SPREAD * abs(int(said) - int(other)) if len(said) == len(other) == 1 else logit
            logits[other] = logit + (rounding.gauss(0, FP8_SIGMA) if self._precision == "fp8" else 0.0)
        logits[said] = max(*logits.values(), 0.0) + 0.01
        total = math.log(sum(math.exp(value) for value in logits.values()))
        return {piece: value - total for piece, value in logits.items()}

    def _item(self, piece: str, logprob: float) -> dict[str, Any]:
        token = f"token_id:{token_id(piece)}" if self._as_ids else piece
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
