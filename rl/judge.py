"""Scores the completions of many problems, each by the reward that it names, with what a recipe adds to all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from rewards import Reward, Sample, Score, check_problem, find
from rewards.mix import Mix
from rl.problems import Problem, ProblemError


class Judge:
    """``added`` are rewards that every problem gets beside its own, by name and weight; a problem's own has weight 1.

    Parts are logged as "accuracy" (the problem's own reward) and under the added rewards' names.
    """

    def __init__(
        self,
        names: Iterable[str],
        added: Mapping[str, float],
        settings: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        options = settings or {}
        extra = {name: find(name, **options.get(name, {})) for name in added}
        self.own: dict[str, Reward] = {name: find(name, **options.get(name, {})) for name in sorted(set(names))}
        self.extra = extra
        self.mixed = {
            name: Mix({"accuracy": own, **extra}, {"accuracy": 1.0, **added}) for name, own in self.own.items()
        }

    def check(self, problems: Sequence[Problem], source: str) -> None:
        """Raises ProblemError, naming ``source`` and the problem, where a problem lacks what its reward needs."""
        for problem in problems:
            for reward in (self.own[problem.reward], *self.extra.values()):
                try:
                    check_problem(reward, problem.fields)
                except ValueError as error:
                    raise ProblemError(f"{source}: problem {problem.id!r}: {error}") from None

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        places: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            places.setdefault(str(sample.problem["reward"]), []).append(i)
        judged = await asyncio.gather(*(self.mixed[name]([samples[i] for i in at]) for name, at in places.items()))
        scores: dict[int, Score] = {}
        for at, found in zip(places.values(), judged, strict=True):
            scores.update(zip(at, found, strict=True))
        return [scores[i] for i in range(len(samples))]

    async def close(self) -> None:
        for reward in (*self.own.values(), *self.extra.values()):
            await reward.close()
