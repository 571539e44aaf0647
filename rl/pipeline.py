"""The training loop: sampling and training side by side, with bounded lag.

    problems --> [ waves in flight ] --> groups, in the order they were asked for --> step --> publish --+
        ^        sample, then score      without signal: dropped, asked for again                       |
        |        unfinished: next wave                                                                  |
        +--------------------------- slots are freed ---------------------------------------------------+

There are (lag + 1) x groups_per_step slots. A group takes one before it is sampled and frees it once it has been
trained on and the new weights are published (or when it is dropped), so a group is trained at most ``lag`` versions
after the one that sampled it. lag = 0 is synchronous training by the same code. Groups are consumed in the order of the
problem stream, whichever is ready first: consuming in order of completion would break the bound.

Where samples are carried over (`rl.rollout`), a group that a wave leaves unfinished gives its slot back, goes on in the
waves after, and takes a slot again when it ends. If a sample can take W waves, at most (W - 1) x groups_per_step groups
are carried over, and no token is older than ``lag`` + 2 (W - 1) versions when it is trained on.

The loop waits for: the oldest wave; the trainer's update, beside which the publish before is made. A wave waits for the
publish before it, then for the engine, then for the rewards. A bad rollout is data and is trained on or left out; an
exception is a bug and ends the run.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rl.journal import Journal, Progress
from rl.rollout import Group, Rollouts
from rl.step import Metrics
from rl.trainer import Trainer

START = Progress()


class NoSignalError(RuntimeError):
    """There is nothing to train on."""

    exit_status = 1


@dataclass(frozen=True)
class PipelineSettings:
    """``dynamic_sampling`` drops groups without signal and samples others in their place, at most ``max_dropped``
    in a row. Evaluation and checkpoints happen every so many steps, 0 for never, and at the end."""

    steps: int
    groups_per_step: int
    lag: int = 1
    dynamic_sampling: bool = False
    max_dropped: int = 1000
    evaluate_every: int = 0
    checkpoint_every: int = 0


class Pipeline:
    """``rollouts`` makes waves of groups; ``publish`` gives the engines what the trainer published; ``evaluate``
    measures the published weights; ``report`` is told each step's metrics. ``stop()`` ends the run after the step in
    hand, with a checkpoint."""

    def __init__(
        self,
        rollouts: Rollouts,
        trainer: Trainer,
        publish: Callable[[Any], Awaitable[None]],
        journal: Journal,
        settings: PipelineSettings,
        *,
        evaluate: Callable[[], Awaitable[Metrics]] | None = None,
        report: Callable[[int, Metrics], None] = lambda step, metrics: None,
        progress: Progress = START,
    ) -> None:
        self.rollouts, self.trainer, self.publish = rollouts, trainer, publish
        self.journal, self.settings, self.evaluate, self.report = journal, settings, evaluate, report
        self.start, self.step = progress, progress.step
        self.used = progress.place - len(progress.begun)
        self.asked = progress.place
        self.waves: deque[asyncio.Task[list[Group]]] = deque()
        self.ready: deque[Group] = deque()
        self.slots = (settings.lag + 1) * settings.groups_per_step
        self.published = asyncio.get_running_loop().create_task(_nothing())
        self.stopping = False

    async def run(self) -> Progress:
        """Trains until the last step or `stop`; returns how far it came."""
        try:
            self._hand_over(asyncio.create_task(self.trainer.publish()))
            self.ready.extend(await self.rollouts.resume(self.start.begun))
            self.slots -= len(self.ready)
            if self.step == 0:
                await self._evaluate({})
            while self.step < self.settings.steps and not self.stopping:
                await self._one_step()
            await self.published
            if self.step not in self.journal.steps():
                await self._checkpoint()
        finally:
            await self._cancel()
        return self.progress()

    def progress(self) -> Progress:
        """Every draw before ``place`` is used or begun, since waves begin them in the order of the stream."""
        begun = tuple(self.rollouts.begun.values())
        return Progress(self.step, self.used + len(begun), begun)

    def stop(self) -> None:
        self.stopping = True

    async def _one_step(self) -> None:
        started = time.perf_counter()
        groups, dropped = await self._next_groups()
        sampled = time.perf_counter()
        metrics, _ = await asyncio.gather(self.trainer.update(groups), self._recorded(groups, dropped))
        trained = time.perf_counter()
        self.step += 1
        self._use(groups)
        self._hand_over(asyncio.create_task(self.trainer.publish()))
        await asyncio.sleep(0)  # it has begun, and is made beside what follows
        self.journal.expert_load(self.step, await self.trainer.expert_load())
        metrics |= rollout_metrics([*groups, *dropped])
        metrics["groups_begun"] = float(len(self.rollouts.begun))
        metrics |= {"seconds_waiting": sampled - started, "seconds_training": trained - sampled}
        if self._due(self.settings.evaluate_every):
            await self._evaluate(metrics)
        metrics["seconds"] = time.perf_counter() - started
        self.journal.metrics(self.step, metrics)
        self.report(self.step, metrics)
        if self.settings.checkpoint_every and self.step % self.settings.checkpoint_every == 0:
            await self._checkpoint()

    async def _recorded(self, groups: Sequence[Group], dropped: Sequence[Group]) -> None:
        """What the next step is trained on; written while the trainer trains on it."""
        self.journal.samples(self.step + 1, dropped, trained=False)
        self.journal.samples(self.step + 1, groups, trained=True)

    async def _next_groups(self) -> tuple[list[Group], list[Group]]:
        """The next groups to train on, and those dropped on the way."""
        kept: list[Group] = []
        dropped: list[Group] = []
        while len(kept) < self.settings.groups_per_step:
            self._fill(self.ready)
            if not self.ready:
                self.ready.extend(await self.waves.popleft())
                continue
            group = self.ready.popleft()
            if group.signal or not self.settings.dynamic_sampling:
                kept.append(group)
                continue
            dropped.append(group)
            self._use([group])
            if len(dropped) >= self.settings.max_dropped:
                check_judged(dropped)
                raise NoSignalError(
                    f"{len(dropped)} groups in a row had no two different scores, so there is nothing to learn from; "
                    "look at samples.jsonl, then choose easier or harder problems or more samples a group"
                )
        check_judged(kept)
        self._fill(())
        return kept, dropped

    def _use(self, groups: Sequence[Group]) -> None:
        self.rollouts.forget(groups)
        self.used += len(groups)
        self.slots += len(groups)

    def _fill(self, waiting: Collection[Group]) -> None:
        """Asks for as many groups as there are free slots, in waves of at most one step's; of less than that only where
        no wave is in flight and nothing is waiting."""
        size = self.settings.groups_per_step
        while self.slots >= size or (self.slots > 0 and not (self.waves or waiting)):
            places = range(self.asked, self.asked + min(self.slots, size))
            self.asked = places.stop
            self.slots -= len(places)
            self.waves.append(asyncio.get_running_loop().create_task(self._wave(places, self.published)))

    async def _wave(self, places: range, published: asyncio.Task[None]) -> list[Group]:
        await asyncio.shield(published)
        groups = await self.rollouts.wave(places)
        self.slots += len(places) - len(groups)
        return groups

    def _hand_over(self, weights: asyncio.Task[Any]) -> None:
        before = self.published

        async def in_order() -> None:
            made = await weights
            await before
            await self.publish(made)

        self.published = asyncio.get_running_loop().create_task(in_order())

    async def _evaluate(self, metrics: Metrics) -> None:
        if self.evaluate is None:
            return
        await self.published
        metrics |= await self.evaluate()
        if self.step == 0:
            self.journal.metrics(0, metrics)
            self.report(0, metrics)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.settings.steps)

    async def _checkpoint(self) -> None:
        with self.journal.checkpoint(self.progress()) as folder:
            await self.trainer.save(folder)

    async def _cancel(self) -> None:
        tasks = [*self.waves, self.published]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_judged(groups: Sequence[Group]) -> None:
    """Raises NoSignalError where not one sample of these groups could be judged."""
    scores = [score for group in groups for score in group.scores]
    if all(score.value is None for score in scores):
        raise NoSignalError(
            f"none of {len(scores)} samples could be judged, so there is nothing to learn from; the first: "
            f"{'; '.join(scores[0].detail.splitlines())}. Put that right, then continue with --resume"
        )


def rollout_metrics(groups: Sequence[Group]) -> Metrics:
    """What was sampled, whether or not it is trained on. Rewards are means over the samples that could be judged."""
    completions = list(itertools.chain.from_iterable(group.completions for group in groups))
    scores = list(itertools.chain.from_iterable(group.scores for group in groups))
    judged = [score.value for score in scores if score.value is not None]
    parts: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score.parts.items():
            parts.setdefault(name, []).append(value)
    return {
        "reward": _mean(judged),
        **{f"reward/{name}": _mean(values) for name, values in sorted(parts.items())},
        "not_judged": 1 - len(judged) / max(1, len(scores)),
        "groups_without_signal": _mean([float(not group.signal) for group in groups]),
        "response_tokens": _mean([float(len(c.token_ids)) for c in completions]),
        "response_tokens_max": float(max((len(c.token_ids) for c in completions), default=0)),
        "cut_off": _mean([float(c.finish_reason == "length") for c in completions]),
        "carried_over": _mean([float(len(set(c.versions)) > 1) for c in completions]),
        "versions": _mean([float(len(set(c.versions))) for c in completions]),
        "samples": float(len(completions)),
        "tokens_sampled": float(sum(len(c.token_ids) for c in completions)),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


async def _nothing() -> None:
    return None
