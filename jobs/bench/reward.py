"""`zeroth bench reward`: what a small reward model learns from real pairs, on problems that it has not seen.

A tokenizer, a base model, an SFT checkpoint and a reward model are made from the training side alone, by the commands'
own code. Problems are split by a hash of their prompt into folds; each is held out once, by a model of its own. The
rival is the better of two rules of thumb, "the longer" and "the shorter".
"""

from __future__ import annotations

import gzip
import json
import random
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import config, console
from jobs.bench import record
from jobs.config import PretrainRecipe, RecipeError, RewardModelRecipe, SftRecipe
from jobs.options import Out

MODEL = {
    "hidden_size": 96, "intermediate_size": 256, "moe_intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "kv_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 24,
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    "initializer_range": 0.03, "max_position_embeddings": 768,
}  # fmt: skip
BASE_STEPS, SFT_STEPS, BATCH = 240, 60, 32
RESAMPLES = 2000

Line = Mapping[str, Any]


def command(
    pairs: Annotated[Path, typer.Option(help="JSONL, or its gzip, of prompt, chosen and rejected.")],
    work: Annotated[Path, typer.Option(help="Where the models are made; an unfinished run goes on.")],
    folds: Annotated[int, typer.Option(min=2, help="Parts that the problems are split into.")] = 5,
    used: Annotated[int, typer.Option(min=1, help="How many of the parts are held out in turn.")] = 1,
    out: Out = None,
) -> None:
    """Train reward models on real pairs and judge them on problems they have not seen."""
    lines = read(pairs)
    judged: list[tuple[Line, float, float]] = []
    started = time.monotonic()
    for fold in range(used):
        held_out = [line for line in lines if fold_of(line, folds) == fold]
        train = [line for line in lines if fold_of(line, folds) != fold]
        console.say(f"fold {fold}: {len(train)} pairs to learn from, {len(held_out)} held out")
        judged += scored(trained(train, held_out, work / f"fold-{fold}"), held_out)
    result = {"pairs": pairs.name, "folds": folds, "used": used, **figures(judged)}
    record.emit(record.stamped({**result, "seconds": time.monotonic() - started}), out)


def read(path: Path) -> list[Line]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file of pairs") from None


def fold_of(line: Line, folds: int) -> int:
    return zlib.crc32(line["prompt"].encode()) % folds


def trained(train: Sequence[Line], held_out: Sequence[Line], folder: Path) -> Path:
    """The reward model's folder. It sees each pair once, as R1's did."""
    from jobs import pretrain, reward_model, sft

    folder.mkdir(parents=True, exist_ok=True)
    answers = [{"prompt": line["prompt"], "response": line["chosen"]} for line in train]
    texts = [{"text": line["prompt"] + text} for line in train for text in (line["chosen"], line["rejected"])]
    for name, rows in (("texts", texts), ("answers", answers), ("train", train), ("held_out", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common, steps = {"threads": 1}, max(1, len(train) // BATCH)
    base = config.build(
        {
            "run": {"dir": str(folder / "base")},
            "data": {"documents": str(folder / "texts.jsonl"), "vocab_size": 1024},
            "model": MODEL,
            "train": {"steps": BASE_STEPS, "batch_documents": 16, "sequence_tokens": 512, **common},
            "optimizer": {"lr": 3e-3, "warmup_steps": 20, "decay_steps": BASE_STEPS},
        },
        PretrainRecipe,
        "bench",
    )
    tuned = {
        "run": {"dir": str(folder / "sft")},
        "base": str(folder / "base" / "checkpoints" / f"step-{BASE_STEPS}"),
        "data": {"train": str(folder / "answers.jsonl"), "template": "{prompt}"},
        "train": {"steps": SFT_STEPS, "batch_samples": 16, "sequence_tokens": 768, **common},
        "optimizer": {"lr": 1e-3, "warmup_steps": 10, "decay_steps": SFT_STEPS},
    }
    judge = {
        **tuned,
        "run": {"dir": str(folder / "reward")},
        "base": str(folder / "sft" / "checkpoints" / f"step-{SFT_STEPS}"),
        "data": {
            "train": str(folder / "train.jsonl"), "held_out": str(folder / "held_out.jsonl"), "template": "{prompt}"
        },
        "train": {"steps": steps, "batch_samples": BATCH, "sequence_tokens": 768, **common},
        "optimizer": {"lr": 5e-4, "warmup_steps": 10, "decay_steps": steps, "weight_decay": 0.1},
        "evaluate": {"every": steps},
    }  # fmt: skip
    stages: list[tuple[Any, Any]] = [
        (pretrain.train, base),
        (sft.train, config.build(tuned, SftRecipe, "bench")),
        (reward_model.train, config.build(judge, RewardModelRecipe, "bench")),
    ]
    for train_stage, recipe in stages:
        made: Path = recipe.run.dir / "checkpoints" / f"step-{recipe.train.steps}"
        if not made.exists():
            made = train_stage(recipe, resume=recipe.run.dir.exists())
    return made


def scored(folder: Path, lines: Sequence[Line]) -> list[tuple[Line, float, float]]:
    """Each pair with the scores of its two answers; pairs that do not fit into the model are left out."""
    from model.reward import RewardModel

    model = RewardModel(folder)
    columns = [model.scores([(line["prompt"], line[name]) for line in lines]) for name in ("chosen", "rejected")]
    return [(line, a, b) for line, a, b in zip(lines, *columns, strict=True) if a is not None and b is not None]


def figures(judged: Sequence[tuple[Line, float, float]]) -> dict[str, Any]:
    """Accuracy with Wilson's interval, and with one that resamples whole problems, since a problem's pairs are
    alike."""
    from rl.preferences import wilson

    by_problem: dict[str, list[float]] = {}
    for line, chosen, rejected in judged:
        by_problem.setdefault(line["prompt"], []).append(float(chosen > rejected) + 0.5 * (chosen == rejected))
    right, count = sum(map(sum, by_problem.values())), len(judged)
    longer = sum(len(line["chosen"]) > len(line["rejected"]) for line, _, _ in judged) / count
    shorter = sum(len(line["chosen"]) < len(line["rejected"]) for line, _, _ in judged) / count
    rng, groups = random.Random(0), list(by_problem.values())
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(groups, k=len(groups))
        means.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    means.sort()
    return {
        "problems": len(groups),
        "held_out_pairs": count,
        "accuracy": right / count,
        "interval_wilson": wilson(right, count),
        "interval_by_problem": (means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]),
        "accuracy_of_length": max(longer, shorter),
    }
