"""A rollout: sample a group of completions for each problem, score them, set them against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.engine import Completion, Engine, Request, Sampling
from rewards import Reward, Sample, Score
from rl.advantage import group_advantages, has_signal
from rl.problems import Draw


@dataclass(frozen=True)
class Group:
    """One problem's completions with their scores and advantages, index by index. An advantage is None where the
    sample takes no part in training: it could not be judged, or it was cut off and `mask_truncated` is on."""

    draw: Draw
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]
    advantages: tuple[float | None, ...]

    @property
    def values(self) -> list[float | None]:
        return [score.value for score in self.scores]

    @property
    def signal(self) -> bool:
        return has_signal(self.values) and any(a is not None for a in self.advantages)


@dataclass(frozen=True)
class RolloutSettings:
    """How groups are made: ``samples`` completions a group; ``by_std`` see `group_advantages`; ``mask_truncated``
    leaves completions that spent their budget out of training (DAPO's overlong filtering)."""

    samples: int
    sampling: Sampling
    by_std: bool = True
    mask_truncated: bool = False
    seed: int = 0


async def rollout(
    draws: Sequence[Draw],
    encode: Callable[[Draw], tuple[int, ...]],
    engine: Engine,
    reward: Reward,
    settings: RolloutSettings,
) -> list[Group]:
    """One wave of groups, in the order of ``draws``. ``encode`` gives a draw's prompt tokens."""
    prompts = [encode(draw) for draw in draws]
    requests = [
        Request(ids, tuple(sample_seed(settings.seed, draw.sample_id(copy)) for copy in range(settings.samples)))
        for draw, ids in zip(draws, prompts, strict=True)
    ]
    completed = await engine.generate(requests, settings.sampling)
    samples = [
        Sample(draw.problem.fields, completion.text)
        for draw, group in zip(draws, completed, strict=True)
        for completion in group
    ]
    scores = iter(await reward(samples))
    groups = []
    for draw, ids, completions in zip(draws, prompts, completed, strict=True):
        own = tuple(next(scores) for _ in completions)
        advantages = group_advantages([score.value for score in own], by_std=settings.by_std)
        if settings.mask_truncated:
            advantages = [
                None if completion.finish_reason == "length" else advantage
                for completion, advantage in zip(completions, advantages, strict=True)
            ]
        groups.append(Group(draw, ids, tuple(completions), own, tuple(advantages)))
    return groups


def sample_seed(run_seed: int, sample_id: str) -> int:
    """The 64-bit seed of one sample: a function of the run's seed and the sample's id, and of nothing else."""
    return int.from_bytes(hashlib.blake2b(f"{run_seed}/{sample_id}".encode(), digest_size=8).digest(), "big")
