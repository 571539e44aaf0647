"""What a reward model learns from, pairs and labelled points, and what it is judged by on held-out ones.

The model's score of a sequence is a logit. Of a pair it should give the preferred one the higher (Bradley and Terry,
1952; Ouyang et al., arXiv:2203.02155, equation 1); a point's label is its sigmoid (DeepSeek-R1, arXiv:2501.12948, has
both: pairs for helpfulness, points for safety).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.reward import Bundle, RewardPolicy, Scored, bundle, lay
from model.segments import fill
from rl.step import Metrics

Ids = tuple[int, ...]
BINS = 10
"""Of the reliability table."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, each laid out with it. ``margin`` is in logits (Llama 2, arXiv:2307.09288, equation
    2)."""

    chosen: Ids
    rejected: Ids
    margin: float = 0.0

    @property
    def bundle(self) -> Bundle:
        return bundle([self.chosen, self.rejected])

    @property
    def tokens(self) -> int:
        return self.bundle.tokens


@dataclass(frozen=True)
class Point:
    """``label`` from 0 (bad) to 1 (good)."""

    answer: Ids
    label: float

    @property
    def bundle(self) -> Bundle:
        return Bundle((), (self.answer,))

    @property
    def tokens(self) -> int:
        return len(self.answer)


Preference = Pair | Point


def pairwise_loss(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    """-log P(chosen is preferred), [n] in nats: P = sigmoid(chosen - rejected - margin)."""
    return -F.logsigmoid(chosen - rejected - margins)


def pointwise_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of labels under sigmoid(score), [n] in nats."""
    return F.binary_cross_entropy_with_logits(scores, labels, reduction="none")


def losses(scores: Tensor, preferences: Sequence[Preference]) -> Tensor:
    """scores [S] in the order of the preferences' sequences -> losses [len(preferences)], pairs before points."""
    pairs: list[int] = []
    points: list[int] = []
    start = 0
    for each in preferences:
        (pairs if isinstance(each, Pair) else points).append(start)
        start += 2 if isinstance(each, Pair) else 1
    first, single = torch.tensor(pairs, dtype=torch.int64), torch.tensor(points, dtype=torch.int64)
    margins = torch.tensor([each.margin for each in preferences if isinstance(each, Pair)], device=scores.device)
    labels = torch.tensor([each.label for each in preferences if isinstance(each, Point)], device=scores.device)
    return torch.cat([pairwise_loss(scores[first], scores[first + 1], margins), pointwise_loss(scores[single], labels)])


def pack(preferences: Sequence[Preference], max_tokens: int) -> list[list[Preference]]:
    """Micro-batches, by length, so that the rows of one are nearly even."""
    return fill(sorted(preferences, key=lambda each: -each.tokens), max_tokens)


def forward(policy: RewardPolicy, preferences: Sequence[Preference]) -> Scored:
    tokens, segments = lay([each.bundle for each in preferences], policy.model.device)
    scored: Scored = policy.wrapped(tokens, segments)
    return scored


def update(policy: RewardPolicy, preferences: Sequence[Preference], max_tokens: int) -> Metrics:
    """One optimizer step on the mean over preferences."""
    total = 0.0
    for part in pack(preferences, max_tokens):
        out = forward(policy, part)
        loss = losses(out.scores, part).sum() / len(preferences)
        policy.backward(loss, out.routing)
        total += float(loss.detach())
    return {"loss": total, **policy.apply(), "preferences": float(len(preferences))}


@torch.no_grad()
def judged(
    policy: RewardPolicy, preferences: Sequence[Preference], max_tokens: int
) -> list[tuple[Preference, list[float]]]:
    """Each preference with the scores of its sequences."""
    found: list[tuple[Preference, list[float]]] = []
    for part in pack(preferences, max_tokens):
        scores = iter(forward(policy, part).scores.tolist())
        found += [(each, [next(scores) for _ in each.bundle.rests]) for each in part]
    return found


def measured(found: Sequence[tuple[Preference, list[float]]]) -> dict[str, Any]:
    """What a reward model is worth on held-out preferences.

    Pairs: ``accuracy`` with its Wilson interval at 95 %; how often the longer answer is the preferred one; calibration
    of P(preferred) over the side that the model takes. Points: accuracy at 1/2 and calibration of the label. All:
    the loss, and the correlation of score and length over answers (and, of a pair, of their differences)."""
    pairs = [(each, scores) for each, scores in found if isinstance(each, Pair)]
    points = [(each, scores[0]) for each, scores in found if isinstance(each, Point)]
    loss = [losses(torch.tensor(scores), [each]).item() for each, scores in found]
    result: dict[str, Any] = {"loss": math.fsum(loss) / len(loss)}
    if pairs:
        gaps = np.array([scores[0] - scores[1] for _, scores in pairs])
        longer = np.array([len(each.chosen) - len(each.rejected) for each, _ in pairs])
        right = float((gaps > 0).sum() + 0.5 * (gaps == 0).sum())
        sure = 1 / (1 + np.exp(-np.abs(gaps)))
        result["pairs"] = {
            "count": len(pairs),
            "accuracy": right / len(pairs),
            "interval": wilson(right, len(pairs)),
            "longer_preferred": float((longer > 0).mean()),
            "length_correlation": correlation(gaps, longer),
            **reliability(sure, gaps > 0),
        }
    if points:
        p = 1 / (1 + np.exp(-np.array([score for _, score in points])))
        labels = np.array([each.label for each, _ in points])
        right = float(((p > 0.5) == (labels > 0.5)).sum())
        result["points"] = {
            "count": len(points),
            "accuracy": right / len(points),
            "interval": wilson(right, len(points)),
            **reliability(p, labels),
        }
    lengths = [len(rest) for each, _ in found for rest in each.bundle.rests]
    result["length_correlation"] = correlation([score for _, scores in found for score in scores], lengths)
    return result


def good_scores(found: Sequence[tuple[Preference, list[float]]]) -> list[float]:
    """The scores of the answers that people preferred, or labelled good."""
    return [scores[0] for each, scores in found if isinstance(each, Pair) or each.label > 0.5]


def wilson(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson, 1927), by default at 95 %."""
    share, scale = right / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def reliability(confidence: Any, outcome: Any) -> dict[str, Any]:
    """The expected calibration error (Guo et al., arXiv:1706.04599) over equal bins, and the table behind it: for each
    bin that is not empty its count, mean confidence and mean outcome."""
    confidence, outcome = np.asarray(confidence, dtype=float), np.asarray(outcome, dtype=float)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    table = [
        {"count": int(at.sum()), "confidence": float(confidence[at].mean()), "outcome": float(outcome[at].mean())}
        for at in (place == i for i in range(BINS))
        if at.any()
    ]
    error = sum(row["count"] * abs(row["confidence"] - row["outcome"]) for row in table) / len(confidence)
    return {"calibration_error": error, "reliability": table}


def correlation(first: Any, second: Any) -> float:
    """Pearson's; 0 where one of them does not vary."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
