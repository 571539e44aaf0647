"""A rollout: sample a group of completions for each problem, score them, set them against each other."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from model.engine import Completion, Engine, Request, Sampling
from rewards import Reward, Sample, Score
from rl.advantage import group_advantages, has_signal
from rl.problems import Draw, Stream


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
class Begun:
    """The group of the draw at ``place`` of the stream in the making: each sample as far as it has come, None where
    nothing is sampled yet."""

    place: int
    completions: tuple[Completion | None, ...]

    @property
    def going(self) -> list[int]:
        """The samples that have not ended."""
        return [i for i, c in enumerate(self.completions) if c is None or c.finish_reason == "paused"]

    @property
    def ended(self) -> list[Completion]:
        return [c for c in self.completions if c is not None and c.finish_reason != "paused"]


@dataclass(frozen=True)
class RolloutSettings:
    """How groups are made: ``samples`` completions a group, ``sampling`` with a `pause_after` where samples are to be
    carried over; ``by_std`` see `group_advantages`; ``mask_truncated`` leaves completions that spent their budget out
    of training (DAPO's overlong filtering)."""

    samples: int
    sampling: Sampling
    by_std: bool = True
    mask_truncated: bool = False
    seed: int = 0


class Rollouts:
    """Makes the groups of a stream, a wave at a time. ``encode`` gives a draw's prompt tokens.

    Where `Sampling.pause_after` pauses samples, a group that has not ended goes on in the next wave from what it has,
    under the weights of that time, and comes back from the wave in which its last sample ends (partial rollouts,
    arXiv:2501.12599). Waves then take turns with the engine. ``begun`` are the groups of which something is sampled, by
    place, until `forget` takes them out: what a run must keep to lose nothing.
    """

    def __init__(
        self,
        stream: Stream,
        encode: Callable[[Draw], tuple[int, ...]],
        engine: Engine,
        reward: Reward,
        settings: RolloutSettings,
    ) -> None:
        self.stream, self.encode, self.engine, self.reward, self.settings = stream, encode, engine, reward, settings
        self.begun: dict[int, Begun] = {}
        self.turn = asyncio.Lock()

    async def wave(self, places: Iterable[int]) -> list[Group]:
        """Begins the groups at these places, and goes on with those begun before; returns the groups that have ended,
        in the order of the stream."""
        new = [Begun(place, (None,) * self.settings.samples) for place in places]
        if self.settings.sampling.pause_after is None and not self.begun:
            return await self._judged(await self._sampled(new))
        async with self.turn:
            wave = await self._sampled([*(group for group in self.begun.values() if group.going), *new])
            self.begun |= {group.place: group for group in wave}
        return await self._judged([group for group in wave if not group.going])

    async def resume(self, begun: Iterable[Begun]) -> list[Group]:
        """Takes over what another run has begun; returns the groups of it that have ended."""
        self.begun = {group.place: group for group in begun}
        return await self._judged([group for group in self.begun.values() if not group.going])

    def forget(self, groups: Sequence[Group]) -> None:
        """These groups have been used."""
        for group in groups:
            self.begun.pop(group.draw.place, None)

    async def _sampled(self, groups: Sequence[Begun]) -> list[Begun]:
        """The groups, with what one call of the engine adds to them."""
        requests = [self._request(group) for group in groups]
        sampled = await self.engine.generate(requests, self.settings.sampling)
        grown = []
        for group, new in zip(groups, sampled, strict=True):
            completions = list(group.completions)
            for i, completion in zip(group.going, new, strict=True):
                completions[i] = completion
            grown.append(Begun(group.place, tuple(completions)))
        return grown

    def _request(self, group: Begun) -> Request:
        draw, going = self.stream[group.place], group.going
        seeds = tuple(sample_seed(self.settings.seed, draw.sample_id(copy)) for copy in going)
        return Request(self.encode(draw), seeds, tuple(group.completions[copy] for copy in going))

    async def _judged(self, ended: Sequence[Begun]) -> list[Group]:
        draws = [self.stream[group.place] for group in ended]
        samples = [
            Sample(draw.problem.fields, completion.text)
            for draw, group in zip(draws, ended, strict=True)
            for completion in group.ended
        ]
        scores = iter(await self.reward(samples) if samples else ())
        return [
            self._group(draw, group.ended, [next(scores) for _ in group.ended])
            for draw, group in zip(draws, ended, strict=True)
        ]

    def _group(self, draw: Draw, completions: Sequence[Completion], scores: Sequence[Score]) -> Group:
        advantages = group_advantages([score.value for score in scores], by_std=self.settings.by_std)
        if self.settings.mask_truncated:
            advantages = [
                None if completion.finish_reason == "length" else advantage
                for completion, advantage in zip(completions, advantages, strict=True)
            ]
        return Group(draw, self.encode(draw), tuple(completions), tuple(scores), tuple(advantages))


def sample_seed(run_seed: int, sample_id: str) -> int:
    """The 64-bit seed of one sample: a function of the run's seed and the sample's id, and of nothing else."""
    return int.from_bytes(hashlib.blake2b(f"{run_seed}/{sample_id}".encode(), digest_size=8).digest(), "big")
