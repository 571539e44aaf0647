"""A reward model as a reward: for what no rule can check.

A learned reward is right where its preferences were, and a policy that is trained on it long enough leaves that place:
the score goes on rising while what people meant falls (Gao et al., arXiv:2210.10760). The score is therefore capped at
a quantile of what the model gave preferred answers on held-out lines: an answer as good as those is good enough, and
nothing is won by going beyond (the threshold on a proxy of Moskovitz et al., arXiv:2310.04373; bounding as in Fu et
al., arXiv:2502.18770). The cap ends the pressure; that the policy then stays where it is takes a KL to a reference.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rewards.errors import BadProblem, BadSetting
from rewards.protocol import Sample, Score

if TYPE_CHECKING:
    from model.reward import RewardModel


class LearnedReward:
    """``model`` is a folder that `zeroth reward-model` made.

    The value is the model's score, less the mean of held-out answers and over their deviation, and at most that of the
    ``cap_quantile`` of preferred ones; 0 leaves it without a cap. ``parts``: "raw", the model's score, and "capped", 1
    where the cap took something away. What comes while a batch is scored makes the next batch; ``max_tokens`` bounds
    what is in the model at once.
    """

    def __init__(
        self,
        model: str,
        cap_quantile: float = 0.3,
        precision: Literal["fp32", "bf16", "fp8"] = "fp32",
        max_tokens: int = 16384,
    ) -> None:
        from model import reward

        if not 0 <= cap_quantile <= 1:
            raise BadSetting(f"learned: cap_quantile is a share from 0 to 1, not {cap_quantile}")
        try:
            self.card = reward.card(Path(model))
        except ValueError as error:
            raise BadSetting(f"learned: {error}") from None
        if cap_quantile and not self.card.quantiles:
            raise BadSetting(f"learned: {model}: the card has no quantiles of held-out answers to cap at")
        self.folder, self.precision, self.max_tokens = Path(model), precision, max_tokens
        self.cap = self.card.quantiles[round(100 * cap_quantile)] if cap_quantile else math.inf
        self._waiting: list[tuple[Sequence[Sample], asyncio.Future[list[Score]]]] = []
        self._running: asyncio.Task[None] | None = None

    @cached_property
    def model(self) -> RewardModel:
        """Loaded when the first sample comes, in the process that scores."""
        from model.reward import RewardModel

        return RewardModel(self.folder, self.precision, self.max_tokens)

    def check(self, problem: Mapping[str, Any]) -> None:
        if not isinstance(problem.get("prompt"), str | list | tuple) or not problem["prompt"]:
            raise BadProblem('"learned" reads the problem\'s "prompt", which is missing')

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        answer: asyncio.Future[list[Score]] = asyncio.get_running_loop().create_future()
        self._waiting.append((samples, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await answer

    async def close(self) -> None:
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                scores = iter(await asyncio.to_thread(self._score, [each for samples, _ in taken for each in samples]))
            except Exception as error:  # noqa: BLE001  whoever waits is told
                for _, answer in taken:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for samples, answer in taken:
                given = [next(scores) for _ in samples]
                if not answer.done():
                    answer.set_result(given)

    def _score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._shaped(raw) for raw in self.model.scores([(s.problem["prompt"], s.response) for s in samples])]

    def _shaped(self, raw: float | None) -> Score:
        if raw is None:
            return Score(None, "error", detail="prompt and response are longer than the reward model's context")
        if not math.isfinite(raw):
            return Score(None, "error", detail="the reward model's score is not finite")
        value = (min(raw, self.cap) - self.card.mean) / self.card.deviation
        return Score(value, parts={"raw": raw, "capped": float(raw > self.cap)})
