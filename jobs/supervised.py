"""The loop of every trainer that learns from a file: pretraining, fine-tuning, reward models.

    a shuffled order of items --> update --> metrics --> evaluation and checkpoint, every so many steps

It resumes at the last checkpoint: the order depends on the seed and the step alone, so the weights are those of a run
that was never killed. The first Ctrl-C (or SIGTERM, as `ray job stop` sends) ends it after the step in hand, with a
checkpoint; a second one ends it at once.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import config, console, memory
from jobs.config import RunRecipe, RunTable

if TYPE_CHECKING:
    from model.policy import Policy
    from rl.step import Metrics


@dataclass(frozen=True)
class Course:
    """``steps`` updates on ``batch`` of ``items`` each; evaluation every ``evaluate_every`` steps, before the first and
    after the last (0: never)."""

    title: str
    recipe: RunRecipe
    steps: int
    items: int
    batch: int
    evaluate_every: int = 0

    @property
    def run(self) -> RunTable:
        return self.recipe.run

    def batches(self) -> Iterator[list[int]]:
        """Indices of items, shuffled anew each epoch, without end."""
        for epoch in itertools.count():
            order = list(range(self.items))
            random.Random(f"{self.run.seed}/{epoch}").shuffle(order)
            for start in range(0, self.items - self.batch + 1, self.batch) if self.items >= self.batch else [0]:
                yield order[start : start + self.batch]

    def evaluates(self, step: int) -> bool:
        return self.evaluate_every > 0 and (step % self.evaluate_every == 0 or step == self.steps)


@contextmanager
def begun(run: RunTable, threads: int | None, *, resume: bool) -> Iterator[None]:
    """The run directory as `config.begun` gives it, and as many threads as the recipe says."""
    import torch

    with config.begun(run, resume=resume):
        torch.set_num_threads(threads or torch.get_num_threads())
        yield


def train(
    course: Course,
    policy: Policy,
    update: Callable[[list[int]], Metrics],
    evaluate: Callable[[], Metrics] = lambda: {},
) -> Path:
    """A whole run; returns the folder of the last checkpoint. Raises Interrupted where the user ended it."""
    from jobs import trackers
    from rl.journal import Journal, Progress, write_checkpoint

    memory.keep_freed()  # and not before: threads that encode texts would wait for each other to allocate
    journal = Journal(course.run.dir, course.run.keep_checkpoints, f"{course.items} samples")
    with journal.resuming() as (folder, progress):
        if folder is not None:
            policy.restore(folder)
    config.settle(course.recipe)
    done = progress.step
    with (
        _stopping() as stopping,
        console.progress() as bar,
        trackers.opened(course.run.trackers, course.run.dir, done) as tracking,
    ):
        task = bar.add_task(course.title, total=course.steps, completed=done, note="")
        validated: Metrics = {}

        def report(step: int, metrics: Metrics) -> None:
            journal.metrics(step, metrics)
            for tracker in tracking:
                tracker.log(step, metrics)
            validated.update({name: value for name, value in metrics.items() if name.startswith("validation/")})
            note = "  ".join(f"{n.removeprefix('validation/')} {v:.3f}" for n, v in _shown(metrics, validated))
            bar.update(task, completed=step, note=note)
            console.tell(course.title, step, course.steps, note, every=100)

        if done == 0 and course.evaluates(0):
            report(0, evaluate())
        for chosen in itertools.islice(course.batches(), done, course.steps):
            started = time.perf_counter()
            metrics = update(chosen)
            metrics["seconds"] = time.perf_counter() - started
            done += 1
            journal.expert_load(done, policy.take_load())
            report(done, {**metrics, **evaluate()} if course.evaluates(done) else metrics)
            if course.run.checkpoint_every and done % course.run.checkpoint_every == 0:
                write_checkpoint(journal, Progress(done, done), policy.save)
            if stopping:
                break
    folder = write_checkpoint(journal, Progress(done, done), policy.save)
    console.say(f"checkpoint {folder}")
    if done < course.steps:
        raise console.Interrupted(done, course.steps)
    return folder


def _shown(metrics: Metrics, validated: Metrics) -> Iterator[tuple[str, float]]:
    if "loss" in metrics:
        yield "loss", metrics["loss"]
    for name, value in validated.items():
        yield ("held-out loss" if name == "validation/loss" else name), value


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """A list that a first signal fills."""
    seen: list[int] = []

    def first(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, signal.default_int_handler)
        console.say("finishing the step in hand, then saving; again to stop at once")

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
