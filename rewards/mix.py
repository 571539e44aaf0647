"""Several rewards as one: the weighted sum, with every part logged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.errors import BadSetting
from rewards.protocol import Reward, Sample, Score, Status


class Mix:
    """The weighted sum of named rewards.

    ``parts`` holds each component's unweighted value under its name, and its own parts under ``name/part``. When a
    component could not judge a sample, the sum is unknown too: the Score has no value, the first such component's
    status, and the parts that are known.
    """

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        if not rewards or set(rewards) != set(weights):
            raise BadSetting(f"a mix needs one weight for each reward, not {sorted(rewards)} with {sorted(weights)}")
        self.rewards = dict(rewards)
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def check(self, problem: Mapping[str, Any]) -> None:
        """Raises BadProblem where any component's need is not met."""
        for reward in self.rewards.values():
            check = getattr(reward, "check", None)
            if check is not None:
                check(problem)

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        columns = await asyncio.gather(*(reward(samples) for reward in self.rewards.values()))
        return [self._sum(dict(zip(self.rewards, row, strict=True))) for row in zip(*columns, strict=True)]

    async def close(self) -> None:
        await asyncio.gather(*(reward.close() for reward in self.rewards.values()))

    def _sum(self, scores: Mapping[str, Score]) -> Score:
        parts: dict[str, float] = {}
        for name, score in scores.items():
            if score.value is not None:
                parts[name] = score.value
            parts.update({f"{name}/{part}": value for part, value in score.parts.items()})
        detail = "\n".join(f"{name}: {score.detail}" for name, score in scores.items() if score.detail)
        failed: Status | None = next((score.status for score in scores.values() if score.status != "ok"), None)
        if failed is not None:
            return Score(None, failed, parts, detail)
        return Score(sum(self.weights[name] * parts[name] for name in scores), "ok", parts, detail)


def mix(weights: Mapping[str, float], settings: Mapping[str, Mapping[str, Any]] | None = None) -> Mix:
    """The weighted sum of rewards by name, as ``mix({"math": 1.0, "format": 0.2})``.

    ``settings`` gives keyword settings by reward name. Raises what ``find`` raises.
    """
    from rewards.table import find

    unknown = set(settings or {}) - set(weights)
    if unknown:
        raise BadSetting(f"settings for rewards that are not in the mix: {sorted(unknown)}")
    rewards = {name: find(name, **dict((settings or {}).get(name, {}))) for name in weights}
    return Mix(rewards, weights)
