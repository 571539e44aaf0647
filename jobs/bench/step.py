"""`zeroth bench step`: a whole GRPO step (sampling, scoring, update) beside TRL's `GRPOTrainer`.

Both train the same weights on the same prompts with the same reward, numbers of samples and of new tokens, on the same
cores. The model never ends a sample early, so that both sample the same number of tokens. Ours is what `zeroth grpo`
runs: the pipeline with a trainer and rollout workers placed by Ray, once with lag 0 (a step is sampled from the weights
that it updates, as TRL's is) and once with the default lag 1 (the next step is sampled meanwhile).

All are started, and then timed in turns of a few steps, because a host's speed may change within minutes: a ratio is
the median over the rounds of TRL's turn to ours in the same round. Who is not timed waits and computes nothing.
A step's time is that from one step's end to the next one's.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import config, console
from jobs.config import Precision, RecipeError
from jobs.options import AsJson, Out

if TYPE_CHECKING:
    from jobs.cluster import Cluster, RemoteEngine, RemoteTrainer

PROMPTS, SAMPLES, NEW_TOKENS = 16, 8, 48
LR = 1e-5
TURN = 4
"""Timed steps of a turn."""
WARM_UP = 2
"""Steps before them, of every turn."""
RIVAL = "TRL GRPOTrainer"
Steps = list[tuple[float, int]]
"""Seconds and sampled tokens of each."""


def command(
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each, rounded up to whole turns.")] = 16,
    threads: Annotated[int, typer.Option(min=1)] = len(os.sched_getaffinity(0)),
    gpu: Annotated[bool, typer.Option("--gpu", help="A training step of a 3B model on a GPU instead.")] = False,
    sequences: Annotated[
        int | None, typer.Option(min=1, help="With --gpu: sequences of 2,048 tokens a trainer, 16 by default.")
    ] = None,
    trainers: Annotated[int | None, typer.Option(min=1, help="With --gpu: so many beside one, one a GPU.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """A GRPO step beside TRL's on the same model, prompts and lengths, or a training step beside transformers'."""
    from rich.table import Table

    from jobs.bench import record, training
    from jobs.bench import trainers as several

    if not gpu and (sequences or trainers):
        raise RecipeError("--sequences and --trainers are of the step on a GPU: give --gpu as well")
    sequences, trainers = sequences or 16, trainers or 1
    if gpu and trainers > 1:
        log = record.Log(record.stamped({}), out)
        several.measure(sequences, 2048, steps, trainers, log)
        results = log.results
    else:
        results = record.stamped(training.measure(sequences, 2048, steps) if gpu else measure(steps, threads))
    if as_json or out:
        record.emit(results, out)
    if gpu:
        console.console.print((several if trainers > 1 else training).table(results))
        return
    table = Table("GRPO step", "seconds (median)", "tokens a step", "times TRL's speed", "by round")
    for name, row in results["steps"].items():
        spread = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
        table.add_row(name, f"{row['seconds']:.3f}", f"{row['tokens']:.0f}", f"{row['ratio']:.2f}", spread)
    console.console.print(table)


def measure(steps: int, threads: int) -> dict[str, Any]:
    try:
        import trl  # noqa: F401
    except ImportError:
        raise RecipeError("zeroth bench step needs its rival: pip install 'zeroth[rivals]'") from None
    import torch

    from jobs import cluster

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prompts = make_model(folder)
        precisions: tuple[Precision, ...] = ("fp32", "fp8")
        with cluster.connect(None, 6 * threads + 4) as ray:
            sides = {
                f"zeroth, lag {lag}, {precision} rollouts": ours(ray, folder, prompts, threads, lag, precision)
                for lag in (0, 1)
                for precision in precisions
            }
            sides[RIVAL] = theirs(folder, prompts)
            for turn in sides.values():
                turn()  # the first one of all finds cold caches and memory not given out yet
            rounds = [{name: turn()[WARM_UP:] for name, turn in sides.items()} for _ in range(-(-steps // TURN))]
    return {
        "shape": {"prompts": PROMPTS, "samples": SAMPLES, "new_tokens": NEW_TOKENS, "threads": threads},
        "steps": {name: summary(name, rounds) for name in sides},
    }


def make_model(folder: Path) -> list[str]:
    """Writes a checkpoint of 4 layers, hidden 128, 8 experts, top-2, and returns the prompts."""
    import torch

    from model import checkpoint
    from model.config import ModelConfig
    from model.tokenizer import BEGIN, END, train
    from model.transformer import build

    prompts = [f"User: What is {a}+{a * 3}? Assistant:" for a in range(11, 11 + PROMPTS)]
    tokenizer = train(prompts * 2, 512)
    config = ModelConfig(
        vocab_size=512, initializer_range=0.02, bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos,
        max_position_embeddings=256,
    )  # fmt: skip
    model = build(config, seed=0)
    with torch.no_grad():
        # The first dimension is the same for every token and speaks against the end token alone.
        model.embed_tokens.weight[:, 0] = 0.2
        model.lm_head.weight[tokenizer.eos] = 0.0
        model.lm_head.weight[tokenizer.eos, 0] = -10.0
    checkpoint.save(model, tokenizer, folder)
    from transformers import PreTrainedTokenizerFast

    path = str(folder / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=path, eos_token=END, pad_token=BEGIN).save_pretrained(folder)
    return prompts


def digits(text: str) -> float:
    """The reward of both: the share of digits, a function too cheap to matter."""
    return sum(c.isdigit() for c in text) / max(1, len(text))


def ours(
    ray: Cluster, folder: Path, prompts: Sequence[str], threads: int, lag: int, precision: Precision
) -> Callable[[], Steps]:
    """With lag 0 trainer and rollout workers take turns and have all threads; with lag 1 they share them, and the
    trainer takes the rollout worker's from the first product on, forward or backward, that finds it idle."""
    recipe = config.GrpoRecipe(
        base=folder,
        run=config.RunTable(dir=folder / "run", checkpoint_every=0),
        data=config.DataTable(train=folder),
        train=config.TrainTable(steps=WARM_UP + TURN),
        optimizer=config.OptimizerTable(lr=LR),
        rollout=config.RolloutTable(groups_per_step=PROMPTS, samples_per_group=SAMPLES, lag=lag, max_tokens=NEW_TOKENS),
        loss=config.LossTable(kl=0.0),
        precision=config.PrecisionTable(rollout=precision),
        cluster=config.ClusterTable(trainer_threads=1 if lag else threads, rollout_workers=1 if lag else threads),
    )
    trainer = ray.trainer(recipe)
    engine = ray.engine(recipe, trainer)
    return lambda: asyncio.run(run_pipeline(recipe, prompts, trainer, engine))


async def run_pipeline(
    recipe: config.GrpoRecipe, prompts: Sequence[str], trainer: RemoteTrainer, engine: RemoteEngine
) -> Steps:
    """A pipeline from its start to its end, when nothing of it is being computed any more."""
    from jobs import cluster, parts
    from model import checkpoint
    from rewards import Sample, Score
    from rl.journal import Journal
    from rl.pipeline import Pipeline
    from rl.problems import Draw, Problem, Stream
    from rl.rollout import Rollouts

    class Digits:
        async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
            return [Score(digits(sample.response)) for sample in samples]

        async def close(self) -> None: ...

    _, tokenizer = checkpoint.shape(recipe.base)
    problems = [Problem(str(i), prompt, "digits", {"prompt": prompt}) for i, prompt in enumerate(prompts)]
    settings = parts.rollout_settings(recipe)
    ended = [(time.perf_counter(), 0)]

    def encode(draw: Draw) -> tuple[int, ...]:
        return tuple(tokenizer.encode(str(draw.problem.prompt)))

    def report(step: int, metrics: dict[str, float]) -> None:
        ended.append((time.perf_counter(), int(metrics["tokens_sampled"])))

    with tempfile.TemporaryDirectory() as run:
        await Pipeline(
            Rollouts(Stream(problems, recipe.run.seed), encode, engine, Digits(), settings), trainer, engine.publish,
            Journal(Path(run), 1), parts.pipeline_settings(recipe), report=report,
        ).run()  # fmt: skip
    for actor in engine.actors:
        await cluster.inside(actor, lambda _: None)  # behind the wave that was in flight
    return [(now - before, tokens) for (before, _), (now, tokens) in itertools.pairwise(ended)]


def theirs(folder: Path, prompts: Sequence[str]) -> Callable[[], Steps]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    timed: Steps = []
    tokens = 0

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        nonlocal tokens
        tokens = sum(len(ids) for ids in completion_ids)
        return [digits(text) for text in completions]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            timed.append((time.perf_counter() - self.started, tokens))

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(folder / "trl"), per_device_train_batch_size=PROMPTS * SAMPLES, num_generations=SAMPLES,
            max_completion_length=NEW_TOKENS, max_steps=WARM_UP + TURN, learning_rate=LR, beta=0.0,
            use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_strategy="no",
            gradient_checkpointing=False, disable_tqdm=True, lr_scheduler_type="constant",
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # standard output is for the JSON

    def turn() -> Steps:
        timed.clear()
        trainer.train()
        return list(timed)

    return turn


def summary(name: str, rounds: Sequence[dict[str, Steps]]) -> dict[str, float]:
    """One side's steps over all rounds, and by round how many times as fast as the rival's they are."""
    steps = list(itertools.chain.from_iterable(turns[name] for turns in rounds))
    seconds = [s for s, _ in steps]
    ratios = [median_seconds(turns[RIVAL]) / median_seconds(turns[name]) for turns in rounds]
    return {
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "tokens": statistics.fmean(n for _, n in steps),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def median_seconds(steps: Steps) -> float:
    return statistics.median(seconds for seconds, _ in steps)
