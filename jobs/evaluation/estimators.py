"""What is reported of 0/1 scores, as small pure functions: pass@k, intervals and paired tests.

A problem is the unit of chance: samples of one problem are no independent evidence, so intervals and tests resample or
flip whole problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_BATCH = 500


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that of ``k`` samples drawn without replacement from ``samples``, ``right`` of them right, at least
    one is right: unbiased for pass@k (Chen et al. 2021, arXiv:2107.03374, equation 1), as a product that cannot
    overflow."""
    if not 0 < k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}")
    if samples - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - right + 1, samples + 1))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval (95 %) of the mean over problems."""
    means = np.sort(_resampled_means(np.asarray(values, dtype=np.float64), np.random.default_rng(seed)))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = len(values)
    batches = (rng.integers(0, count, (_BATCH, count)) for _ in range(RESAMPLES // _BATCH))
    return np.concatenate([values[chosen].mean(1) for chosen in batches])


def paired_p_value(differences: Sequence[float], seed: int = 0) -> float:
    """The two-sided p-value of "both are equally good" from each problem's difference, by flipping signs.

    Where all differences that are not zero have one size, as with a single 0/1 sample a problem, it is exact and is
    McNemar's exact test; else it is estimated from random flips, the observed one counted among them.
    """
    moved = np.asarray([d for d in differences if d != 0], dtype=np.float64)
    if not len(moved):
        return 1.0
    sizes = np.abs(moved)
    if np.allclose(sizes, sizes[0]):
        fewer = int(min((moved > 0).sum(), (moved < 0).sum()))
        tail = sum(math.comb(len(moved), i) for i in range(fewer + 1))
        return float(min(1.0, 2 * tail / 2 ** len(moved)))
    rng = np.random.default_rng(seed)
    observed, as_large = abs(moved.sum()), 0
    for _ in range(RESAMPLES // _BATCH):
        flips = rng.integers(0, 2, (_BATCH, len(moved))) * 2 - 1
        as_large += int((np.abs(flips @ moved) >= observed - 1e-12).sum())
    return (as_large + 1) / (RESAMPLES + 1)


def votes(answers: Sequence[str], same: Sequence[int], right: Sequence[float]) -> float:
    """The score of the most frequent answer (cons@k). ``same`` numbers the answers by what they say; among equally
    frequent ones each is as likely to be taken. An empty answer has no vote; without any vote the score is 0."""
    counts: dict[int, list[float]] = {}
    for answer, group, score in zip(answers, same, right, strict=True):
        if answer:
            counts.setdefault(group, []).append(score)
    most = max((len(scores) for scores in counts.values()), default=0)
    winners = [scores[0] for scores in counts.values() if len(scores) == most]
    return sum(winners) / len(winners) if winners else 0.0
