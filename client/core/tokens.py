"""Token-level evidence from `logprobs`: how alike two servers weigh the next token, position by position.

It is asked for in quality passes only (--logprobs): it costs the server time. Two answers are compared only as far as both were built on
the same text: from the first token on, up to and including the position at which they part. Behind that, each continues another
sentence, and a comparison would measure the difference of the texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from client.core.findings import Estimate
from client.core.logprobs import read_steps
from client.core.pairs import FEWEST_IMAGES, places, too_few
from client.core.records import TokenStep
from client.core.resample import Floats, Resampling, by_image, wilson

__all__ = ["TokenAgreement", "TokenStep", "kl_from_top", "read_steps", "shared_positions", "token_agreement"]

_REST = 1e-6
"""What rounding leaves of the probability of all other tokens; anything smaller would be noise under a logarithm."""


class TokenAgreement(msgspec.Struct, frozen=True):
    """`top1` is a share of positions; `kl_nats` is a mean over positions, in nats."""

    top1: Estimate
    kl_nats: Estimate
    positions: int


def shared_positions(
    baseline: Sequence[TokenStep], candidate: Sequence[TokenStep]
) -> list[tuple[TokenStep, TokenStep]]:
    """Pairs of steps that follow the same text."""
    pairs = []
    for mine, yours in zip(baseline, candidate, strict=False):
        pairs.append((mine, yours))
        if mine.token != yours.token:
            break
    return pairs


def kl_from_top(baseline: TokenStep, candidate: TokenStep) -> float:
    """Lower bound in nats of KL(baseline ‖ candidate) from the top tokens alone, 0 or more.

    Tokens that both list keep their own probability; all others are thrown together as one event. Merging events never raises a
    divergence (data-processing inequality), so the true one is this large or larger.
    """
    common = [token for token in baseline.top if token in candidate.top]
    p = [math.exp(baseline.top[token]) for token in common]
    q = [math.exp(candidate.top[token]) for token in common]
    # Rounding in the server's log-probabilities can push a sum over 1.
    rest_p, rest_q = max(0.0, 1.0 - sum(p)), max(_REST, 1.0 - sum(q))
    total = sum(a * (baseline.top[token] - candidate.top[token]) for token, a in zip(common, p, strict=True) if a > 0)
    if rest_p > 0:
        total += rest_p * math.log(rest_p / rest_q)
    return max(0.0, total)


def token_agreement(
    pairs: Sequence[tuple[str, Sequence[TokenStep], Sequence[TokenStep]]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> TokenAgreement:
    """Over (image_id, baseline steps, candidate steps): how often both like the same token best, and how far their weights lie apart."""
    place = places(image_id for image_id, mine, yours in pairs if mine and yours)
    rows = np.zeros((len(place), 3))
    for image_id, mine, yours in pairs:
        for a, b in shared_positions(mine, yours):
            rows[place[image_id]] += (1, _best(a) == _best(b), kl_from_top(a, b))
    positions = int(rows[:, 0].sum())
    if len(place) < FEWEST_IMAGES:
        none = too_few(len(place))
        return TokenAgreement(none, none, positions)
    found = by_image(rows, _per_position, Resampling(confidence, seed, resamples))
    n = len(place)
    share = float(found.value[0])
    # Full agreement shows the bootstrap no spread.
    low, high = wilson(n * share, n, confidence) if share in (0.0, 1.0) else (float(found.low[0]), float(found.high[0]))
    top1 = Estimate(value=share, low=low, high=high, n=n, unit="share")
    kl = Estimate(value=float(found.value[1]), low=float(found.low[1]), high=float(found.high[1]), n=n, unit="nats")
    return TokenAgreement(top1, kl, positions)


def _best(step: TokenStep) -> str:
    """The likeliest token; the first by name among equals, so that a tie is the same tie on both sides."""
    return min(step.top, key=lambda token: (-step.top[token], token))


def _per_position(sums: Floats) -> Floats:
    ratios: Floats = sums[..., 1:] / sums[..., :1]
    return ratios
