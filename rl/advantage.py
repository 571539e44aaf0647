"""Group-relative advantages (DeepSeekMath, arXiv:2402.03300, section 4.1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

STD_FLOOR = 1e-6


def group_advantages(values: Sequence[float | None], *, by_std: bool) -> list[float | None]:
    """Each score of a group minus the group's mean, over its standard deviation if ``by_std`` (GRPO) or as it is
    (Dr. GRPO, arXiv:2503.20783, which removes the bias towards questions of little spread).

    None marks a sample that could not be judged: it gets None and moves neither mean nor deviation.
    """
    known = [v for v in values if v is not None]
    if not known:
        return [None] * len(values)
    mean = math.fsum(known) / len(known)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / len(known))
    scale = 1 / (std + STD_FLOOR) if by_std else 1.0
    return [None if v is None else (v - mean) * scale for v in values]


def has_signal(values: Sequence[float | None]) -> bool:
    """Whether any two judged samples of a group differ; else every advantage is zero (DAPO, arXiv:2503.14476,
    section 3.2)."""
    known = [v for v in values if v is not None]
    return bool(known) and max(known) - min(known) > STD_FLOOR
