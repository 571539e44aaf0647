"""`zeroth grpo`: group relative policy optimisation from a base checkpoint, with verifiable rewards."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from rich.progress import Progress as Bar

from jobs import config, console
from jobs.config import GrpoRecipe
from jobs.options import DryRun, Overrides, RecipeArgument, Resume


def command(
    recipe: RecipeArgument, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = False
) -> None:
    """Train a policy by GRPO on problems with verifiable rewards."""
    path = config.find(recipe)
    resolved = config.read(path, GrpoRecipe, overrides or [])
    if dry_run:
        checked(resolved, resume=resume)
        sys.stdout.write(resolved_text(resolved))
        return
    train(resolved, resume=resume)


def resolved_text(recipe: config.Table) -> str:
    import tomli_w

    return tomli_w.dumps(config.resolved(recipe))


@dataclass(frozen=True)
class Checked:
    """What was read and found usable before anything starts."""

    problems: Any
    make_judge: Callable[[], Any]
    encode: Callable[[Any], tuple[int, ...]]

    @property
    def text(self) -> tuple[int, ...]:
        """Tokens that mean something to the model: those of the first prompts."""
        from model.probe import LONGEST
        from rl.problems import Draw

        return tuple(chain.from_iterable(self.encode(Draw(p, -1)) for p in self.problems.train[:LONGEST]))[:LONGEST]


def checked(recipe: GrpoRecipe, *, resume: bool) -> Checked:
    """Reads everything that a run needs and raises for the first thing that it cannot use."""
    from jobs import parts
    from model import checkpoint
    from model.chat import Layout
    from rewards import UnknownReward
    from rl.judge import Judge

    config.check_run(recipe.run, resume=resume)
    model, tokenizer = checkpoint.shape(recipe.base)
    parts.check_engine(recipe, model)
    problems = parts.load_problems(recipe)
    limit, encode = model.max_position_embeddings, parts.encoder(Layout(tokenizer, recipe.data.template))
    files = ((problems.train, str(recipe.data.train)), (problems.held_out, str(recipe.data.held_out)))
    for part, source in files:
        parts.check_lengths(part, encode, limit, source)
    parts.check_reward_settings(recipe, problems.rewards)
    make_judge = partial(Judge, problems.rewards, recipe.reward.added, parts.reward_settings(recipe))
    try:
        judge = make_judge()
    except UnknownReward as error:
        users = (f"{source}: problem {p.id!r}" for part, source in files for p in part if p.reward == error.name)
        raise config.RecipeError(f"{next(users, 'reward.added')}: {error}") from None
    for part, source in files:
        judge.check(part, source)
    asyncio.run(judge.close())
    return Checked(problems, make_judge, encode)


def train(recipe: GrpoRecipe, *, resume: bool) -> None:
    """A whole run, on Ray."""
    from jobs import cluster, report

    ready = checked(recipe, resume=resume)
    table = recipe.cluster
    places = table.trainers * table.trainer_threads + table.rollout_workers * table.rollout_threads
    places += table.reward_workers
    gpus = table.trainers * table.gpus_per_trainer + table.rollout_workers * table.gpus_per_rollout_worker
    with config.begun(recipe.run, resume=resume):
        with console.console.status("starting Ray"), cluster.connect(table.address, places) as ray:
            ray.require(places, gpus)
            trainer = ray.trainer(recipe, ready.text)
            engine = ray.engine(recipe, trainer)
            reward = ray.reward(ready.make_judge, table.reward_workers)
            with console.progress() as bar:
                done = asyncio.run(drive(recipe, ready, trainer, engine, reward, bar))
        page = report.write(recipe.run.dir)
    last = recipe.run.dir / "checkpoints" / f"step-{done}"
    console.say(f"checkpoint {last}\nreport     {page}")
    if done < recipe.train.steps:
        raise console.Interrupted(done, recipe.train.steps)


async def drive(recipe: GrpoRecipe, ready: Checked, trainer: Any, engine: Any, reward: Any, bar: Bar) -> int:
    """Builds the pipeline around the parts, wherever they run, and runs it; returns the steps done."""
    from jobs import parts, trackers
    from rl.journal import Journal
    from rl.pipeline import Pipeline
    from rl.problems import Stream
    from rl.rollout import Rollouts

    stream = Stream(ready.problems.train, recipe.run.seed)
    journal = Journal(recipe.run.dir, recipe.run.keep_checkpoints, stream.order)
    with journal.resuming() as (folder, progress):
        if folder is not None:
            await trainer.restore(folder)
    config.settle(recipe)
    settings = parts.rollout_settings(recipe)
    task = bar.add_task("grpo", total=recipe.train.steps, completed=progress.step, note="")

    evaluated: dict[str, float] = {}

    def report(step: int, metrics: dict[str, float]) -> None:
        for tracker in tracking:
            tracker.log(step, metrics)
        evaluated.update({name: value for name, value in metrics.items() if name.startswith("held_out/")})
        bar.update(task, completed=step, note=note({**evaluated, **metrics}))
        console.tell("grpo", step, recipe.train.steps, note({**evaluated, **metrics}), every=10)

    with trackers.opened(recipe.run.trackers, recipe.run.dir, progress.step) as tracking:
        pipeline = Pipeline(
            Rollouts(stream, ready.encode, engine, reward, settings),
            trainer,
            engine.publish,
            journal,
            parts.pipeline_settings(recipe),
            evaluate=partial(parts.evaluation, recipe, ready.problems.held_out, ready.encode, engine, reward)
            if recipe.evaluate.every
            else None,
            report=report,
            progress=progress,
        )
        stop_on_signals(pipeline.stop)
        try:
            done = await pipeline.run()
        finally:
            await reward.close()
        await engine.close()
    return done.step


def note(metrics: dict[str, float]) -> str:
    """The few numbers that say how a run is going."""
    shown = [f"{n.removeprefix('held_out/')} {v:.0%}" for n, v in metrics.items() if n.startswith("held_out/greedy")]
    if "reward" in metrics:
        shown.insert(0, f"reward {metrics['reward']:.2f}")
    if metrics.get("not_judged"):
        shown.append(f"not judged {metrics['not_judged']:.0%}")
    return "  ".join(shown)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """The first Ctrl-C (or SIGTERM, as `ray job stop` sends) ends the run after the step in hand; a second one ends
    it at once."""
    loop = asyncio.get_running_loop()

    def first(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.default_int_handler)
        console.say("finishing the step in hand, then saving; again to stop at once")
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first, number)
