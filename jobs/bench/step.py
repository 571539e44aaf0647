"""`zeroth bench step`: a whole GRPO step (sampling, scoring, update) beside TRL's `GRPOTrainer`.

Both train the same weights on the same prompts with the same reward, numbers of samples and of new tokens, in turn, in
one process, with the same threads. The model never ends a sample early, so that both sample the same number of tokens.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import console
from jobs.config import Precision, RecipeError

PROMPTS, SAMPLES, NEW_TOKENS = 16, 8, 48
LR = 1e-5
WARM_UP = 2


def command(
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each.")] = 10,
    threads: Annotated[int, typer.Option(min=1)] = len(os.sched_getaffinity(0)),
    out: Annotated[Path | None, typer.Option(help="Also write the JSON there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")] = False,
) -> None:
    """A GRPO step beside TRL's on the same model, prompts and lengths."""
    from rich.table import Table

    from jobs.bench import record

    results = record.stamped(measure(steps, threads))
    if as_json or out:
        record.emit(results, out)
    table = Table("GRPO step", "seconds (median)", "tokens a step", "times TRL's speed")
    for name, row in results["steps"].items():
        table.add_row(name, f"{row['seconds']:.3f}", f"{row['tokens']:.0f}", f"{row['ratio']:.2f}")
    console.console.print(table)


def measure(steps: int, threads: int) -> dict[str, Any]:
    try:
        import trl  # noqa: F401
    except ImportError:
        raise RecipeError("zeroth bench step needs its rival: pip install 'zeroth[rivals]'") from None
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prompts = make_model(folder)
        timed = {
            "zeroth, fp32 rollouts": ours(folder, prompts, steps, "fp32"),
            "zeroth, fp8 rollouts": ours(folder, prompts, steps, "fp8"),
            "TRL GRPOTrainer": theirs(folder, prompts, steps),
        }
    base = timed["TRL GRPOTrainer"]["seconds"]
    rows = {name: {**row, "ratio": base / row["seconds"]} for name, row in timed.items()}
    return {
        "shape": {"prompts": PROMPTS, "samples": SAMPLES, "new_tokens": NEW_TOKENS, "threads": threads},
        "steps": rows,
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


def ours(folder: Path, prompts: Sequence[str], steps: int, precision: Precision) -> dict[str, float]:
    import torch

    from model import checkpoint
    from model.engine import Sampling
    from model.native import NativeEngine
    from model.policy import OptimizerSettings, Policy
    from rewards import Sample, Score
    from rl.loss import LossSettings
    from rl.problems import Draw, Problem
    from rl.rollout import RolloutSettings, rollout
    from rl.step import StepSettings, step

    class Digits:
        async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
            return [Score(digits(sample.response)) for sample in samples]

        async def close(self) -> None: ...

    model, tokenizer = checkpoint.load(folder)
    policy = Policy(model, tokenizer, OptimizerSettings(lr=LR))
    engine = NativeEngine(model.c, tokenizer)
    settings = StepSettings(loss=LossSettings(kl=0.0))
    sampling = RolloutSettings(SAMPLES, Sampling(max_tokens=NEW_TOKENS))
    problems = [Problem(str(i), prompt, "digits", {"prompt": prompt}) for i, prompt in enumerate(prompts)]

    async def one(epoch: int) -> tuple[float, int]:
        started = time.perf_counter()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a rollout worker has by default: decoding's small products gain nothing from two
        draws = [Draw(problem, epoch) for problem in problems]
        groups = await rollout(
            draws, lambda draw: tuple(tokenizer.encode(str(draw.problem.prompt))), engine, Digits(), sampling
        )
        torch.set_num_threads(threads)
        step(policy, groups, settings)
        await engine.publish(policy.publish(precision))
        return time.perf_counter() - started, sum(len(c.token_ids) for g in groups for c in g.completions)

    async def run() -> list[tuple[float, int]]:
        await engine.publish(policy.publish(precision))
        return [await one(epoch) for epoch in range(WARM_UP + steps)]

    return summary(asyncio.run(run())[WARM_UP:])


def theirs(folder: Path, prompts: Sequence[str], steps: int) -> dict[str, float]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    timed: list[tuple[float, int]] = []
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

    with tempfile.TemporaryDirectory() as output:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=output, per_device_train_batch_size=PROMPTS * SAMPLES, num_generations=SAMPLES,
                max_completion_length=NEW_TOKENS, max_steps=WARM_UP + steps, learning_rate=LR, beta=0.0,
                use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_strategy="no",
                gradient_checkpointing=False, disable_tqdm=True, lr_scheduler_type="constant",
            ),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    return summary(timed[WARM_UP:])


def summary(timed: Sequence[tuple[float, int]]) -> dict[str, float]:
    seconds = [s for s, _ in timed]
    return {
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "tokens": statistics.fmean(n for _, n in timed),
    }
